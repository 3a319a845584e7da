package pool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// A session's calls run one at a time, in order, and the next is sent when the turn has ended, not when the client was answered.
func TestTurns(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency = 2, 4 })
	f := r.pool.NewFlow("s", true)
	first := r.submit(f, "run", 0, func(c *call) { c.keep = true })
	rest := []*call{r.submit(f, "run", 1), r.submit(f, "look", 2), r.submit(f, "run", 3)}
	r.next().answer(nil)
	first.ok()
	if waiting, running := f.Waiting(); waiting != 3 || !running {
		t.Errorf("waiting %d, running %v", waiting, running)
	}
	r.run("echo", nil).ok()
	r.idle()
	var batch wire.Batch
	first.endTurn(&batch)
	batch.Flush()
	for i, c := range rest {
		j := r.next()
		if got := fmt.Sprint(j.value()); got != fmt.Sprint(i+1) {
			t.Errorf("%s came in place of %d", got, i+1)
		}
		r.idle()
		j.answer(nil)
		c.ok()
	}
}

// Read-only calls of a session that shares its turns run beside each other; others wait for them, and they for others.
func TestSharedTurns(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 10 })
	f := r.pool.NewFlow("s", true)
	f.Share(true)
	for _, method := range []string{"look", "look", "run", "look", "look"} {
		r.submit(f, method, method)
	}
	a, b := r.next(), r.next()
	if a.m.Method != "look" || b.m.Method != "look" {
		t.Fatalf("first came %s and %s", a.m.Method, b.m.Method)
	}
	a.answer(nil)
	r.run("echo", nil).ok()
	r.idle()
	b.answer(nil)
	writes := r.next()
	if writes.m.Method != "run" {
		t.Fatalf("then came %s", writes.m.Method)
	}
	r.run("echo", nil).ok()
	r.idle()
	writes.answer(nil)
	r.next().answer(nil)
	r.next().answer(nil)
}

// local makes a call that runs in the sidecar, and ends when the test says.
func (r *rig) local(f *pool.Flow, change ...func(*call)) (c *call, running chan struct{}) {
	r.tb.Helper()
	c, running = newCall(r.tb, "local", nil), make(chan struct{})
	c.in, c.Local = f, func(*wire.Batch) { close(running) }
	for _, do := range change {
		do(c)
	}
	var batch wire.Batch
	f.Submit(&batch, &c.Call)
	batch.Flush()
	return c, running
}

func TestLocalCallsTakeTheirTurn(t *testing.T) {
	r := ready(t)
	f := r.pool.NewFlow("s", true)
	first := r.submit(f, "run", nil)
	j := r.next()
	local, running := r.local(f)
	after := r.submit(f, "echo", nil)
	select {
	case <-running:
		t.Fatal("it runs beside another call")
	default:
	}
	j.answer(nil)
	first.ok()
	local.wait(running, "run")
	r.run("echo", nil).ok() // it takes no slot
	r.cancel(local)         // and cannot be stopped
	if after.isSettled() || local.isSettled() || r.state(local) != "running" {
		t.Error("its turn ended by itself")
	}
	var batch wire.Batch
	local.endTurn(&batch)
	batch.Flush()
	after.ok()
}

// A deadline that passes while a call runs in the sidecar is that call's own affair.
func TestLocalCallBeyondItsDeadline(t *testing.T) {
	t.Parallel()
	r := ready(t)
	f := r.pool.NewFlow("s", true)
	begun := time.Now()
	local, running := r.local(f, within(500*time.Millisecond))
	local.wait(running, "run")
	await(t, "its deadline has passed", func() bool { return time.Since(begun) > 550*time.Millisecond })
	late := r.run("run", nil, within(10*time.Millisecond)) // the clock goes on
	late.fails(wire.CodeDeadlineExceeded)
	var batch wire.Batch
	local.endTurn(&batch)
	batch.Flush()
	r.submit(f, "echo", nil).ok()
	if local.isSettled() {
		t.Errorf("settled by the pool: %v", local.err)
	}
}

func TestLocalCallThatNeverRan(t *testing.T) {
	r := ready(t)
	f := r.pool.NewFlow("s", true)
	r.submit(f, "run", nil)
	j := r.next()
	late, running := r.local(f, within(10*time.Millisecond))
	late.fails(wire.CodeDeadlineExceeded)
	late.wait(late.ended, "finished")
	j.answer(nil)
	r.submit(f, "echo", nil).ok()
	select {
	case <-running:
		t.Error("it ran after its deadline")
	default:
	}
}

