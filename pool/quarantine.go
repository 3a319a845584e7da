package pool

import (
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// What a call has sent ahead of it, its session's state, may kill the worker that takes it. A flow of which something was on its way when a worker
// died is a suspect: it goes on at a worker that has nothing of others in it, and nothing else begins there until it has got through (see suspects.go). Only a death
// with no call of another flow in the worker and nothing else on its way counts, and none that the sidecar caused. After mostDeaths of them the flow's calls are refused.

const mostDeaths = 2

// sendAheadLocked sends a request that a flow's call depends on.
func (w *Worker) sendAheadLocked(f *Flow, t *Target, method string, params []byte) {
	if w.ahead == nil {
		w.ahead = make(map[*Flow]int)
	}
	w.ahead[f]++
	sent := time.Now()
	w.requestLocked(t.batch, method, params, func(answer *wire.Frame, err error) {
		if err != nil {
			return // it died, and with it all that was on its way
		}
		w.pool.cfg.Metrics.Restore.Update(time.Since(sent).Seconds())
		if answer.Error != nil {
			w.log.Warn("worker refused a request", "method", method, "error", decodeError(answer.Error).Error())
		}
		var batch wire.Batch
		w.pool.mu.Lock()
		w.gotThroughLocked(f, &batch)
		w.pool.fillLocked(w, &batch)
		w.pool.unlock(&batch)
		batch.Flush()
	})
}

// gotThroughLocked notes that the worker lives after what was sent ahead of a flow's call.
func (w *Worker) gotThroughLocked(f *Flow, batch *wire.Batch) {
	if w.ahead[f]--; w.ahead[f] > 0 {
		return
	}
	delete(w.ahead, f)
	f.suspect, f.deaths = false, 0
	if w.alone == f && w.pool.held != w {
		w.alone = nil
	}
	w.pool.requeueLocked(f, batch)
}

// beginAloneLocked notes that a suspect's call goes to the worker. Where nothing goes ahead of it, the worker has nothing to get through.
func (w *Worker) beginAloneLocked(f *Flow) {
	if w.ahead[f] > 0 {
		w.alone = f
	} else {
		f.suspect = false
	}
}

// suspectLocked looks for who may have killed a worker in which calls were, unless it was the sidecar.
func (p *Pool) suspectLocked(w *Worker, calls map[uint64]*Call, planned bool, batch *wire.Batch) {
	ahead := w.ahead
	w.ahead, w.alone = nil, nil
	if planned || w.why != "" || w.told || p.closing {
		return
	}
	for f := range ahead {
		if f.dead != nil { // its session has ended
			continue
		}
		f.suspect = true
		if len(ahead) == 1 && !hasOthers(calls, f) {
			f.deaths++
		}
		if f.deaths < mostDeaths {
			p.requeueLocked(f, batch)
			continue
		}
		f.lost = wire.Errorf(wire.CodeSessionLost, "the session's state killed %d workers that were to take it, the last one %s; it is kept: export it, mend it by an update or a reset, or end it",
			f.deaths, w.id).With("reason", "its restore killed "+w.id)
		p.cfg.Log.Error("session quarantined: its restore kills workers", "owner", f.owner.name, "worker_id", w.id)
		p.failRemoteLocked(f, f.lost, batch)
	}
}

// failRemoteLocked settles the calls that wait in the flow for a worker, and lets those go on that need none.
func (p *Pool) failRemoteLocked(f *Flow, err *wire.Error, batch *wire.Batch) {
	for c := f.head; c != nil; {
		next := c.next
		if c.Local == nil {
			p.failLocked(c, err)
		}
		c = next
	}
	p.offerLocked(f, batch)
}

// Lost says why the flow's calls are refused; nil: they are not.
func (f *Flow) Lost() *wire.Error {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	return f.lost
}

// Forgive lets the flow's calls come to workers again: what is sent ahead of them is another thing now.
func (f *Flow) Forgive() {
	var batch wire.Batch
	f.pool.mu.Lock()
	f.lost, f.deaths, f.suspect = nil, 0, false
	f.pool.requeueLocked(f, &batch)
	f.pool.unlock(&batch)
	batch.Flush()
}
