package pool

import (
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// watch sends heartbeats to a ready worker, and lets an overflow worker go when it has had nothing to do.
func (p *Pool) watch(w *Worker) {
	s := &p.cfg.Settings
	beat := time.NewTicker(s.HealthInterval)
	defer beat.Stop()
	var idle <-chan time.Time
	if w.overflow {
		t := time.NewTicker(max(s.OverflowIdle/4, time.Millisecond))
		defer t.Stop()
		idle = t.C
	}
	for {
		select {
		case <-w.gone:
			return
		case <-p.life.Done():
			return
		case <-idle:
			p.retireIdle(w)
		case <-beat.C:
			if !p.heartbeat(w) {
				return
			}
		}
	}
}

// heartbeat asks the worker whether it lives; one that does not answer in time is killed.
func (p *Pool) heartbeat(w *Worker) bool {
	answered := make(chan struct{})
	var batch wire.Batch
	p.mu.Lock()
	if w.state != workerReady {
		p.mu.Unlock()
		return false
	}
	w.requestLocked(&batch, "ping", wire.Nil, func(*wire.Frame, error) { close(answered) })
	p.mu.Unlock()
	batch.Flush()
	timeout := time.NewTimer(p.cfg.Settings.HealthTimeout)
	defer timeout.Stop()
	select {
	case <-answered:
		return true
	case <-w.gone:
		return false
	case <-p.life.Done():
		return false
	case <-timeout.C:
	}
	p.mu.Lock()
	p.condemnLocked(w, "it did not answer a heartbeat within "+p.cfg.Settings.HealthTimeout.String()+
		" (stopped, or C code holds the interpreter lock)", 0, &batch)
	p.unlock(&batch)
	batch.Flush()
	return false
}

// retireIdle dismisses an overflow worker that has been idle for long enough.
func (p *Pool) retireIdle(w *Worker) {
	p.mu.Lock()
	retire := w.state == workerReady && len(w.calls) == 0 && time.Since(w.idle) >= p.cfg.Settings.OverflowIdle &&
		p.readyLocked() > p.cfg.Settings.Size
	if retire {
		w.setStateLocked(workerDraining)
		p.changedLocked()
	}
	p.mu.Unlock()
	if !retire {
		return
	}
	w.log.Info("retiring overflow worker", "idle", p.cfg.Settings.OverflowIdle.String())
	p.dismiss(w)
	p.tasks.Go(func() {
		select {
		case <-w.gone:
		case <-time.After(p.cfg.Settings.CancelGrace):
			w.proc.Kill()
		}
	})
}
