package pool

import "github.com/dspex/dspex-sidecar/wire"

// A suspect goes to a worker that has nothing of others in it, so that a death there is its own doing. It waits for one in a queue of its own, and the first worker
// that is empty takes it. Under load none is, so that one worker of the pool at a time is held for the suspect whose turn it is: it takes no new call until those in
// it have ended. When that wait ends, the worker's free slots go to others before it is held again.

// workerForSuspectLocked chooses an empty worker. It returns nil where the call has to wait.
func (p *Pool) workerForSuspectLocked(f *Flow) (*Worker, *wire.Error) {
	if !p.suspects.empty() {
		return nil, nil
	}
	for _, w := range p.workers {
		if w.state == workerReady && w.alone == nil && w.emptyForLocked(f) {
			return w, nil
		}
	}
	return nil, p.noWorkersLocked()
}

// emptyForLocked says whether nothing is in the worker that would be beside the flow's next call, but for the flow's own.
func (w *Worker) emptyForLocked(f *Flow) bool {
	return f.mayLeaveForLocked(w) && len(w.ahead) == 0 && len(w.calls) < w.slots && !w.hasOthersLocked(f)
}

// mayLeaveForLocked says whether the flow's next call may go to w: not while others of its calls run elsewhere.
func (f *Flow) mayLeaveForLocked(w *Worker) bool {
	return !f.busyLocked() || f.pin == nil || f.pin == w || f.pin.state != workerReady
}

// hasOthersLocked says whether calls of other flows are in the worker.
func (w *Worker) hasOthersLocked(f *Flow) bool { return hasOthers(w.calls, f) }

func hasOthers(calls map[uint64]*Call, f *Flow) bool {
	for _, c := range calls {
		if c.flow != f {
			return true
		}
	}
	return false
}

// fillSuspectLocked sends a call of a suspect to a worker that is empty: the one that it is held for, else the next. It returns false where there is nothing to do.
func (p *Pool) fillSuspectLocked(w *Worker, batch *wire.Batch) bool {
	f := w.alone
	switch {
	case p.paused || w.state != workerReady || f != nil && p.held != w: // or a suspect is at it
		return false
	case f == nil:
		f = next(&p.suspects, &p.suspects)
	}
	if f == nil || !w.emptyForLocked(f) {
		return false
	}
	hadTurn(f, &p.suspects, &p.suspects, p.nextTurnLocked())
	if f.readyLocked() && f.head.Local == nil {
		p.dispatchLocked(w, f.head, batch)
	}
	p.offerLocked(f, batch)
	return true
}

// holdLocked holds the worker with the fewest calls for the suspect whose turn is next, where none is held.
func (p *Pool) holdLocked() {
	if p.held != nil || p.paused || p.suspects.empty() {
		return
	}
	f := next(&p.suspects, &p.suspects)
	var best *Worker
	for _, w := range p.workers {
		if w.state == workerReady && w.alone == nil && f.mayLeaveForLocked(w) && (best == nil || len(w.calls) < len(best.calls)) {
			best = w
		}
	}
	if best == nil {
		return
	}
	p.held, best.alone = best, f
	if best.emptyForLocked(f) { // no answer will come to fill it
		p.todo = append(p.todo, p.refillAll)
	}
}

// letGoLocked ends the hold on a worker.
func (p *Pool) letGoLocked() {
	p.held.alone, p.held = nil, nil
	p.todo = append(p.todo, p.refillAll)
}

// suspectLeftLocked notes that a suspect waits no more: another may be next, and the worker held for it has slots.
func (p *Pool) suspectLeftLocked(f *Flow) {
	switch {
	case p.held != nil && p.held.alone == f:
		p.letGoLocked()
	case !p.suspects.empty():
		p.todo = append(p.todo, p.refillAll)
	}
}

// refillAll gives the free slots of all workers to those that wait.
func (p *Pool) refillAll(batch *wire.Batch) {
	p.mu.Lock()
	for _, w := range p.workers {
		p.fillLocked(w, batch)
	}
	p.unlock(batch)
}

// requeueLocked lets a flow wait where it has to after it became a suspect, or is none any more.
func (p *Pool) requeueLocked(f *Flow, batch *wire.Batch) {
	if f.turn.in != nil {
		f.leaveLocked()
		p.offerLocked(f, batch)
	}
}
