package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/dspex/dspex-sidecar/internal/packet"
)

// receive handles what the keeper says until it is gone, and then settles everything.
func (c *Client) receive() {
	defer close(c.ended)
	for {
		var m message
		files, err := c.channel.Receive(&m)
		packet.CloseFiles(files) // a keeper sends none
		if err != nil {
			c.end(err)
			return
		}
		c.handle(&m)
	}
}

func (c *Client) handle(m *message) {
	switch {
	case m.Ready != nil:
		close(c.ready)
	case m.Answer != nil:
		c.answered(m.ID, m.Answer)
	case m.Exited != nil:
		c.mu.Lock()
		p := c.processes[m.Exited.PID]
		delete(c.processes, m.Exited.PID)
		c.mu.Unlock()
		if p != nil {
			p.settle(ExitStatus{
				Code:   m.Exited.Code,
				Signal: syscall.Signal(m.Exited.Signal),
				Core:   m.Exited.Core,
				MaxRSS: m.Exited.MaxRSS,
			})
		}
	case m.Cleared != nil:
		c.log.Info("left-over processes killed", "pid", m.Cleared.PID, "count", m.Cleared.Count)
	case m.Trouble != nil:
		c.log.Warn("keeper has trouble", "keeper_pid", c.keeper.Pid, "error", m.Trouble.Text)
	}
}

// answered settles a request. The process is known from here on, since its end may be the next message.
func (c *Client) answered(id uint64, a *answer) {
	w := c.take(id)
	if w == nil {
		return
	}
	if a.PID == 0 {
		w.settled <- outcome{err: &StartError{Path: a.Path, Reason: a.Reason, Errno: syscall.Errno(a.Errno)}}
		return
	}
	p := &Process{client: c, pid: a.PID, done: make(chan struct{})}
	c.mu.Lock()
	c.processes[a.PID] = p
	p.killed.Store(c.closing)
	abandoned := w.abandoned
	c.mu.Unlock()
	w.settled <- outcome{process: p}
	if abandoned {
		if err := p.Kill(); err != nil {
			c.log.Warn("process that nobody waits for not killed", "pid", a.PID, "error", err)
		}
	}
}

// end settles everything after the keeper's end. A keeper that ended before its work was done leaves its children to
// this process: they are killed first, so that a process reported as done is.
func (c *Client) end(cause error) {
	if !errors.Is(cause, io.EOF) {
		c.log.Error("keeper is killed", "keeper_pid", c.keeper.Pid, "error", cause)
		_ = c.keeper.Kill() // an error means that it has ended
	}
	how := "unknown"
	state, err := c.keeper.Wait() // an error means that somebody else took the status: it has ended
	if err == nil {
		how = state.String()
	}
	c.mu.Lock()
	c.over = true
	unexpected := !c.closing
	processes, waiting := c.processes, c.waiting
	c.processes, c.waiting = nil, nil
	c.mu.Unlock()
	_ = c.channel.Close() // nobody sends on it any more

	if unexpected {
		c.log.Error("keeper ended", "keeper_pid", c.keeper.Pid, "status", how, "processes", len(processes))
	}
	if c.wasReady() && (err != nil || !state.Success()) {
		ctx, cancel := context.WithTimeout(context.Background(), clearTimeout)
		if err := ClearChildren(ctx); err != nil {
			c.log.Error("processes of the keeper are left", "error", err)
		}
		cancel()
	}
	for _, w := range waiting {
		w.limit.Stop()
		w.settled <- outcome{err: fmt.Errorf("%w: %s", ErrLost, how)}
	}
	for _, p := range processes {
		p.settle(ExitStatus{Lost: true})
	}
	if unexpected {
		close(c.lost)
	}
}

func (c *Client) wasReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}
