package pool

import (
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// Submit takes a call in. From here on its handler is told what becomes of it.
func (f *Flow) Submit(batch *wire.Batch, c *Call) {
	p := f.pool
	p.mu.Lock()
	c.flow = f
	c.queued = time.Now()
	p.open.Add(1)
	if err := p.refuseLocked(f, c); err != nil {
		p.failLocked(c, err)
		p.unlock(batch)
		return
	}
	p.commands++
	c.admitted = true
	if f.serial {
		c.own() // it may be sent twice: its worker may hold an old state
	}
	c.setStateLocked(callQueued)
	f.submitted++
	c.number = f.submitted
	f.pushLocked(c)
	switch {
	case f.head == c:
		p.offerLocked(f, batch)
	case !f.serial: // its turn has come, as that of all before it in the flow
		p.startCheckoutLocked(c)
	}
	if c.state == callQueued {
		c.own()
		p.timeLocked(c)
		p.makeRoomLocked()
	}
	p.unlock(batch)
}

// refuseLocked says why a call is not admitted at all.
func (p *Pool) refuseLocked(f *Flow, c *Call) *wire.Error {
	switch {
	case f.dead != nil:
		return f.dead
	case f.lost != nil && c.Local == nil:
		return f.lost
	case p.closing, p.draining.Load() && !c.Nested:
		return wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	case c.Local == nil && !p.knownLocked(c.Method):
		return wire.Errorf(wire.CodeUnknownMethod, "no method %q", c.Method)
	case !c.Deadline.IsZero() && !c.queued.Before(c.Deadline):
		return wire.Errorf(wire.CodeDeadlineExceeded, "the deadline had passed when the call came").With("ended_by", "queue")
	}
	if most := p.cfg.Settings.MaxInFlight; most > 0 && f.serial && f.inFlightLocked() >= most {
		return wire.Errorf(wire.CodeQueueFull, "%d calls of this session are in flight, the most that sessions.max_in_flight allows", most).
			With("limit", most).With("setting", "sessions.max_in_flight").With("retry_after_ms", retryAfter(p.runTime))
	}
	return nil
}

// knownLocked says whether a method may be called. Before a worker has said which it has, any may but those of the sidecar's.
func (p *Pool) knownLocked(method []byte) bool {
	if p.methods == nil {
		return !reserved(string(method))
	}
	return p.methods[string(method)] != nil
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
			slots += w.slots
		}
	}
	d := p.runTime * time.Duration(p.waiting+1) / time.Duration(max(slots, 1))
	return retryAfter(d)
}

// retryAfter is d in milliseconds, neither so short that clients come back at once nor so long that they do not.
func retryAfter(d time.Duration) int64 { return min(max(d.Milliseconds(), 10), 60_000) }

// offerLocked sends the calls of f whose turn has come to workers, as far as slots are free, and else lets f wait for its turn.
func (p *Pool) offerLocked(f *Flow, batch *wire.Batch) {
	for f.turn.in == nil && f.readyLocked() {
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
			p.startCheckoutLocked(c)
			p.waitLocked(f)
			return
		}
		f.turn.left = 0 // it is not in contention
		p.dispatchLocked(w, c, batch)
	}
}

// waitLocked lets a flow wait for a slot.
func (p *Pool) waitLocked(f *Flow) {
	switch {
	case f.suspect:
		p.suspects.push(f, p.nextTurnLocked())
		p.holdLocked()
	case f.pin != nil: // an overflow worker would be of no use to it
		f.pin.waiting.push(f, p.nextTurnLocked())
		return
	default:
		p.waitingAny.push(f, p.nextTurnLocked())
	}
	p.woken = true
	p.ensureLocked()
}

