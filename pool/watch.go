package pool

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/closed"
	"github.com/dspex/dspex-sidecar/wire"
)

// watch sends heartbeats to a ready worker, and lets an overflow worker go when it has had nothing to do.
func (p *Pool) watch(w *Worker, overflow bool) {
	beat, idle := newPace(), newPace()
	defer beat.Stop()
	defer idle.Stop()
	for {
		s, applied := p.settings()
		beat.set(s.HealthInterval)
		if overflow {
			idle.set(max(s.OverflowIdle/4, time.Millisecond))
		}
		select {
		case <-applied:
		case <-w.gone:
			return
		case <-p.life.Done():
			return
		case <-idle.C:
			p.retireIdle(w)
		case <-beat.C:
			if !p.heartbeat(w, s.HealthTimeout) {
				return
			}
		}
	}
}

// busyBeats is how many heartbeats in a row a worker may leave unanswered while it computes: C code that holds the interpreter
// lock for long is not gone, and the deadlines of its calls still count.
const busyBeats = 3

// heartbeat asks the worker whether it lives; one that does not answer in time is killed.
func (p *Pool) heartbeat(w *Worker, timeout time.Duration) bool {
	before := w.vitals()
	answered, asked := p.ping(w)
	if !asked {
		return false
	}
	for beat := 1; ; beat++ {
		if p.await(w, answered, timeout) {
			return true
		}
		if p.life.Err() != nil || closed.Is(w.gone) {
			return false
		}
		now := w.vitals()
		computes := now.CPU-before.CPU > timeout/2
		if !computes || beat == busyBeats {
			p.condemnSilent(w, now, computes, time.Duration(beat)*timeout)
			return false
		}
		w.log.Warn("worker computes and answers no heartbeat: C code holds the interpreter lock", "since_ms", (time.Duration(beat) * timeout).Milliseconds())
		before = now
	}
}

// condemnSilent has a worker killed that answers no heartbeat.
func (p *Pool) condemnSilent(w *Worker, v Vitals, computes bool, silent time.Duration) {
	what := "it waits in C code that holds the interpreter lock, or in the kernel"
	switch {
	case v.State == 'T' || v.State == 't':
		what = "it is stopped (SIGSTOP)"
	case computes:
		what = "it computes in C code that holds the interpreter lock"
	}
	var batch wire.Batch
	p.mu.Lock()
	p.condemnLocked(w, endStuck, "it did not answer a heartbeat within "+silent.String()+": "+what, 0, &batch)
	p.unlock(&batch)
	batch.Flush()
}

// ping asks a worker for an answer beside its calls; false where it is not one that takes calls or finishes them.
func (p *Pool) ping(w *Worker) (answered <-chan struct{}, asked bool) {
	c := make(chan struct{})
	var batch wire.Batch
	p.mu.Lock()
	if asked = w.heardLocked(); asked {
		w.requestLocked(&batch, "ping", wire.Nil, func(*wire.Frame, error) { close(c) })
	}
	p.mu.Unlock()
	batch.Flush()
	return c, asked
}

// await waits for the answer to a ping, and says whether it came from a worker that is still there.
func (p *Pool) await(w *Worker, answered <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-answered:
		return !closed.Is(w.gone)
	case <-w.gone:
	case <-p.life.Done():
	case <-timer.C:
	}
	return false
}

// vitals are zero where the kernel does not say.
func (w *Worker) vitals() Vitals {
	if e, ok := w.proc.(Examiner); ok {
		if v, err := e.Vitals(); err == nil {
			return v
		}
	}
	return Vitals{}
}

// retireIdle lets an overflow worker go that has been idle for long enough.
func (p *Pool) retireIdle(w *Worker) {
	var batch wire.Batch
	defer batch.Flush()
	p.mu.Lock()
	defer p.unlock(&batch)
	idle := w.overflow && w.state == workerReady && len(w.calls) == 0 && time.Since(w.idle) >= p.cfg.Settings.OverflowIdle
	if idle && p.readyLocked() > p.cfg.Settings.Size {
		w.log.Info("retiring overflow worker", "idle", p.cfg.Settings.OverflowIdle.String())
		p.retireLocked(w, &batch)
	}
}
