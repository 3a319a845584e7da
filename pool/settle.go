package pool

import (
	"bytes"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// Cancel stops a call: err is what its client is told. A call that has been settled is not touched, and one that is being stopped
// already, its deadline having passed say, keeps the reason that it was stopped for and the time that it has to stop.
func (p *Pool) Cancel(batch *wire.Batch, c *Call, err *wire.Error) {
	p.mu.Lock()
	switch c.state {
	case callQueued:
		p.failLocked(c, err.With("ended_by", "queue"))
		p.offerLocked(c.flow, batch)
	case callRunning:
		p.stopLocked(c, err, false, batch)
	case callNew, callStopping, callFinished:
	}
	p.unlock(batch)
}

// stopLocked tells a worker to stop a call. The client is told at once where it need not know how the call ended, else when the worker
// has answered, but soon. What is Local, or not running, is not stopped.
func (p *Pool) stopLocked(c *Call, why *wire.Error, atOnce bool, batch *wire.Batch) {
	if c.state != callRunning || c.worker == nil {
		return
	}
	c.setStateLocked(callStopping)
	c.why = why
	now := time.Now()
	c.stopped, c.killBy = now, now.Add(p.cfg.Settings.CancelGrace)
	c.settleBy = now.Add(p.stopReport())
	if p.cfg.Settings.Once { // the grace is until the process is gone, and before that it says where it is
		c.worker.endBy = c.killBy
		c.killBy = c.killBy.Add(-min(stacksWait, p.cfg.Settings.CancelGrace/2))
	}
	var scratch [64]byte
	c.worker.outbox.Append(batch, wire.AppendCancel(scratch[:0], c.id, string(why.Code)), nil, false)
	if atOnce {
		p.settleLocked(c, why)
	}
	p.timeLocked(c)
}

// StopReport is how long after a deadline has passed a client may have to wait for the answer that tells how its call ended.
func (p *Pool) StopReport() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopReport()
}

// stopReport is how long after a stop the client waits for the step that ends the call. Where that is to be the last one, the others in the
// worker have their grace time before it.
func (p *Pool) stopReport() time.Duration {
	s := &p.cfg.Settings
	if s.StopReport < s.CancelGrace {
		return s.StopReport
	}
	return s.CancelGrace + endKnownAfter(s.CancelGrace)
}

// Grant passes credit for a stream on to the worker that runs it. What is granted before goes with the request.
func (p *Pool) Grant(batch *wire.Batch, c *Call, n uint32) {
	p.mu.Lock()
	if c.state == callNew || c.state == callQueued || c.state == callRunning && !c.touched { // it may be sent, or sent again
		c.Meta.Stream = uint32(min(uint64(c.Meta.Stream)+uint64(n), wire.MaxCredit))
	}
	if c.state == callRunning && c.worker != nil {
		var scratch [64]byte
		c.worker.outbox.Append(batch, wire.AppendCredit(scratch[:0], c.id, n), nil, false)
	}
	p.unlock(batch)
}

// settleLocked tells the client the outcome of a call that a worker still works on.
func (p *Pool) settleLocked(c *Call, err *wire.Error) {
	c.told, c.telling = true, true
	p.errors++
	r := &Result{Err: err, Meta: c.metaAt(c.worker)}
	p.todo = append(p.todo, func(b *wire.Batch) {
		c.Handler.Settle(b, r)
		p.settled(b, c)
	})
}

// settled notes that Settle has returned. Where the call has ended meanwhile, its Finish was left to who calls this.
func (p *Pool) settled(batch *wire.Batch, c *Call) {
	p.mu.Lock()
	c.telling = false
	ended := c.state == callFinished
	p.mu.Unlock()
	if ended {
		c.Handler.Finish(batch, c.late)
		p.closeOne()
	}
}

// finishLocked ends a call that no worker works on any more: r is its outcome, unless it has been told one.
func (p *Pool) finishLocked(c *Call, r *Result) {
	p.tellLocked(c, p.endLocked(c, r.Err != nil), r)
}