// workerForLocked chooses a worker with a free slot: the one that the flow is pinned to, else the least loaded. It returns nil where
// the call has to wait.
func (p *Pool) workerForLocked(f *Flow) (*Worker, *wire.Error) {
	s := &p.cfg.Settings
	if f.pin != nil && f.pin.state != workerReady {
		f.unpinLocked()
	}
	if p.paused {
		return nil, nil
	}
	if f.suspect {
		return p.workerForSuspectLocked(f)
	}
	if f.pin != nil {
		p.spreadLocked(f)
	}
	if w := f.pin; w != nil {
		if w.freeLocked() > 0 && (w.waiting.empty() && p.waitingAny.empty() || s.Pinning == PinFailFast) {
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
		if w.state != workerReady || w.freeLocked() <= 0 || !w.waiting.empty() { // those have the next turns there
			continue
		}
		if best == nil || len(w.calls) < len(best.calls) || len(w.calls) == len(best.calls) && w.pins < best.pins {
			best = w
		}
	}
	return best
}

func (w *Worker) freeLocked() int {
	if w.alone != nil {
		return 0
	}
	return w.slots - len(w.calls)
}

// fillLocked gives a worker's free slots to those that wait, pinned to it or not, in fair turns; where it is empty, a suspect is first.
func (p *Pool) fillLocked(w *Worker, batch *wire.Batch) {
	for p.fillSuspectLocked(w, batch) {
	}
	defer p.holdLocked()
	for w.state == workerReady && w.freeLocked() > 0 && !p.paused {
		f := take(&w.waiting, &p.waitingAny, p.nextTurnLocked())
		if f == nil {
			return
		}
		if f.readyLocked() && f.head.Local == nil {
			p.dispatchLocked(w, f.head, batch)
		}
		p.offerLocked(f, batch)
	}
}

// nextTurnLocked is a number higher than all before it.
func (p *Pool) nextTurnLocked() uint64 {
	p.lastTurn++
	return p.lastTurn
}

// dispatchLocked takes the first call of its flow out of the queue and sends it to w.
func (p *Pool) dispatchLocked(w *Worker, c *Call, batch *wire.Batch) {
	f := c.flow
	m := p.methods[string(c.Method)]
	if err := p.unfitLocked(m, c); err != nil {
		p.failLocked(c, err)
		return
	}
	now := time.Now()
	meta := c.Meta
	meta.TimeoutMS, meta.RetrySafe = -1, false
	if !c.Deadline.IsZero() {
		meta.TimeoutMS = max(1, c.Deadline.Sub(now).Milliseconds())
	}
	if err := c.Handler.Dispatch(&Target{worker: w, flow: f, batch: batch, Again: c.reruns+c.stale > 0, readOnly: c.readOnly(m)}, &meta); err != nil {
		p.failLocked(c, err)
		return
	}
	if f.suspect {
		w.beginAloneLocked(f)
	}
	f.removeLocked(c)
	c.method = m
	if f.serial {
		f.beginTurnLocked(c)
		f.pinLocked(w)
	}
	c.safe = m.RetrySafe || c.Meta.RetrySafe
	if c.safe {
		c.own()
	}
	c.setStateLocked(callRunning)
	c.worker, c.sent = w, now
	w.lastID++
	c.id = w.lastID
	w.calls[c.id] = c
	f.running++
	w.total++
	p.timeLocked(c)
	var scratch [512]byte
	w.outbox.Append(batch, wire.AppendRequest(scratch[:0], c.id, c.Method, &meta), c.Params, c.Owned)
	if p.cfg.Settings.Once {
		p.retireLocked(w, batch)
	}
}

// unfitLocked says why a call cannot be one of the method that it names.
func (p *Pool) unfitLocked(m *Method, c *Call) *wire.Error {
	switch {
	case m == nil:
		return wire.Errorf(wire.CodeUnknownMethod, "no method %q", c.Method)
	case m.Process != nil && !p.cfg.Settings.Once:
		return ErrOwnProcess
	}
	return m.fits(c, len(c.Meta.Session) > 0 || c.flow.serial)
}

func (p *Pool) runLocalLocked(c *Call) {
	c.flow.removeLocked(c)
	if c.flow.serial {
		c.flow.beginTurnLocked(c)
	}
	c.setStateLocked(callRunning)
	c.told = true // by Local
	p.timeLocked(c)
	p.todo = append(p.todo, func(b *wire.Batch) { c.Local(b) })
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
