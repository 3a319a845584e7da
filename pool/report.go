package pool

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/closed"
	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// answerWait is how long a worker may take to say where its calls are. Its loop answers in far less, or is blocked.
	answerWait = 15 * time.Millisecond
	// liveStacksWait bounds what is asked of a process whose loop does not answer.
	liveStacksWait = 25 * time.Millisecond
)

// inquiry is a question to a worker: where are these calls?
type inquiry struct {
	answered chan struct{}     // closed with the answer, a refusal, or the worker's end
	stacks   map[uint64]string // set before that
	blocked  string            // where the loop is that did not answer in time
}

// of is where a call is, as far as it is known.
func (q *inquiry) of(c *Call) string {
	if closed.Is(q.answered) {
		return cutStacks(q.stacks[c.id])
	}
	return cutStacks(q.blocked)
}

// reportLocked has a call that goes on after its stop answered with where it is. Those of one worker whose time comes meanwhile are
// asked for together, and no worker is asked twice at a time.
func (p *Pool) reportLocked(c *Call) {
	w := c.worker
	c.settleBy = time.Time{}
	if w.why != "" { // it is being killed, and is asked by who does that
		p.settleLocked(c, c.pending(""))
		return
	}
	w.unreported = append(w.unreported, c)
	if !w.reporting {
		w.reporting = true
		p.tasks.Go(func() { p.report(w) })
	}
}

// report settles the calls of a worker that are to be answered with where they are, until there are none.
func (p *Pool) report(w *Worker) {
	for {
		goesOn := func(c *Call) bool { return c.state == callStopping && !c.told }
		p.mu.Lock()
		calls := w.unreported
		calls = slices.DeleteFunc(calls, func(c *Call) bool { return !goesOn(c) })
		w.unreported = nil
		w.reporting = len(calls) > 0
		ids := make([]uint64, len(calls))
		for i, c := range calls {
			ids[i] = c.id
		}
		p.mu.Unlock()
		if len(calls) == 0 {
			return
		}
		w.inquiry = p.inquire(w, ids, w.inquiry)
		var batch wire.Batch
		p.mu.Lock()
		for _, c := range calls {
			if !goesOn(c) {
				continue // it has stopped meanwhile, and how is known
			}
			p.settleLocked(c, c.pending(w.inquiry.of(c)))
			p.timeLocked(c)
		}
		p.unlock(&batch)
		batch.Flush()
	}
}

// pending is the outcome of a call that goes on.
func (c *Call) pending(stacks string) *wire.Error {
	err := c.why.With("ended_by", "pending").With("kill_in_ms", max(0, time.Until(c.killBy).Milliseconds()))
	if stacks != "" {
		err = err.With("stacks", stacks)
	}
	return err
}

// inquire asks a worker where calls are. Where its loop does not answer, the process is asked for all its stacks. A loop that has
// not got to the last question is blocked as it was.
func (p *Pool) inquire(w *Worker, calls []uint64, last *inquiry) *inquiry {
	if last != nil && !closed.Is(last.answered) {
		return last
	}
	q := &inquiry{answered: make(chan struct{})}
	if v := w.vitals(); v.State == 'T' || v.State == 't' || !p.askWhere(w, calls, q) || p.await(w, q.answered, answerWait) {
		return q
	}
	dumper, ok := w.proc.(Dumper)
	if !ok || p.life.Err() != nil || closed.Is(w.gone) {
		return q
	}
	ctx, cancel := context.WithTimeout(p.life, liveStacksWait)
	defer cancel()
	q.blocked = strings.Join(dumper.LiveStacks(ctx), "\n")
	return q
}

// askWhere sends the question; false where the worker hears nothing any more.
func (p *Pool) askWhere(w *Worker, calls []uint64, q *inquiry) bool {
	params, err := wire.Marshal(map[string]any{"calls": calls})
	if err != nil {
		return false
	}
	var batch wire.Batch
	defer batch.Flush()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !w.heardLocked() {
		return false
	}
	w.requestLocked(&batch, "sidecar.stacks", params, func(f *wire.Frame, err error) {
		var answer struct {
			Stacks []string `msgpack:"stacks"`
		}
		if err == nil && f.Error == nil && wire.Unmarshal(f.Payload, &answer) == nil && len(answer.Stacks) == len(calls) {
			q.stacks = make(map[uint64]string, len(calls))
			for i, id := range calls {
				q.stacks[id] = answer.Stacks[i]
			}
		}
		close(q.answered)
	})
	return true
}
