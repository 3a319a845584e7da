package pool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

func TestAdmission(t *testing.T) {
	r := ready(t)
	r.run("nothing", nil).fails(wire.CodeUnknownMethod)
	r.run("inside", nil).fails(wire.CodeInvalidParams)
	r.run("items", nil).fails(wire.CodeInvalidParams)
	r.run("echo", nil, func(c *call) { c.Meta.Stream = 1 }).fails(wire.CodeInvalidParams)
	if e := r.run("echo", nil, within(-time.Second)).failed(wire.CodeDeadlineExceeded); e.Details["ended_by"] != "queue" {
		t.Errorf("got %v", e.Details)
	}
	f := r.pool.NewFlow("s", true)
	r.submit(f, "echo", nil).ok()
	r.closeFlow(f)
	r.submit(f, "echo", nil).fails(wire.CodeSessionNotFound)
	if s := r.pool.Snapshot(); s.Waiting != 0 || s.InFlight != 0 {
		t.Errorf("left: %+v", s)
	}
}

func TestDeadlines(t *testing.T) {
	r := ready(t)
	held := r.run("run", nil)
	j := r.next()
	queued := r.run("run", nil, within(20*time.Millisecond))
	if e := queued.failed(wire.CodeDeadlineExceeded); e.Details["ended_by"] != "queue" || queued.meta.RunUS != -1 {
		t.Errorf("queued: %v, %+v", e.Details, queued.meta)
	}
	j.answer(nil)
	held.ok()
	running := r.run("run", nil, within(500*time.Millisecond))
	r.next()
	e := running.failed(wire.CodeDeadlineExceeded)
	// It is told how the call ended where the worker said so in time.
	if by := e.Details["ended_by"]; by != "task" && by != "pending" || running.meta.Worker == "" {
		t.Errorf("running: %v, %+v", e.Details, running.meta)
	}
	running.wait(running.ended, "finished")
	r.run("echo", nil).ok()
}

// The deadline passes, the call goes on, and then its client cancels it, its session ends and its worker answers: it is told its deadline, once,
// and its slot is free when the worker has answered.
func TestAfterTheDeadline(t *testing.T) {
	r := ready(t)
	f := r.pool.NewFlow("s", true)
	c := r.submit(f, "stubborn", nil, within(10*time.Millisecond))
	j := r.next()
	await(t, "it is being stopped", func() bool { return r.state(c) == "stopping" })
	r.cancel(c)
	r.closeFlow(f)
	if e := c.failed(wire.CodeDeadlineExceeded); e.Details["ended_by"] != "pending" {
		t.Errorf("got %v", e.Details)
	}
	r.cancel(c)
	await(t, "the worker is told to stop", func() bool { return r.cancelled() > 0 })
	if r.pool.Snapshot().InFlight != 1 {
		t.Error("the slot is free, and the worker has not answered")
	}
	j.w.Send(wire.KindItem, j.m.ID, nil, 1) // wanted by nobody
	j.answer(nil)
	c.wait(c.ended, "finished")
	r.cancel(c)
	r.run("echo", nil).ok() // what was sent before it has arrived
	if n := r.cancelled(); n != 1 {
		t.Errorf("the worker was told to stop %d times", n)
	}
}

// A result that crosses the cancel on its way is not the outcome any more.
func TestAnswerThatCrossesACancel(t *testing.T) {
	r := ready(t)
	c := r.run("stubborn", nil)
	j := r.next()
	r.cancel(c)
	j.answer("too late")
	if e := c.failed(wire.CodeCancelled); e.Details["ended_by"] != "answer" && e.Details["ended_by"] != "pending" {
		t.Errorf("got %v", e.Details)
	}
	c.wait(c.ended, "finished")
}

// What a call that was cancelled has used is told where it stopped in time.
func TestUsageOfACancelledCall(t *testing.T) {
	r := ready(t)
	c := r.run("stubborn", nil)
	j := r.next()
	r.cancel(c)
	if j.take() {
		j.w.Send(wire.KindResponse, j.m.ID, map[string]any{"usage": map[string]any{"lm_calls": 3}}, wire.Errorf(wire.CodeCancelled, "stopped").With("ended_by", "task"), nil)
	}
	e := c.failed(wire.CodeCancelled)
	usage, _ := wire.Marshal(map[string]any{"lm_calls": 3})
	if e.Details["ended_by"] == "task" && string(c.meta.Usage) != string(usage) {
		t.Errorf("usage: %x", c.meta.Usage)
	}
	c.wait(c.ended, "finished")
}

