package pool

import (
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// Pause stops dispatch: calls are admitted and wait, each to its own deadline, and the time limit of waiting for a slot does not run. What is at workers goes on. It says
// whether the pool was not paused, or draining, which ends a pause.
func (p *Pool) Pause() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused || p.draining.Load() {
		return false
	}
	p.paused, p.pausedAt = true, time.Now()
	p.eachWaitingLocked(func(c *Call) { p.timeLocked(c) })
	return true
}

// Resume ends a pause. It says whether there was one.
func (p *Pool) Resume() bool {
	var batch wire.Batch
	defer batch.Flush()
	p.mu.Lock()
	defer p.unlock(&batch)
	return p.resumeLocked(&batch)
}

// resumeLocked lets calls go to workers again. The time of the pause is added to when they began to wait for a slot, if they did before it.
func (p *Pool) resumeLocked(batch *wire.Batch) bool {
	if !p.paused {
		return false
	}
	now := time.Now()
	p.paused = false
	p.eachWaitingLocked(func(c *Call) {
		if c.turn.IsZero() {
			return
		}
		stood := min(now.Sub(p.pausedAt), now.Sub(c.turn))
		c.turn, c.checkout = c.turn.Add(stood), c.checkout.Add(stood)
		p.timeLocked(c)
	})
	for _, w := range p.workers {
		p.fillLocked(w, batch)
	}
	p.ensureLocked()
	return true
}

// eachWaitingLocked calls do with every call that waits in a flow which waits for a slot.
func (p *Pool) eachWaitingLocked(do func(*Call)) {
	all := []*turns{&p.waitingAny, &p.suspects}
	for _, w := range p.workers {
		all = append(all, &w.waiting)
	}
	for _, t := range all {
		for _, o := range t.byOwner {
			for f := range o.flows.All() {
				for c := f.head; c != nil; c = c.next {
					do(c)
				}
			}
		}
	}
}
