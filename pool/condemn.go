package pool

import (
	"context"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/closed"
	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// stacksWait is how long a worker that is about to be killed is waited for, so that it can say where it is.
	stacksWait = 200 * time.Millisecond
	// probeWait is how long a worker may take to answer a ping before it counts as one that can do nothing any more.
	probeWait = time.Second
	// stacksMost is how much of that goes into an error.
	stacksMost = 8 << 10
)

// condemnLocked makes a worker end that does not do as it should: it takes no new call, and those in it get a grace time, unless all of
// them were told to stop. Then it is killed.
func (p *Pool) condemnLocked(w *Worker, end endReason, why string, grace time.Duration, batch *wire.Batch) {
	switch {
	case w.state == workerReady:
		w.setStateLocked(workerDraining)
	case w.state != workerDraining || w.why != "":
		return
	}
	w.why, w.end, w.quiet = why, end, make(chan struct{})
	if grace <= p.cfg.Settings.StopReport { // how the calls that were told to stop ended will be known soon
		for _, c := range w.calls {
			if c.state == callStopping && !c.told {
				c.settleBy = time.Now().Add(endKnownAfter(grace))
				p.timeLocked(c)
			}
		}
	}
	w.settleDownLocked(time.Now())
	p.moveWaitingLocked(w, batch)
	p.ensureLocked()
	p.changedLocked()
	p.tasks.Go(func() { p.execute(w, why, grace) })
}

// endKnownAfter is when at the latest the end of a worker is known that is condemned now, if the machine has time for it.
func endKnownAfter(grace time.Duration) time.Duration {
	return grace + stacksWait + exitWait + 50*time.Millisecond
}

// execute kills a condemned worker when its time has come, after it was asked for its stacks.
func (p *Pool) execute(w *Worker, why string, grace time.Duration) {
	if !p.grantGrace(w, grace) {
		why += "; it answers nothing (C code holds the interpreter lock), so the calls beside that one had no time to finish"
		p.mu.Lock()
		w.why = why
		p.mu.Unlock()
	}
	if closed.Is(w.gone) {
		return
	}
	w.log.Warn("killing worker", "reason", why)
	stacks := w.askStacks()
	p.mu.Lock()
	w.stacks = stacks
	p.mu.Unlock()
	w.proc.Kill()
}

// grantGrace lets the calls of a condemned worker finish, those aside that were told to stop. It returns false where they cannot, since
// the worker does nothing else than what it is killed for.
func (p *Pool) grantGrace(w *Worker, grace time.Duration) bool {
	if grace <= 0 || closed.Is(w.quiet) {
		return true
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	if answered, asked := p.ping(w); asked && !p.await(w, answered, min(grace, probeWait)) &&
		!closed.Is(w.quiet) && !closed.Is(w.gone) && p.life.Err() == nil {
		return false
	}
	select {
	case <-w.quiet:
	case <-timer.C:
	case <-w.gone:
	}
	return true
}

// askStacks has the process say where each of its threads is; empty where it does not, or cannot.
func (w *Worker) askStacks() string {
	dumper, ok := w.proc.(Dumper)
	if !ok {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), stacksWait)
	defer cancel()
	return cutStacks(strings.Join(dumper.Stacks(ctx), "\n"))
}

// cutStacks keeps what goes into an error.
func cutStacks(stacks string) string {
	if len(stacks) > stacksMost {
		stacks = strings.ToValidUTF8(stacks[:stacksMost], "") + "\n…"
	}
	return stacks
}
