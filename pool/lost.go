package pool

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 30 * time.Second
	// provenAfter is how long a worker that has answered no call has to live to count as one that works.
	provenAfter = 10 * time.Second
	// exitWait is how long a worker whose channel ended is waited for, so that its own exit status can be told.
	exitWait = 500 * time.Millisecond
)

// ended clears up after a worker: its place is filled again, its calls are run again or settled, its process tree is gone.
func (p *Pool) ended(w *Worker, proc Process, cause error) {
	p.mu.Lock()
	starting, withheld := w.state == workerStarting, p.withheldLocked(w)
	if withheld {
		p.removeWithheldLocked(w)
	}
	p.mu.Unlock()
	var reason string
	if starting || withheld { // nobody has a call in it, and who waits for it wants to know why
		reason = w.reap(proc, cause)
	}
	var batch wire.Batch
	p.mu.Lock()
	if !withheld && p.withheldLocked(w) { // replaced meanwhile
		withheld = true
		p.removeWithheldLocked(w)
	}
	if withheld {
		p.mu.Unlock()
		w.toll(p.endedWithheld(w, proc, cause, reason), reason)
		return
	}
	planned := w.state == workerDraining && w.why == "" && (!p.cfg.Settings.Once || len(w.calls) == 0)
	failed := starting && w.end != endKilled && !lostWithOthers(proc)
	calls := p.removeLocked(w, failed, planned, &batch)
	if failed && !p.closing {
		p.startFailedLocked(w, lastOutput(proc, cause), reason)
	}
	p.unlock(&batch)
	batch.Flush()
	if !starting {
		reason = w.reap(proc, cause)
	}

	p.mu.Lock()
	if !planned && !p.closing {
		p.lastFailure, p.lastFailureAt = w.id+": "+reason, time.Now()
		w.gen.failures[w.place] = p.lastFailure
	}
	for _, c := range calls {
		p.loseLocked(c, w, reason)
	}
	requests := w.requests
	w.requests, w.asks = nil, nil
	quietly := planned || p.closing
	end := w.endReasonLocked(starting, quietly)
	p.unlock(&batch)
	for _, done := range requests {
		done(nil, errors.New(reason))
	}
	batch.Flush()
	w.toll(end, reason)
	if quietly {
		w.log.Info("worker ended", "reason", reason)
		return
	}
	w.log.Error("worker lost", "reason", reason, "calls", len(calls))
}

// lostWithOthers says whether a process that has ended says nothing of what it runs: another is started at once.
func lostWithOthers(proc Process) bool {
	l, ok := proc.(Loser)
	return ok && l.Lost()
}

// removeLocked takes a dead worker out of the pool. It returns the calls that are lost with it; others are run again.
func (p *Pool) removeLocked(w *Worker, startFailed, planned bool, batch *wire.Batch) map[uint64]*Call {
	w.setStateLocked(workerDead)
	p.workers = slices.DeleteFunc(p.workers, func(other *Worker) bool { return other == w })
	calls := w.calls
	w.calls = map[uint64]*Call{}
	for _, c := range calls {
		c.flow.running--
	}
	answered := w.total > uint64(len(calls))
	defer p.replaceLocked(batch)
	p.noteEndLocked(startFailed, !planned && !answered && time.Since(w.ready) < provenAfter)
	for _, c := range calls {
		c.waits = w.ahead[c.flow] > 0
	}
	p.suspectLocked(w, calls, planned, batch)
	p.moveWaitingLocked(w, batch)
	p.rerunLocked(calls, batch)
	p.changedLocked()
	return calls
}

