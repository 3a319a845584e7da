package pool

import (
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// What a call has sent ahead of it, its session's state, may kill the worker that takes it. A flow of which something was on its way when a worker
// died is a suspect: it goes on at a worker where nothing else of that kind is on its way, and nothing else begins until it has got through. Only a death
// with nothing else on its way counts, and none that the sidecar caused. After mostDeaths of them the flow's calls are refused.

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
		w.gotThroughLocked(f)
		w.pool.fillLocked(w, &batch)
		w.pool.unlock(&batch)
		batch.Flush()
	})
}

// gotThroughLocked notes that the worker lives after what was sent ahead of a flow's call.
func (w *Worker) gotThroughLocked(f *Flow) {
	if w.ahead[f]--; w.ahead[f] > 0 {
		return
	}
	delete(w.ahead, f)
	f.suspect, f.deaths = false, 0
	if w.alone == f {
		w.alone = nil
	}
}

// suspectLocked looks for who may have killed a worker, unless it was the sidecar.
func (p *Pool) suspectLocked(w *Worker, planned bool) {
	ahead := w.ahead
	w.ahead, w.alone = nil, nil
	if planned || w.why != "" || w.told || p.closing {
		return
	}
	for f := range ahead {
		f.suspect = true
		if len(ahead) > 1 {
			continue
		}
		if f.deaths++; f.deaths >= mostDeaths {
			f.lost = wire.Errorf(wire.CodeSessionLost, "the session's state killed %d workers that were to take it, the last one %s; it is kept: export it, mend it by an update or a reset, or end it",
				f.deaths, w.id).With("reason", "its restore killed "+w.id)
			p.cfg.Log.Error("session quarantined: its restore kills workers", "owner", f.owner.name, "worker_id", w.id)
			p.failRemoteLocked(f, f.lost)
		}
	}
}

// failRemoteLocked settles the calls that wait in the flow for a worker.
func (p *Pool) failRemoteLocked(f *Flow, err *wire.Error) {
	for c := f.head; c != nil; {
		next := c.next
		if c.Local == nil {
			p.failLocked(c, err)
		}
		c = next
	}
}

// Lost says why the flow's calls are refused; nil: they are not.
func (f *Flow) Lost() *wire.Error {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	return f.lost
}

// Forgive lets the flow's calls come to workers again: what is sent ahead of them is another thing now.
func (f *Flow) Forgive() {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	f.lost, f.deaths = nil, 0
}
