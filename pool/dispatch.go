package pool

import (
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// reportWait is how long a call that has been told to stop is waited for before its client is answered, so that the answer can say
// how the call ended.
const reportWait = 50 * time.Millisecond

// Submit takes a call in. From here on its handler is told what becomes of it.
func (f *Flow) Submit(batch *wire.Batch, c *Call) {
	p := f.pool
	p.mu.Lock()
	c.flow = f
	c.queued = time.Now()
	if err := p.refuseLocked(f, c); err != nil {
		p.failLocked(c, err)
		p.unlock(batch)
		return
	}
	p.commands++
	if f.serial {
		c.own() // it may be sent twice: its worker may hold an old state
	}
	if f.head == nil && f.ring == nil {
		f.pushLocked(c, false)
		p.offerLocked(f, batch)
	} else {
		f.pushLocked(c, false)
	}
	if c.state == callNew {
		c.own()
		c.setStateLocked(callQueued)
		p.makeRoomLocked()
		if c.state == callQueued {
			p.timeLocked(c)
		}
	}
	p.unlock(batch)
}

// refuseLocked says why a call is not admitted at all.
func (p *Pool) refuseLocked(f *Flow, c *Call) *wire.Error {
	switch {
	case f.dead != nil:
		return f.dead
	case p.draining && !c.Nested:
		return wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	case p.methods != nil && c.Local == nil && p.methods[string(c.Method)] == nil:
		return wire.Errorf(wire.CodeUnknownMethod, "no method %q", c.Method)
	case !c.Deadline.IsZero() && !c.queued.Before(c.Deadline):
		return wire.Errorf(wire.CodeDeadlineExceeded, "the deadline had passed when the call came").With("ended_by", "queue")
	}
	return nil
}

// makeRoomLocked sheds one call where more wait than may: the last of the flow that has most waiting, of the owner
// that has most.
func (p *Pool) makeRoomLocked() {
	if p.waiting <= p.cfg.Settings.QueueLimit {
		return
	}
	o, _ := p.shares.largest()
	f, _ := o.shares.largest()
	p.failLocked(f.tail, wire.Errorf(wire.CodeQueueFull, "%d calls wait in pool %s", p.waiting-1, p.cfg.Name).
		With("retry_after_ms", p.retryAfterLocked()))
}

// retryAfterLocked estimates when the queue will have been worked off.
func (p *Pool) retryAfterLocked() int64 {
	slots := 0
	for _, w := range p.workers {
		if w.state == workerReady {
			slots += p.cfg.Settings.Concurrency
		}
	}
	d := p.runTime * time.Duration(p.waiting+1) / time.Duration(max(slots, 1))
	return min(max(d.Milliseconds(), 10), 60_000)
}

// offerLocked sends the calls of f whose turn has come to workers, as far as slots are free, and else lets f wait in a ring.
func (p *Pool) offerLocked(f *Flow, batch *wire.Batch) {
	for f.ring == nil && f.readyLocked() {
		c := f.head
		if c.Local != nil {
			p.runLocalLocked(c)
			continue
		}
		w, err := p.workerForLocked(f)
		if err != nil {
			p.failLocked(c, err)
			continue
		}
		if w == nil {
			p.startCheckoutLocked(f, c)
			if f.pin != nil {
				f.pin.waiting.push(f)
			} else {
				p.waitingAny.push(f)
			}
			p.growLocked()
			return
		}
		p.dispatchLocked(w, c, batch)
	}
}

// startCheckoutLocked begins the wait for a slot, whose limit counts from here.
func (p *Pool) startCheckoutLocked(f *Flow, c *Call) {
	if !c.turn.IsZero() {
		return
	}
	s := &p.cfg.Settings
	c.turn = time.Now()
	wait := s.CheckoutTimeout
	if f.pin != nil && s.Pinning == PinSoft {
		wait = min(wait, s.SoftWait)
	}
	c.checkout = c.turn.Add(wait)
	if c.state == callQueued {
		p.timeLocked(c)
	}
}

// workerForLocked chooses a worker with a free slot: the one that the flow is pinned to, else the least loaded. It returns nil where
// the call has to wait.
func (p *Pool) workerForLocked(f *Flow) (*Worker, *wire.Error) {
	s := &p.cfg.Settings
	if f.pin != nil && f.pin.state != workerReady {
		f.unpinLocked()
	}
	if w := f.pin; w != nil {
		if w.freeLocked() > 0 && w.waiting.empty() {
			return w, nil
		}
		if s.Pinning == PinFailFast {
			return nil, wire.Errorf(wire.CodeSessionBusy, "%s, to which the session is pinned, has no free slot", w.id)
		}
		return nil, nil
	}
	if !p.waitingAny.empty() {
		return nil, nil
	}
	if w := p.leastLoadedLocked(); w != nil {
		return w, nil
	}
	return nil, p.noWorkersLocked()
}

func (p *Pool) leastLoadedLocked() *Worker {
	var best *Worker
	for _, w := range p.workers {
		if w.state != workerReady || w.freeLocked() == 0 {
			continue
		}
		if best == nil || len(w.calls) < len(best.calls) || len(w.calls) == len(best.calls) && w.pins < best.pins {
			best = w
		}
	}
	return best
}

// fillLocked gives a worker's free slots to those that wait: flows pinned to it and others take turns.
func (p *Pool) fillLocked(w *Worker, batch *wire.Batch) {
	for w.state == workerReady && w.freeLocked() > 0 {
		r := &w.waiting
		if r.empty() || w.lastPinned && !p.waitingAny.empty() {
			r = &p.waitingAny
		}
		if r.empty() {
			return
		}
		w.lastPinned = r == &w.waiting
		f := r.pop()
		if !f.readyLocked() {
			continue
		}
		if f.head.Local == nil {
			p.dispatchLocked(w, f.head, batch)
		}
		p.offerLocked(f, batch)
	}
}

// dispatchLocked takes the first call of its flow out of the queue and sends it to w.
func (p *Pool) dispatchLocked(w *Worker, c *Call, batch *wire.Batch) {
	f := c.flow
	m := p.methods[string(c.Method)]
	if m == nil {
		p.failLocked(c, wire.Errorf(wire.CodeUnknownMethod, "no method %q", c.Method))
		return
	}
	if err := m.fits(c, f.serial); err != nil {
		p.failLocked(c, err)
		return
	}
	c.method = m
	f.removeLocked(c)
	if f.serial {
		f.beginTurnLocked(c)
		f.pinLocked(w)
	}
	c.safe = m.RetrySafe || c.Meta.RetrySafe
	if c.safe {
		c.own()
	}
	c.setStateLocked(callRunning)
	c.worker, c.sent = w, time.Now()
	w.lastID++
	c.id = w.lastID
	w.calls[c.id] = c
	w.total++
	if c.timer > 0 || !c.Deadline.IsZero() {
		p.timeLocked(c)
	}
	meta := c.Meta
	meta.TimeoutMS, meta.RetrySafe = -1, false
	if !c.Deadline.IsZero() {
		meta.TimeoutMS = max(1, c.Deadline.Sub(c.sent).Milliseconds())
	}
	c.Handler.Dispatch(&Target{worker: w, batch: batch, Again: c.reruns+c.stale > 0, readOnly: m.ReadOnly}, &meta)
	var scratch [512]byte
	w.outbox.Append(batch, wire.AppendRequest(scratch[:0], c.id, c.Method, &meta), c.Params, c.Owned)
}

func (p *Pool) runLocalLocked(c *Call) {
	c.flow.removeLocked(c)
	if c.flow.serial {
		c.flow.beginTurnLocked(c)
	}
	c.setStateLocked(callRunning)
	c.told = true
	p.timeLocked(c)
	p.todo = append(p.todo, func(b *wire.Batch) { c.Local(b) })
}

// Cancel stops a call: err is what its client is told. A call that has been settled already is not touched.
func (p *Pool) Cancel(batch *wire.Batch, c *Call, err *wire.Error) {
	p.mu.Lock()
	switch c.state {
	case callQueued:
		p.failLocked(c, err.With("ended_by", "queue"))
		p.offerLocked(c.flow, batch)
	case callRunning:
		if c.worker != nil {
			p.stopLocked(c, err, false, batch)
		}
	case callNew, callStopping, callFinished:
	}
	p.unlock(batch)
}

// stopLocked tells a worker to stop a call. The client is told at once where it need not know how the call ended, else when the worker
// has answered, but soon.
func (p *Pool) stopLocked(c *Call, why *wire.Error, atOnce bool, batch *wire.Batch) {
	if c.state != callRunning || c.worker == nil {
		return
	}
	c.setStateLocked(callStopping)
	c.why = why
	now := time.Now()
	c.settleBy, c.killBy = now.Add(reportWait), now.Add(p.cfg.Settings.CancelGrace)
	var scratch [64]byte
	c.worker.outbox.Append(batch, wire.AppendCancel(scratch[:0], c.id, string(why.Code)), nil, false)
	if atOnce && !c.told {
		p.settleLocked(c, why)
	}
	p.timeLocked(c)
}

// Grant passes credit for a stream on to the worker that runs it.
func (p *Pool) Grant(batch *wire.Batch, c *Call, n uint32) {
	p.mu.Lock()
	if c.state == callRunning && c.worker != nil {
		var scratch [64]byte
		c.worker.outbox.Append(batch, wire.AppendCredit(scratch[:0], c.id, n), nil, false)
	}
	p.unlock(batch)
}

// State is where a call is, for people. The method is empty for what was not submitted.
func (p *Pool) State(c *Call) (method, state, worker string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.worker != nil {
		worker = c.worker.id
	}
	switch {
	case c.method != nil:
		method = c.method.Name
	case c.state == callQueued:
		method = string(c.Method)
	}
	return method, c.state.String(), worker
}

// failLocked settles and finishes a call that is at no worker.
func (p *Pool) failLocked(c *Call, err *wire.Error) {
	if c.state == callQueued || c.prev != nil || c.flow.head == c {
		if f := c.flow; f.ring != nil && f.head == c && c.next == nil {
			f.ring.remove(f)
		}
		c.flow.removeLocked(c)
	}
	c.setStateLocked(callFinished)
	p.timeLocked(c)
	told := c.told
	c.told = true
	p.errors++
	p.drainedLocked()
	p.todo = append(p.todo, func(b *wire.Batch) {
		if !told {
			c.Handler.Settle(b, &Result{Err: err, Meta: wire.ResponseMeta{QueueUS: time.Since(c.queued).Microseconds(), RunUS: -1}})
		}
		c.Handler.Finish(b)
	})
}

// settleLocked tells the client the outcome of a call that a worker still works on.
func (p *Pool) settleLocked(c *Call, err *wire.Error) {
	c.told = true
	p.errors++
	meta := wire.ResponseMeta{Worker: c.worker.id, QueueUS: c.sent.Sub(c.queued).Microseconds(), RunUS: time.Since(c.sent).Microseconds()}
	p.todo = append(p.todo, func(b *wire.Batch) { c.Handler.Settle(b, &Result{Err: err, Meta: meta}) })
}
