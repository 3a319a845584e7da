package pool

import (
	"container/heap"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// timers orders calls by the next instant at which something is due for them.
type timers []*Call

// due is the next instant at which the call needs attention; the zero time means never.
func (c *Call) due() time.Time {
	at := c.Deadline
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	switch c.state {
	case callQueued:
		sooner(c.checkout)
	case callStopping:
		at = c.killBy
		if !c.told {
			sooner(c.settleBy)
		}
	case callNew, callRunning, callFinished:
	}
	return at
}

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer, t[j].timer = i+1, j+1
}

func (t *timers) Push(x any) {
	c, _ := x.(*Call)
	*t = append(*t, c)
	c.timer = len(*t)
}

func (t *timers) Pop() any {
	old := *t
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	c.timer = 0
	return c
}

// timeLocked puts the call where its next instant belongs, and wakes the clock where it would sleep beyond it.
func (p *Pool) timeLocked(c *Call) {
	c.at = c.due()
	switch {
	case c.at.IsZero() || c.state == callFinished:
		if c.timer > 0 {
			heap.Remove(&p.timers, c.timer-1)
		}
		return
	case c.timer > 0:
		heap.Fix(&p.timers, c.timer-1)
	default:
		heap.Push(&p.timers, c)
	}
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
		for len(p.timers) > 0 && !p.timers[0].at.After(now) {
			p.dueLocked(p.timers[0], now, &batch)
		}
		p.clockAt = time.Time{}
		sleep := time.Hour
		if len(p.timers) > 0 {
			p.clockAt = p.timers[0].at
			sleep = p.clockAt.Sub(now)
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

// dueLocked does what has become due for one call.
func (p *Pool) dueLocked(c *Call, now time.Time, batch *wire.Batch) {
	passed := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	switch {
	case c.state == callStopping && passed(c.killBy):
		c.killBy = time.Time{}
		p.condemnLocked(c.worker, "a call went on for "+p.cfg.Settings.CancelGrace.String()+" after it was told to stop")
	case c.state == callStopping && !c.told && passed(c.settleBy):
		p.settleLocked(c, c.why.With("ended_by", "pending"))
	case c.state == callStopping: // its deadline is of no interest any more
	case passed(c.Deadline):
		p.expireLocked(c, batch)
		return
	case c.state == callQueued && passed(c.checkout):
		p.checkoutDueLocked(c, batch)
		return
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

// checkoutDueLocked gives up on a call that waited for a slot, or lets it leave its worker.
func (p *Pool) checkoutDueLocked(c *Call, batch *wire.Batch) {
	s := &p.cfg.Settings
	f := c.flow
	if f.pin != nil && s.Pinning == PinSoft && time.Since(c.turn) < s.CheckoutTimeout {
		c.checkout = c.turn.Add(s.CheckoutTimeout)
		p.timeLocked(c)
		if f.ring != nil {
			f.ring.remove(f)
		}
		f.unpinLocked()
		p.offerLocked(f, batch)
		return
	}
	where := "any worker"
	if f.pin != nil {
		where = f.pin.id + ", to which its session is pinned"
	}
	p.failLocked(c, wire.Errorf(wire.CodeCheckoutTimeout, "no slot of %s came free within %s (pool %s, %d calls wait); raise checkout_timeout, size or concurrency",
		where, s.CheckoutTimeout, p.cfg.Name, p.waiting).With("retry_after_ms", p.retryAfterLocked()))
	p.offerLocked(f, batch)
}
