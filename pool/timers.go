package pool

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/heap"
	"github.com/dspex/dspex-sidecar/wire"
)

// newTimers orders calls by the next instant at which something is due for them.
func newTimers() heap.Heap[*Call] {
	return heap.New(func(a, b *Call) bool { return a.at.Before(b.at) }, func(c *Call) *int { return &c.timer })
}

// due is the next instant at which the call needs attention; the zero time means never.
func (c *Call) due() time.Time {
	switch c.state {
	case callQueued:
		if c.flow.pool.paused {
			return c.Deadline
		}
		return sooner(c.Deadline, c.checkout)
	case callRunning:
		if c.Local == nil { // what is Local answers by itself
			return c.Deadline
		}
	case callStopping:
		if c.told {
			return c.killBy
		}
		return sooner(c.killBy, c.settleBy)
	case callNew, callFinished:
	}
	return time.Time{}
}

// sooner is the earlier of two instants, of which the zero time is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// timeLocked puts the call where its next instant belongs, and wakes the clock where it would sleep beyond it.
func (p *Pool) timeLocked(c *Call) {
	c.at = c.due()
	if c.at.IsZero() {
		p.timers.Remove(c)
		return
	}
	p.timers.Put(c)
	if p.clockAt.IsZero() || c.at.Before(p.clockAt) {
		p.clockAt = c.at
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// runClock handles what is due for calls, until the pool has stopped.
func (p *Pool) runClock() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var batch wire.Batch
	for {
		p.mu.Lock()
		now := time.Now()
		c := p.timers.First()
		for ; c != nil && !c.at.After(now); c = p.timers.First() {
			p.dueLocked(c, now, &batch)
		}
		p.clockAt = time.Time{}
		sleep := time.Hour
		if c != nil {
			p.clockAt = c.at
			sleep = c.at.Sub(now)
		}
		p.unlock(&batch)
		batch.Flush()
		timer.Reset(sleep)
		select {
		case <-timer.C:
		case <-p.wake:
		case <-p.stopped:
			return
		}
	}
}

// dueLocked does what has become due for one call. What it does moves the call's next instant on.
func (p *Pool) dueLocked(c *Call, now time.Time, batch *wire.Batch) {
	passed := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	switch {
	case c.state == callStopping && passed(c.killBy):
		c.killBy = time.Time{}
		p.condemnLocked(c.worker, endStuck, "a call went on for "+p.cfg.Settings.CancelGrace.String()+" after it was told to stop", p.cfg.Settings.CancelGrace, batch)
	case c.state == callStopping:
		p.reportLocked(c)
	case passed(c.Deadline):
		p.expireLocked(c, batch)
	default:
		p.checkoutDueLocked(c, batch)
	}
	p.timeLocked(c)
}

func (p *Pool) expireLocked(c *Call, batch *wire.Batch) {
	err := wire.Errorf(wire.CodeDeadlineExceeded, "the deadline passed while the call was %s", c.state)
	if c.state == callQueued {
		p.failLocked(c, err.With("ended_by", "queue"))
		p.offerLocked(c.flow, batch)
		return
	}
	p.stopLocked(c, err, false, batch)
}

// startCheckoutLocked begins the wait for a slot, whose limit counts from here.
func (p *Pool) startCheckoutLocked(c *Call) {
	if !c.turn.IsZero() {
		return
	}
	s := &p.cfg.Settings
	c.turn = time.Now()
	wait := s.CheckoutTimeout
	if c.flow.pin != nil && s.Pinning == PinSoft {
		wait = min(wait, s.SoftWait)
	}
	c.checkout = c.turn.Add(wait)
	p.timeLocked(c)
}

// leavePinLocked lets a flow that waits for the slot of one worker wait for any, as long as there is left.
func (p *Pool) leavePinLocked(f *Flow, batch *wire.Batch) {
	f.leaveLocked()
	f.unpinLocked()
	if c := f.head; c != nil && !c.turn.IsZero() {
		c.checkout = c.turn.Add(p.cfg.Settings.CheckoutTimeout)
		p.timeLocked(c)
	}
	p.offerLocked(f, batch)
}

// checkoutDueLocked gives up on a call that waited for a slot, or lets it leave its worker.
func (p *Pool) checkoutDueLocked(c *Call, batch *wire.Batch) {
	s := &p.cfg.Settings
	f := c.flow
	if f.pin != nil && s.Pinning == PinSoft && c.checkout.Before(c.turn.Add(s.CheckoutTimeout)) {
		p.leavePinLocked(f, batch)
		return
	}
	p.failLocked(c, p.noSlotLocked(f))
	p.offerLocked(f, batch)
}

// noSlotLocked is the error of a flow's call that waited for a slot as long as it may.
func (p *Pool) noSlotLocked(f *Flow) *wire.Error {
	s := &p.cfg.Settings
	if s.Once && len(p.workers) >= s.MaxOverflow {
		return wire.Errorf(wire.CodeCheckoutTimeout, "no process came free for the call within %s: %d are in use, the most at a time, and %d calls wait; raise runs.queue or runs.max",
			s.CheckoutTimeout, len(p.workers), p.waiting).With("retry_after_ms", p.retryAfterLocked())
	}
	if p.readyLocked() == 0 {
		err := wire.Errorf(wire.CodeCheckoutTimeout, "no worker of pool %s was ready within %s: %d starting, %d calls wait; try again, health says how the start goes, and checkout_timeout is how long calls wait for it",
			p.cfg.Name, s.CheckoutTimeout, p.inStateLocked(workerStarting), p.waiting).With("retry_after_ms", p.retryAfterLocked())
		if p.lastFailure != "" {
			err = err.With("last_failure", p.lastFailure)
		}
		return err
	}
	where := "any worker"
	if f.pin != nil {
		where = f.pin.id + ", to which its session is pinned,"
	}
	return wire.Errorf(wire.CodeCheckoutTimeout, "no slot of %s came free within %s (pool %s, %d calls wait); raise checkout_timeout, size or concurrency",
		where, s.CheckoutTimeout, p.cfg.Name, p.waiting).With("retry_after_ms", p.retryAfterLocked())
}