// tellLocked lets the handler of a call that has ended know, when the lock is released.
func (p *Pool) tellLocked(c *Call, told bool, r *Result) {
	if c.telling { // in another goroutine, which goes on with Finish
		c.late = r.Meta.Usage
		return
	}
	p.todo = append(p.todo, func(b *wire.Batch) {
		late := r.Meta.Usage
		if !told {
			c.Handler.Settle(b, r)
			late = nil
		}
		c.Handler.Finish(b, late)
		p.closeOne()
	})
}

// endLocked takes a call out of the pool's books, and says whether its client has been told an outcome. Who calls it calls the
// handler, and then closeOne.
func (p *Pool) endLocked(c *Call, failed bool) (told bool) {
	c.setStateLocked(callFinished)
	p.timeLocked(c)
	told, c.told = c.told, true
	if failed && !told && c.admitted {
		p.errors++
	}
	return told
}

// closeOne notes that one of what a drain waits for is over: a call whose handler knows its end, or a turn.
func (p *Pool) closeOne() {
	if p.open.Add(-1) == 0 && p.draining.Load() {
		p.mu.Lock()
		p.changedLocked()
		p.mu.Unlock()
	}
}

// failLocked ends a call that is at no worker.
func (p *Pool) failLocked(c *Call, err *wire.Error) {
	if c.state == callQueued {
		c.flow.dropLocked(c)
	}
	p.finishLocked(c, &Result{Err: err, Meta: wire.ResponseMeta{QueueUS: time.Since(c.queued).Microseconds(), RunUS: -1}})
}

// loseLocked ends a call whose worker died.
func (p *Pool) loseLocked(c *Call, w *Worker, reason string) {
	err := wire.Errorf(wire.CodeWorkerLost, "worker %s died in the call: %s", w.id, reason).
		With("worker", w.id).With("reason", reason).With("maybe_executed", true)
	if c.waits {
		err = wire.Errorf(wire.CodeWorkerLost, "worker %s died when it took the session's state, before the call began: %s", w.id, reason).
			With("worker", w.id).With("reason", reason).With("maybe_executed", false)
	}
	switch {
	case c.state == callStopping:
		err = c.why.With("ended_by", "kill")
		p.noteStopLocked(c, w, "kill")
	case c.flow.lost != nil:
		err = c.flow.lost.With("worker", w.id)
	}
	if w.stacks != "" {
		err = err.With("stacks", w.stacks)
	}
	p.finishLocked(c, &Result{Err: err, Meta: c.metaAt(w)})
}

// finishStoppedLocked ends a call that was told to stop and has been answered. Whatever the answer, its client is told why it
// was stopped, and how it ended.
func (p *Pool) finishStoppedLocked(c *Call, r *Result) {
	endedBy := any("answer") // it had its result before the cancel reached it
	if r.Err != nil && r.Err.Details["ended_by"] != nil {
		endedBy = r.Err.Details["ended_by"]
	}
	p.noteStopLocked(c, c.worker, endedBy)
	out := Result{Err: c.why.With("ended_by", endedBy), Meta: r.Meta}
	out.Meta.App, out.Meta.Usage = nil, bytes.Clone(r.Meta.Usage) // it is not settled in the reader's turn
	p.finishLocked(c, &out)
}

// noteStopLocked has the log say what ended a call whose client was answered before that.
func (p *Pool) noteStopLocked(c *Call, w *Worker, endedBy any) {
	if !c.told {
		return
	}
	after := time.Since(c.stopped).Milliseconds()
	p.todo = append(p.todo, func(*wire.Batch) {
		w.log.Warn("a call that went on after its stop has ended", "connection", c.Connection, "request_id", c.Request, "worker_request", c.id,
			"method", c.method.Name, "ended_by", endedBy, "after_ms", after)
	})
}

// metaAt is what the sidecar knows of a call's time at a worker that has not answered.
func (c *Call) metaAt(w *Worker) wire.ResponseMeta {
	return wire.ResponseMeta{Worker: w.id, QueueUS: c.sent.Sub(c.queued).Microseconds(), RunUS: time.Since(c.sent).Microseconds()}
}