func TestCancelWhileQueued(t *testing.T) {
	r := ready(t)
	r.run("run", nil)
	j := r.next()
	c, behind := r.run("run", "cancelled"), r.run("echo", nil)
	r.cancel(c)
	if e := c.failed(wire.CodeCancelled); e.Details["ended_by"] != "queue" {
		t.Errorf("got %v", e.Details)
	}
	c.wait(c.ended, "finished")
	j.answer(nil)
	behind.ok()
	r.idle()
	if r.cancelled() != 0 {
		t.Error("the worker heard of it")
	}
}

// A queue that is full sheds the last call of whoever has most waiting, and says when to come again.
func TestShedding(t *testing.T) {
	r := ready(t, func(s *setup) { s.QueueLimit = 4 })
	r.run("echo", nil).ok()
	r.run("run", nil)
	held := r.next()
	session, other := r.pool.NewFlow("greedy", true), r.pool.NewFlow("greedy", false)
	var of [3]*call
	for i := range of {
		of[i] = r.submit(session, "echo", i)
	}
	one := r.submit(other, "echo", nil)
	if s := r.pool.Snapshot(); s.Waiting != 4 || !s.QueueFull {
		t.Fatalf("%+v", s)
	}
	modest := r.submit(r.pool.NewFlow("modest", false), "echo", nil)
	e := of[2].failed(wire.CodeQueueFull)
	if after, _ := e.Details["retry_after_ms"].(int64); !e.Retryable || after < 10 || after > 60_000 {
		t.Errorf("got %v", e.Details)
	}
	// The largest share is the greedy owner's still: its own next call goes, too.
	r.submit(session, "echo", 3).fails(wire.CodeQueueFull)
	held.answer(nil)
	for _, c := range []*call{of[0], of[1], one, modest} {
		c.ok()
	}
}

func TestNoQueue(t *testing.T) {
	r := ready(t, func(s *setup) { s.QueueLimit = 0 })
	r.run("run", nil)
	j := r.next()
	r.run("echo", nil).fails(wire.CodeQueueFull)
	j.answer(nil)
	await(t, "the slot is free", func() bool { return r.pool.Snapshot().InFlight == 0 })
	r.run("echo", nil).ok()
}

// One greedy owner with many flows among nine with one: each of the nine has its turn among ten.
func TestFairTurns(t *testing.T) {
	r := ready(t)
	r.run("run", "holds")
	held := r.next()
	for i := range 20 {
		f := r.pool.NewFlow("greedy", i%2 == 0)
		for range 10 {
			r.submit(f, "run", "greedy")
		}
	}
	const rounds = 3
	for n := range 9 {
		f := r.pool.NewFlow(fmt.Sprint("normal ", n), n%2 == 0)
		for range rounds {
			r.submit(f, "run", fmt.Sprint("normal ", n))
		}
	}
	held.answer(nil)
	for round := range rounds {
		turns := map[any]bool{}
		for range 10 {
			j := r.next()
			turns[j.value()] = true
			j.answer(nil)
		}
		if len(turns) != 10 {
			t.Fatalf("round %d: turns of %v", round, turns)
		}
	}
}

// Within an owner its flows take turns.
func TestFairTurnsByFlow(t *testing.T) {
	r := ready(t)
	r.run("run", "holds")
	held := r.next()
	for i := range 3 {
		f := r.pool.NewFlow("owner", i > 0)
		for range 4 {
			r.submit(f, "run", i)
		}
	}
	held.answer(nil)
	for range 4 {
		turns := map[any]bool{}
		for range 3 {
			j := r.next()
			turns[j.value()] = true
			j.answer(nil)
		}
		if len(turns) != 3 {
			t.Fatalf("turns of %v", turns)
		}
	}
}