// Closing a flow settles all of its calls at once, those that run included, whose slots are free when they have stopped.
func TestFlowClose(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 2 })
	f := r.pool.NewFlow("s", true)
	running := r.submit(f, "stubborn", nil)
	j := r.next()
	waits := r.submit(f, "run", nil)
	local, _ := r.local(f)
	r.closeFlow(f)
	for _, c := range []*call{running, waits, local} {
		c.fails(wire.CodeSessionNotFound)
	}
	if s := r.pool.Snapshot(); s.InFlight != 1 || s.Waiting != 0 || s.Workers[0].Pins != 0 {
		t.Errorf("%+v", s)
	}
	r.closeFlow(f) // means nothing
	await(t, "the worker is told to stop", func() bool { return r.cancelled() == 1 })
	j.answer(nil)
	running.wait(running.ended, "finished")
	r.submit(f, "echo", nil).fails(wire.CodeSessionNotFound)
	await(t, "the slot is free", func() bool { return r.pool.Snapshot().InFlight == 0 })
	if n := r.cancelled(); n != 1 {
		t.Errorf("the worker was told to stop %d times", n)
	}
}

// A connection that ends stops what it has running, which is not run again then.
func TestCloseOfAFlowWithoutTurns(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 2 })
	f := r.pool.NewFlow("c", false)
	stubborn, safe := r.submit(f, "stubborn", nil), r.submit(f, "safe", nil)
	j := r.next()
	r.next()
	r.closeFlow(f)
	stubborn.fails(wire.CodeSessionNotFound)
	safe.fails(wire.CodeSessionNotFound)
	safe.wait(safe.ended, "finished: the worker was told to stop it")
	j.w.Die()
	stubborn.wait(stubborn.ended, "finished")
	r.readyWorkers(1)
	r.idle()
}

// What a pool keeps is of flows that are open, calls in flight and workers that live: nothing is left of those that were.
func TestNothingIsLeft(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency, s.QueueLimit = 2, 2, 5 })
	for i := range 200 {
		f := r.pool.NewFlow(fmt.Sprint("owner ", i%50), i%2 == 0)
		calls := []*call{r.submit(f, "run", nil, within(long)), r.submit(f, "run", nil)}
		if i%40 == 0 {
			r.next().w.Die()
		}
		r.closeFlow(f)
		for _, c := range calls {
			c.wait(c.settled, "settled")
			c.wait(c.ended, "finished")
		}
	}
	r.closeFlow(r.flow)
	if err := r.pool.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if books := r.pool.Books(); books != "" {
		t.Errorf("left: %s", books)
	}
}

// A flow that waits for a slot leaves the ring when it is closed, and those behind it have their turn.
func TestFlowCloseWhileWaiting(t *testing.T) {
	r := ready(t)
	r.run("run", nil)
	held := r.next()
	var flows []*pool.Flow
	var calls []*call
	for i := range 5 {
		f := r.pool.NewFlow("owner", i%2 == 0)
		flows = append(flows, f)
		calls = append(calls, r.submit(f, "echo", i), r.submit(f, "echo", i))
	}
	for _, i := range []int{2, 0, 4} {
		r.closeFlow(flows[i])
	}
	held.answer(nil)
	for i, c := range calls {
		if i/2%2 == 0 {
			c.fails(wire.CodeSessionNotFound)
		} else {
			c.ok()
		}
	}
}

// A read-only call whose worker says that it has to write waits for those that run beside it, and then has the session for itself. The order in
// which the calls came is kept, whichever of them was answered first.
func TestTurnWanted(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 10 })
	f := r.pool.NewFlow("s", true)
	f.Share(true)
	wanted := &wire.Error{Code: wire.CodeTurnWanted, Message: "it writes"}
	var calls []*call
	for i, method := range []string{"look", "look", "look", "run", "look"} {
		calls = append(calls, r.submit(f, method, i))
	}
	jobs := map[string]*job{}
	for range 3 {
		j := r.next()
		jobs[fmt.Sprint(j.value())] = j
	}
	jobs["1"].refuse(wanted)
	jobs["0"].refuse(wanted)
	r.run("echo", nil).ok()
	r.idle() // the third reads on
	jobs["2"].answer(nil)
	calls[2].ok()
	for _, i := range []int{0, 1, 3, 4} {
		j := r.next()
		if got := fmt.Sprint(j.value()); got != fmt.Sprint(i) {
			t.Fatalf("%s came in place of %d", got, i)
		}
		r.run("echo", nil).ok()
		r.idle()
		j.answer(nil)
		calls[i].ok()
	}
	if readers := calls[0].reads; len(readers) != 2 || !readers[0] || readers[1] {
		t.Errorf("told to Dispatch that it reads: %v", readers)
	}
	// It is granted once, to a call that has begun nothing, in a session.
	c := r.submit(f, "look", nil)
	r.next().refuse(wanted)
	r.next().refuse(wanted)
	c.fails(wire.CodeInternal)
	c = r.submit(f, "items", nil, func(c *call) { c.Meta.Stream = 5 })
	j := r.next()
	j.w.Send(wire.KindItem, j.m.ID, nil, 1)
	j.refuse(wanted)
	c.fails(wire.CodeInternal)
	c = r.run("run", nil, func(c *call) { c.Owned = false })
	r.next().refuse(wanted)
	c.fails(wire.CodeInternal)
	r.run("echo", nil).ok()
	r.idle()
}
