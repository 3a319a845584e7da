package pool_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// sessions makes n sessions, and has each send a call.
func (r *rig) sessions(n int) []*pool.Flow {
	r.tb.Helper()
	flows := make([]*pool.Flow, n)
	for i := range flows {
		flows[i] = r.pool.NewFlow(fmt.Sprint("owner ", i%7), true)
	}
	r.callAll(flows)
	return flows
}

// callAll has each of the flows send a call, one after the other, and says how many went to another worker than the one before.
func (r *rig) callAll(flows []*pool.Flow) (moved int) {
	r.tb.Helper()
	for _, f := range flows {
		before := f.Worker()
		r.submit(f, "echo", nil).ok()
		r.rests(f)
		if before != f.Worker() {
			moved++
		}
	}
	return moved
}

// rests waits until no call has the flow's turn, which ends after the call.
func (r *rig) rests(f *pool.Flow) {
	r.tb.Helper()
	await(r.tb, "the turn ends", func() bool { _, running := f.Waiting(); return !running })
}

// even fails the test where a worker has a session more than its share.
func (r *rig) even(sessions, workers int) {
	r.tb.Helper()
	s := r.pool.Snapshot()
	if s.Ready() != workers {
		r.tb.Fatalf("%d workers are ready", s.Ready())
	}
	share := (sessions + workers - 1) / workers
	for _, w := range s.Workers {
		if w.State == "ready" && w.Pins > share {
			r.tb.Errorf("%s has %d sessions, and its share is %d", w.ID, w.Pins, share)
		}
	}
}

func TestPinsAreEven(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency = 4, 64 })
	r.sessions(1000)
	r.even(1000, 4)
}

// When a pool has become larger the sessions spread again as their calls come, each once at most, and then they stay.
func TestPinsSpreadAfterAResize(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency = 2, 64 })
	flows := r.sessions(100)
	if moved := r.callAll(flows); moved != 0 {
		t.Errorf("%d sessions moved at once", moved)
	}
	r.resize(5, 0)
	r.readyWorkers(5)
	if moved := r.callAll(flows); moved != 60 {
		t.Errorf("%d sessions moved to three new workers of five", moved)
	}
	r.even(100, 5)
	if moved := r.callAll(flows); moved != 0 {
		t.Errorf("%d sessions moved again", moved)
	}
	for i := range flows[:50] { // some go, others come
		r.closeFlow(flows[i])
	}
	flows = append(flows[50:], r.sessions(20)...)
	if moved := r.callAll(flows); moved != 0 {
		t.Errorf("%d sessions moved because others went", moved)
	}
	r.resize(2, 0)
	r.readyWorkers(2)
	r.callAll(flows)
	if moved := r.callAll(flows); moved != 0 {
		t.Errorf("%d sessions moved again after the pool became smaller", moved)
	}
}

// The sessions of a worker that is replaced go to the one in its place; those of others stay where they are.
func TestPinsAfterAReplacement(t *testing.T) {
	for name, end := range map[string]func(*rig){
		"recycled": func(r *rig) { r.pool.RecycleWorker("worker_1", "the test says so") },
		"died":     func(r *rig) { r.starter.Named("worker_1").Die() },
	} {
		t.Run(name, func(t *testing.T) {
			r := ready(t, func(s *setup) { s.Size, s.Concurrency = 4, 64 })
			flows := r.sessions(100)
			end(r)
			await(t, "another is in its place", func() bool {
				names := r.names()
				return len(names) == 4 && names[0] != "worker_1"
			})
			if moved := r.callAll(flows); moved != 25 {
				t.Errorf("%d sessions moved", moved)
			}
			r.even(100, 4)
		})
	}
}

// A session with a call at its worker stays there, and its next call is in order.
func TestPinsOfBusySessionsStay(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 64 })
	flows := r.sessions(4)
	f := flows[0]
	f.Share(true)
	reads := r.submit(f, "look", nil)
	j := r.next()
	r.resize(2, 0)
	r.readyWorkers(2)
	second := r.submit(f, "look", nil)
	if k := r.next(); k.w.Name != j.w.Name {
		t.Errorf("two readers are at %s and %s", j.w.Name, k.w.Name)
	} else {
		k.answer(nil)
	}
	second.ok()
	j.answer(nil)
	reads.ok()
	if moved := r.callAll(flows); moved != 2 {
		t.Errorf("%d sessions moved", moved)
	}
}

// moved moves a session, and fails the test where it cannot be.
func (r *rig) move(f *pool.Flow, to string) {
	r.tb.Helper()
	if err := f.Move(to); err != nil {
		r.tb.Fatal(err)
	}
}

// other is the one of two workers that is not this one.
func other(name string) string {
	if name == "worker_1" {
		return "worker_2"
	}
	return "worker_1"
}