// Calls that wait for one worker and calls that wait for any take turns.
func TestPinnedAndOthersTakeTurns(t *testing.T) {
	r := ready(t)
	f := r.pool.NewFlow("s", true)
	r.submit(f, "echo", nil).ok()
	r.run("run", "holds")
	held := r.next()
	for range 3 {
		r.submit(f, "run", "pinned")
		r.run("run", "any")
	}
	held.answer(nil)
	last := any("")
	for range 6 {
		j := r.next()
		if j.value() == last {
			t.Fatalf("%v twice", last)
		}
		last = j.value()
		j.answer(nil)
	}
}

// A call that is safe to run again is, once, and in its order; others are lost, and may have run.
func TestWorkerDies(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 10 })
	var safe []*call
	for i := range 5 {
		safe = append(safe, r.run("safe", i))
	}
	said := r.run("run", "as the call says", func(c *call) { c.Meta.RetrySafe = true })
	not := r.run("run", nil)
	var w *job
	for range 7 {
		w = r.next()
	}
	w.w.Die()
	if e := not.failed(wire.CodeWorkerLost); e.Details["maybe_executed"] != true || e.Retryable {
		t.Errorf("got %v", e)
	}
	for i := range 5 {
		j := r.next()
		if got := fmt.Sprint(j.value()); got != fmt.Sprint(i) {
			t.Errorf("%s came %dth", got, i)
		}
		if i > 0 {
			j.answer(nil)
		}
	}
	again := r.next()
	again.w.Die() // the second time nothing is run again
	said.fails(wire.CodeWorkerLost)
	safe[0].fails(wire.CodeWorkerLost)
	for _, c := range safe[1:] {
		c.wait(c.settled, "settled") // answered before the death, or lost with it
	}
	r.readyWorkers(1)
	r.idle()
	if !safe[0].again[1] || safe[0].again[0] {
		t.Errorf("told to Dispatch: %v", safe[0].again)
	}
}

// What a client has seen a part of, or was asked for, is not run again.
func TestNotAgainAfterAnItem(t *testing.T) {
	r := ready(t)
	stream := func(c *call) { c.Meta.Stream = 5 }
	c := r.run("items", nil, stream)
	r.next().w.Die()
	j := r.next() // nothing had been delivered
	j.w.Send(wire.KindItem, j.m.ID, nil, "first")
	await(t, "the item", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.items == 1 })
	j.w.Die()
	c.fails(wire.CodeWorkerLost)
	c = r.run("items", nil, stream)
	j = r.next()
	j.w.Send(wire.KindItem, j.m.ID, nil, "first")
	await(t, "the item", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.items == 1 })
	j.w.Die()
	c.fails(wire.CodeWorkerLost)
	c = r.run("safe", nil)
	j = r.next()
	j.w.Send(wire.KindRequest, 1, "client.x", map[string]any{"call": j.m.ID}, nil)
	await(t, "the request", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.asks) == 1 })
	j.w.Die()
	c.fails(wire.CodeWorkerLost)
	r.readyWorkers(1)
	r.idle()
}

// A worker says of a call of a safe method that it is not safe any more. What its client said counts for more.
func TestNotAgainAfterTheWorkerSaidSo(t *testing.T) {
	r := ready(t)
	unsafe := func(j *job) {
		j.w.Send(wire.KindRequest, 1, "call.unsafe", nil, map[string]any{"call": j.m.ID + 1000}) // of no call: nothing happens
		j.w.Send(wire.KindRequest, 2, "call.unsafe", nil, map[string]any{"call": j.m.ID})
		j.w.Die() // what was sent before it is read all the same
	}
	c := r.run("safe", nil)
	unsafe(r.next())
	if e := c.failed(wire.CodeWorkerLost); e.Details["maybe_executed"] != true {
		t.Errorf("got %v", e.Details)
	}
	c = r.run("safe", nil, func(c *call) { c.Meta.RetrySafe = true })
	unsafe(r.next())
	r.next().answer(nil)
	c.ok()
	c = r.run("safe", nil)
	j := r.next()
	j.w.Send(wire.KindRequest, 3, "call.unsafe", nil, map[string]any{"call": "x"})
	j.answer(nil)
	c.ok()
	r.readyWorkers(1)
	r.idle()
}