// noteEndLocked decides whether the place of a worker that ended is filled at once or after a wait.
func (p *Pool) noteEndLocked(starting, crashed bool) {
	switch {
	case starting && p.backingOff: // it was started together with one that failed before
	case starting:
		p.failures++
	case crashed:
		p.crashes++
	default:
		p.crashes = 0
	}
	// A few crashes in a row are told from a worker that was killed by having nothing but crashes.
	soon := p.failures
	if most := 2*p.cfg.Settings.Size + 8; soon == 0 && p.crashes > most {
		soon = p.crashes - most
	}
	if soon == 0 {
		p.ensureLocked()
		return
	}
	if p.backingOff || p.closing {
		return
	}
	wait := min(backoffMost, backoffFirst<<min(soon-1, 10))
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1)) //nolint:gosec // jitter needs no secrecy
	p.backingOff = true
	p.tasks.Go(func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.life.Done():
		}
		p.mu.Lock()
		p.backingOff = false
		p.ensureLocked()
		p.mu.Unlock()
	})
}

// reap waits until the process tree is gone and says why the worker ended.
func (w *Worker) reap(proc Process, cause error) string {
	if proc == nil {
		return cause.Error()
	}
	w.pool.mu.Lock()
	why := w.why
	w.pool.mu.Unlock()
	cut := errors.Is(cause, io.EOF) || errors.Is(cause, syscall.EPIPE) || errors.Is(cause, syscall.ECONNRESET) || errors.Is(cause, net.ErrClosed)
	exited := false
	if cut { // by its end, most likely
		timer := time.NewTimer(exitWait)
		defer timer.Stop()
		select {
		case <-proc.Done():
			exited = true
		case <-timer.C:
		}
	}
	proc.Kill() // what it may have left behind goes, too
	<-proc.Done()
	switch {
	case why != "":
		return why
	case exited:
		return proc.Exit()
	case cut:
		return "it closed its channel but went on, and was killed"
	}
	return cause.Error()
}

// startFailedLocked notes why a worker could not be started, and tells the calls that wait, where no other is there or coming.
func (p *Pool) startFailedLocked(w *Worker, output, reason string) {
	p.startFailure = p.startError(w, output, reason)
	p.lastFailure, p.lastFailureAt = w.id+": "+reason, time.Now()
	if failure := p.noWorkersLocked(); failure != nil {
		p.failWaitingLocked(failure)
	}
}

// startError says why a worker could not be started.
func (p *Pool) startError(w *Worker, output, reason string) *wire.Error {
	e := wire.Errorf(wire.CodeNoWorkers, "no worker of pool %s can be started: %s: %s", p.cfg.Name, w.id, reason).With("reason", reason)
	if output != "" {
		e = e.With("output", output)
	}
	return e
}

// lastOutput is what a process that did not get ready printed last: the worker, or the one that should have started it.
func lastOutput(proc Process, cause error) string {
	var starter interface{ Output() []string }
	switch {
	case proc != nil:
		return strings.Join(proc.Output(), "\n")
	case errors.As(cause, &starter):
		return strings.Join(starter.Output(), "\n")
	}
	return ""
}

// noWorkersLocked is the error of calls for which there is no worker and none is coming; nil where they may wait.
func (p *Pool) noWorkersLocked() *wire.Error {
	for _, w := range p.workers {
		if w.state == workerReady || w.state == workerStarting {
			return nil
		}
	}
	return p.startFailure
}

// failWaitingLocked settles all calls that wait.
func (p *Pool) failWaitingLocked(err *wire.Error) {
	for p.waiting > 0 {
		o, _ := p.shares.largest()
		f, _ := o.shares.largest()
		p.failLocked(f.tail, err)
	}
}

// moveWaitingLocked lets the flows that wait for a slot of w go elsewhere.
func (p *Pool) moveWaitingLocked(w *Worker, batch *wire.Batch) {
	for !w.waiting.empty() {
		p.leavePinLocked(w.waiting.owners.First().flows.First(), batch)
	}
}

// rerunLocked takes the calls that may be run again out of calls and puts them back into their queues, in their old order.
func (p *Pool) rerunLocked(calls map[uint64]*Call, batch *wire.Batch) {
	ids := slices.Sorted(maps.Keys(calls))
	for _, id := range slices.Backward(ids) {
		c := calls[id]
		if c.state == callRunning && c.safe && !c.touched && c.reruns == 0 && c.flow.lost == nil && !p.closing {
			delete(calls, id)
			c.reruns++
			p.againLocked(c, batch)
		}
	}
}
