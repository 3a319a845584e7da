package pool_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// pinned makes a session, and fills all slots of the worker that it is pinned to.
func pinned(r *rig) (f *pool.Flow, fills *job) {
	r.tb.Helper()
	f = r.pool.NewFlow("session", true)
	r.submit(f, "echo", nil).ok()
	var jobs []*job
	for range 2 { // one a worker
		r.run("run", nil)
		jobs = append(jobs, r.next())
	}
	for _, j := range jobs {
		if j.w.Name == f.Worker() {
			fills = j
		} else {
			j.answer(nil)
		}
	}
	await(r.tb, "the other worker is free", func() bool { return r.pool.Snapshot().InFlight == 1 })
	return f, fills
}

func two(pinning pool.Pinning) func(*setup) {
	return func(s *setup) { s.Size, s.Pinning = 2, pinning }
}

func TestStrictWaitsForItsWorker(t *testing.T) {
	r := ready(t, two(pool.PinStrict))
	f, fills := pinned(r)
	c := r.submit(f, "run", "pinned")
	r.waiting(1)
	r.run("echo", nil).ok() // at the other worker, which is free
	r.idle()
	fills.answer(nil)
	j := r.next()
	if j.w.Name != fills.w.Name {
		t.Errorf("it went to %s", j.w.Name)
	}
	j.answer(nil)
	c.ok()
}

func TestStrictCheckoutTimeout(t *testing.T) {
	r := ready(t, two(pool.PinStrict), func(s *setup) { s.CheckoutTimeout = 20 * time.Millisecond })
	f, fills := pinned(r)
	e := r.submit(f, "run", nil).failed(wire.CodeCheckoutTimeout)
	if !strings.Contains(e.Message, fills.w.Name+", to which its session is pinned") || e.Details["retry_after_ms"] == nil {
		t.Errorf("got %v", e)
	}
	fills.answer(nil)
	await(t, "its worker is free", func() bool { return r.pool.Snapshot().InFlight == 0 })
	r.submit(f, "echo", nil).ok()
}

func TestFailFastRefuses(t *testing.T) {
	r := ready(t, two(pool.PinFailFast))
	f, fills := pinned(r)
	e := r.submit(f, "run", nil).failed(wire.CodeSessionBusy)
	if !e.Retryable || !strings.Contains(e.Message, fills.w.Name) {
		t.Errorf("got %v", e)
	}
	fills.answer(nil)
	await(t, "its worker is free", func() bool { return r.pool.Snapshot().InFlight == 0 })
	r.submit(f, "echo", nil).ok()
}

func TestSoftMovesAfterAWait(t *testing.T) {
	r := ready(t, two(pool.PinSoft), func(s *setup) { s.SoftWait = 30 * time.Millisecond })
	f, fills := pinned(r)
	begun := time.Now()
	c := r.submit(f, "run", nil)
	j := r.next()
	if waited := time.Since(begun); j.w.Name == fills.w.Name || waited < 30*time.Millisecond {
		t.Errorf("it went to %s after %s", j.w.Name, waited)
	}
	if f.Worker() != j.w.Name {
		t.Errorf("it is pinned to %s", f.Worker())
	}
	j.answer(nil)
	c.ok()
	fills.answer(nil)
}

// The wait for the own worker is a part of the whole one, not in addition to it.
func TestSoftCheckoutTimeout(t *testing.T) {
	r := ready(t, two(pool.PinSoft), func(s *setup) { s.SoftWait, s.CheckoutTimeout = 20*time.Millisecond, 150*time.Millisecond })
	f, _ := pinned(r)
	r.run("run", nil)
	r.next() // now both are full
	begun := time.Now()
	e := r.submit(f, "run", nil).failed(wire.CodeCheckoutTimeout)
	if waited := time.Since(begun); waited < 150*time.Millisecond || !strings.Contains(e.Message, "any worker") {
		t.Errorf("after %s: %v", waited, e)
	}
}

// A session that waits softly for a worker that dies has the whole time left for the others.
func TestSoftWaitEndsWithTheWorker(t *testing.T) {
	r := ready(t, two(pool.PinSoft), func(s *setup) {
		s.SoftWait, s.CheckoutTimeout = 150*time.Millisecond, long
		s.starter.Fail = func(id string) error { // the dead one is not replaced
			if id == "worker_1" || id == "worker_2" {
				return nil
			}
			return wire.Errorf(wire.CodeInternal, "no more")
		}
	})
	f, fills := pinned(r)
	r.run("run", nil)
	other := r.next()
	waits := r.submit(f, "run", "waits")
	r.waiting(1)
	begun := time.Now()
	fills.w.Die()
	await(t, "more than the soft wait", func() bool { return time.Since(begun) > 250*time.Millisecond })
	if waits.isSettled() {
		t.Fatalf("settled: %v", waits.err)
	}
	other.answer(nil)
	r.next().answer(nil)
	waits.ok()
}

// Each call of a connection waits for a slot from the moment it is admitted; a session's from the moment its turn has come.
func TestCheckoutClocks(t *testing.T) {
	r := ready(t, func(s *setup) { s.CheckoutTimeout = 100 * time.Millisecond })
	r.run("run", "holds the slot")
	r.next()
	begun := time.Now()
	session := r.pool.NewFlow("s", true)
	var all []*call
	for range 3 {
		all = append(all, r.run("echo", nil))
	}
	for range 2 {
		all = append(all, r.submit(session, "echo", nil))
	}
	for _, c := range all {
		c.fails(wire.CodeCheckoutTimeout)
		if waited := c.at.Sub(begun); waited < 100*time.Millisecond {
			t.Errorf("a call waited for %s", waited)
		}
	}
	// The session's second call had its turn only when the first had given up; the connection's third call did not wait so long.
	if waited := all[4].at.Sub(begun); waited < 200*time.Millisecond || !all[2].at.Before(all[4].at) {
		t.Errorf("the session's second call waited for %s in all, the connection's third for %s", waited, all[2].at.Sub(begun))
	}
}

// While a session's call runs the next waits for its turn, and no clock but its deadline's goes.
func TestWaitingForATurnIsNoCheckout(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency, s.CheckoutTimeout = 2, 10*time.Millisecond })
	f := r.pool.NewFlow("s", true)
	first := r.submit(f, "run", nil)
	j := r.next()
	second := r.submit(f, "echo", nil)
	late := r.submit(f, "echo", nil, within(30*time.Millisecond))
	if e := late.failed(wire.CodeDeadlineExceeded); e.Details["ended_by"] != "queue" {
		t.Errorf("late: %v", e.Details)
	}
	if second.isSettled() {
		t.Fatalf("second: %v", second.err)
	}
	j.answer(nil)
	first.ok()
	second.ok()
}

// What waits behind a call that gave up takes its place, be it of another kind.
func TestBehindACallThatGaveUp(t *testing.T) {
	r := ready(t)
	r.run("run", nil)
	holds := r.next()
	f := r.pool.NewFlow("s", true)
	gives, local := r.submit(f, "echo", "gives up"), newCall(t, "local", nil)
	ran := make(chan struct{})
	local.Local, local.in = func(b *wire.Batch) {
		close(ran)
		f.EndTurn(b, &local.Call)
	}, f
	var batch wire.Batch
	f.Submit(&batch, &local.Call)
	last := r.submit(f, "run", "last")
	r.waiting(3)
	r.cancel(gives)
	gives.fails(wire.CodeCancelled)
	local.wait(ran, "run, for which it needs no slot")
	holds.answer(nil)
	r.next().answer(nil)
	last.ok()
}