// Credit that is granted while a call waits, or before it is run again, is not lost.
func TestCreditBeforeTheWorkerHasTheCall(t *testing.T) {
	r := ready(t)
	r.run("run", nil)
	held := r.next()
	c := r.run("items", nil, func(c *call) { c.Meta.Stream = 1 })
	var batch wire.Batch
	r.pool.Grant(&batch, &c.Call, 41)
	held.answer(nil)
	j := r.next()
	if got := fmt.Sprint(j.m.Meta["stream"]); got != "42" {
		t.Errorf("credit of the request: %s", got)
	}
	r.pool.Grant(&batch, &c.Call, 8)
	batch.Flush()
	j.w.Die()
	j = r.next()
	if got := fmt.Sprint(j.m.Meta["stream"]); got != "50" {
		t.Errorf("credit of the request that was sent again: %s", got)
	}
	j.answer(nil)
	c.ok()
}

func TestStaleSession(t *testing.T) {
	r := ready(t)
	f := r.pool.NewFlow("s", true)
	stale := &wire.Error{Code: wire.CodeStaleSession, Message: "it holds version 3"}
	c := r.submit(f, "run", nil)
	r.next().refuse(stale)
	r.next().refuse(stale)
	r.next().answer(nil)
	c.ok()
	if len(c.again) != 3 || c.again[0] || !c.again[1] || !c.again[2] {
		t.Errorf("told to Dispatch: %v", c.again)
	}
	c = r.submit(f, "run", nil)
	for range 3 {
		r.next().refuse(stale)
	}
	if e := c.failed(wire.CodeSessionLost); e.Details["reason"] != stale.Message {
		t.Errorf("got %v", e.Details)
	}
	// What has been delivered is not run again, and a call without a session cannot be stale.
	c = r.submit(f, "items", nil, func(c *call) { c.Meta.Stream = 5 })
	j := r.next()
	j.w.Send(wire.KindItem, j.m.ID, nil, 1)
	j.refuse(stale)
	c.fails(wire.CodeSessionLost)
	c = r.run("run", nil, func(c *call) { c.Owned = false })
	r.next().refuse(stale)
	c.fails(wire.CodeInternal)
	r.run("echo", nil).ok()
	r.idle()
}

// A call that has ended leaves nothing of what it asked its client, which may never answer.
func TestAsksEndWithTheirCall(t *testing.T) {
	r := ready(t)
	c := r.run("run", nil)
	j := r.next()
	j.w.Send(wire.KindRequest, 5, "client.x", map[string]any{"call": j.m.ID}, nil)
	await(t, "the request", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.asks) == 1 })
	j.answer(nil)
	c.ok()
	// The id is free: the worker has been answered.
	c = r.run("run", nil)
	j = r.next()
	j.w.Send(wire.KindRequest, 5, "client.x", map[string]any{"call": j.m.ID}, nil)
	await(t, "the request", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.asks) == 1 })
	var batch wire.Batch
	c.asks[0].Answer(&batch, wire.Nil, true, nil)
	c.asks[0].Answer(&batch, wire.Nil, true, nil)
	batch.Flush()
	j.answer(nil)
	c.ok()
	if n := len(r.starter.Workers()); n != 1 {
		t.Errorf("%d workers were needed", n)
	}
}

// A worker that says no more of its answers than it has to is counted as it should be.
func TestFigures(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency = 2, 3 })
	r.run("echo", nil).ok()
	refused := r.run("run", nil)
	r.next().refuse(wire.Errorf(wire.CodeProgramError, "as asked"))
	refused.fails(wire.CodeProgramError)
	refused.wait(refused.ended, "finished")
	r.run("run", nil)
	j := r.next()
	s := r.pool.Snapshot()
	if s.Commands != 3 || s.Errors != 1 || s.InFlight != 1 || s.Slots() != 6 || s.Ready() != 2 || s.Restarts != 0 || s.Name != "test" {
		t.Errorf("%+v", s)
	}
	j.w.Die()
	r.readyWorkers(2)
	await(t, "one restart", func() bool { s := r.pool.Snapshot(); return s.Restarts == 1 && s.LastFailure != "" })
}

var _ pool.Handler = (*call)(nil)