func TestMove(t *testing.T) {
	r := ready(t, two(pool.PinStrict))
	f := r.pool.NewFlow("main", true)
	r.callAll([]*pool.Flow{f})
	for _, to := range []string{"worker_1", "worker_2", "worker_2", "worker_1"} {
		r.move(f, to)
		if got := f.Worker(); got != to {
			t.Errorf("it is pinned to %s, not %s", got, to)
		}
		c := r.submit(f, "run", nil)
		j := r.next()
		if j.w.Name != to {
			t.Errorf("its call came to %s", j.w.Name)
		}
		j.answer(nil)
		c.ok()
		r.rests(f)
	}
	r.move(f, "")
	if got := f.Worker(); got != "worker_2" {
		t.Errorf("it is pinned to %s", got)
	}
	fresh := r.pool.NewFlow("main", true) // never had a pin
	r.move(fresh, "worker_2")
	r.submit(fresh, "echo", nil).ok()
	if got := fresh.Worker(); got != "worker_2" {
		t.Errorf("the new one is pinned to %s", got)
	}
}

// What runs stays, what waits goes along: behind a call that runs, or for a slot of the worker that the session leaves.
func TestMoveWithCalls(t *testing.T) {
	r := ready(t, two(pool.PinStrict))
	f, fills := pinned(r)
	to := other(f.Worker())
	waits := r.submit(f, "run", nil)
	r.waiting(1)
	r.move(f, to)
	j := r.next()
	if j.w.Name != to {
		t.Fatalf("what waited for a slot went to %s", j.w.Name)
	}
	behind := r.submit(f, "run", nil)
	fills.answer(nil)
	r.move(f, fills.w.Name)
	if got := f.Worker(); got != to {
		t.Errorf("it moved to %s while its call runs", got)
	}
	j.answer(nil)
	waits.ok()
	if j = r.next(); j.w.Name != fills.w.Name {
		t.Errorf("what waited behind a call went to %s", j.w.Name)
	}
	j.answer(nil)
	behind.ok()
}

// Read-only calls that keep coming do not keep a session from moving, and what waits for it has no clock that goes.
func TestMoveEndsASharedTurn(t *testing.T) {
	r := ready(t, two(pool.PinStrict), func(s *setup) { s.CheckoutTimeout = 50 * time.Millisecond })
	f := r.pool.NewFlow("main", true)
	f.Share(true)
	first := r.submit(f, "look", nil)
	j := r.next()
	second := r.submit(f, "look", nil) // waits for the only slot
	r.waiting(1)
	r.move(f, other(j.w.Name))
	begun := time.Now()
	await(t, "more than the wait for a slot", func() bool { return time.Since(begun) > 100*time.Millisecond })
	third := r.submit(f, "look", nil)
	r.idle()
	j.answer(nil)
	first.ok()
	for _, c := range []*call{second, third} {
		k := r.next()
		if k.w.Name == j.w.Name {
			t.Errorf("it came to %s", k.w.Name)
		}
		k.answer(nil)
		c.ok()
	}
}

// A worker that ends before the session could move to it leaves it where it is.
func TestMoveToAWorkerThatEnds(t *testing.T) {
	r := ready(t, two(pool.PinStrict), func(s *setup) { s.CancelGrace = long })
	f := r.pool.NewFlow("main", true)
	c := r.submit(f, "run", nil)
	j := r.next()
	to := other(j.w.Name)
	r.move(f, to)
	r.starter.Named(to).Die()
	await(t, "it is gone", func() bool { return !slices.Contains(r.names(), to) })
	j.answer(nil)
	c.ok()
	r.submit(f, "echo", nil).ok()
	if got := f.Worker(); got != j.w.Name {
		t.Errorf("it is pinned to %s", got)
	}
}

func TestMoveToNowhere(t *testing.T) {
	r := ready(t)
	f := r.pool.NewFlow("main", true)
	r.submit(f, "echo", nil).ok()
	for to, want := range map[string]wire.Code{"worker_9": wire.CodeInvalidParams, "": wire.CodeNoWorkers} {
		if err := f.Move(to); err == nil || err.Code != want {
			t.Errorf("to %q: %v", to, err)
		}
	}
	if err := r.flow.Move("worker_1"); err == nil || err.Code != wire.CodeInvalidParams {
		t.Errorf("a connection: %v", err)
	}
	r.closeFlow(f)
	if err := f.Move("worker_1"); err == nil || err.Code != wire.CodeSessionNotFound {
		t.Errorf("a closed one: %v", err)
	}
}

// One that was moved by hand does not leave again to spread sessions.
func TestMovedByHandStays(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency = 2, 8 })
	flows := r.sessions(8)
	r.resize(3, 0)
	r.readyWorkers(3)
	for _, f := range flows {
		r.move(f, "worker_1")
	}
	if moved := r.callAll(flows); moved != 0 {
		t.Errorf("%d sessions moved on", moved)
	}
}
