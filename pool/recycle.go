package pool

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// softSamples is how many samples of a worker's memory in a row have to be over RecycleMemory: one may catch it at a peak.
	softSamples = 3
	// spread is how far the limits of one worker are off the configured ones, so that workers that were started together are not
	// recycled together.
	spread = 0.1
)

// drawSpread is what a worker's limits are multiplied by.
func drawSpread() float64 {
	return 1 - spread + 2*spread*rand.Float64() //nolint:gosec // jitter needs no secrecy
}

// countLocked has a worker recycled that has taken as many calls as it may.
func (p *Pool) countLocked(w *Worker, batch *wire.Batch) {
	if most := p.cfg.Settings.RecycleCalls; most > 0 && w.recycle == "" && float64(w.total) >= float64(most)*w.spread {
		p.recycleLocked(w, fmt.Sprintf("it has taken %d calls (recycle_calls)", w.total), batch)
	}
}

// sample looks at a worker's age and memory now and then. It does not wait for heartbeats: C code that holds the interpreter lock takes
// memory, too.
func (p *Pool) sample(w *Worker) {
	every := newPace()
	defer every.Stop()
	for {
		s, applied := p.settings()
		if s.RecycleAge == 0 && s.RecycleMemory == 0 && s.MemoryLimit == 0 {
			s.SampleEvery = 0
		}
		every.set(s.SampleEvery)
		select {
		case <-applied:
		case <-w.gone:
			return
		case <-p.life.Done():
			return
		case <-every.C:
			p.examine(w)
		}
	}
}

// examine holds a worker against the limits on its age and memory.
func (p *Pool) examine(w *Worker) {
	memory := w.vitals().Memory
	var batch wire.Batch
	p.mu.Lock()
	s := &p.cfg.Settings
	w.memory = memory
	w.overSoft++
	if s.RecycleMemory == 0 || memory <= s.RecycleMemory {
		w.overSoft = 0
	}
	switch {
	case s.MemoryLimit > 0 && memory > s.MemoryLimit:
		p.condemnLocked(w, endMemory, fmt.Sprintf("it took %s of memory, over the memory_limit of %s", mebibytes(memory), mebibytes(s.MemoryLimit)), 0, &batch)
	case w.overSoft >= softSamples:
		p.recycleLocked(w, fmt.Sprintf("it takes %s of memory, over recycle_memory, %s", mebibytes(memory), mebibytes(s.RecycleMemory)), &batch)
	case s.RecycleAge > 0 && float64(time.Since(w.ready)) >= float64(s.RecycleAge)*w.spread:
		p.recycleLocked(w, "it is older than recycle_age, "+s.RecycleAge.String(), &batch)
	}
	p.unlock(&batch)
	batch.Flush()
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// RecycleWorker has a worker replaced as soon as another is ready. It returns false where there is no such worker.
func (p *Pool) RecycleWorker(id, why string) bool {
	var batch wire.Batch
	defer batch.Flush()
	p.mu.Lock()
	defer p.unlock(&batch)
	w := p.namedLocked(id)
	if w == nil || w.state != workerReady {
		return false
	}
	p.recycleLocked(w, why, &batch)
	return true
}

// recycleLocked has a worker replaced. It takes calls until its replacement is ready, and ends when its calls have.
func (p *Pool) recycleLocked(w *Worker, why string, batch *wire.Batch) {
	if w.state == workerReady && w.recycle == "" {
		w.recycle = why
		w.log.Info("recycling worker", "reason", why)
		p.replaceLocked(batch)
	}
}

// replaceLocked goes on with what is to be recycled: one worker at a time, so that no more than one is there twice.
func (p *Pool) replaceLocked(batch *wire.Batch) {
	if p.closing {
		return
	}
	var next *Worker
	for _, w := range p.workers {
		if w.state == workerReady && w.recycle != "" && (next == nil || w.replaced) {
			next = w
		}
	}
	if next != nil && !next.replaced {
		next.replaced = true
		p.ensureLocked()
	}
	p.trimLocked(batch)
}

// retireLocked lets a worker go: it takes no new call, ends by itself when its calls have ended, and is killed where it does not.
func (p *Pool) retireLocked(w *Worker, batch *wire.Batch) {
	if w.state == workerReady {
		w.setStateLocked(workerDraining)
	}
	vacant := make(chan struct{})
	w.vacant = vacant
	w.settleDownLocked(time.Now())
	p.moveWaitingLocked(w, batch)
	p.changedLocked()
	p.tasks.Go(func() {
		select {
		case <-vacant:
		case <-w.gone:
			return
		case <-p.life.Done():
			return // Close ends all of them
		}
		p.mu.Lock()
		grace := p.cfg.Settings.CancelGrace
		if !w.endBy.IsZero() {
			grace = max(0, min(grace, time.Until(w.endBy)))
		}
		p.mu.Unlock()
		p.letGo(w, grace)
	})
}
