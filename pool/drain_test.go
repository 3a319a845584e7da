package pool_test

import (
	"context"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// drain begins to drain; what it returns brings the result.
func (r *rig) drain() chan error {
	done := make(chan error, 1)
	go func() { done <- r.pool.Drain(r.tb.Context()) }()
	await(r.tb, "it drains", r.pool.Draining)
	return done
}

// A drain refuses new calls, but not those within others, and lasts until the last turn has ended.
func TestDrain(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 2 })
	f := r.pool.NewFlow("s", true)
	running, waits := r.run("run", "first"), r.submit(f, "run", "second", func(c *call) { c.keep = true })
	first, second := r.next(), r.next()
	queued := r.run("echo", nil)
	drained := r.drain()
	r.run("echo", nil).fails(wire.CodeDraining)
	nested := r.run("echo", nil, func(c *call) { c.Nested = true })
	first.answer(nil)
	for _, c := range []*call{running, queued, nested} {
		c.ok()
	}
	second.answer(nil)
	waits.ok()
	local, running2 := r.local(f, func(c *call) { c.Nested = true })
	select {
	case err := <-drained:
		t.Fatalf("drained before the turn ended: %v", err)
	default:
	}
	var batch wire.Batch
	waits.endTurn(&batch)
	local.wait(running2, "run")
	select {
	case err := <-drained:
		t.Fatalf("drained beside a call that runs: %v", err)
	default:
	}
	local.endTurn(&batch)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestDrainOfNothing(t *testing.T) {
	r := ready(t)
	if err := r.pool.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDrainThatTakesTooLong(t *testing.T) {
	r := ready(t)
	c := r.run("run", nil)
	r.next()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.pool.Drain(ctx); err == nil {
		t.Error("drained, with a call in flight")
	}
	r.close(patience)
	c.fails(wire.CodeCancelled)
}

// The calls of a worker that died are a drain's affair until they have been settled, too.
func TestDrainWaitsForLostCalls(t *testing.T) {
	r := ready(t, func(s *setup) { s.starter.Deaf = true })
	c := r.run("run", nil)
	j := r.next()
	drained := r.drain()
	j.w.CloseChannel() // how it ended is waited for, and then it is killed
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if !c.isSettled() {
		t.Error("drained, and a call is not settled")
	}
	c.fails(wire.CodeWorkerLost)
}

// Close settles what waits and stops what runs, and lets workers that end by themselves do so.
func TestClose(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size = 2 })
	running := r.run("run", nil)
	r.next()
	stubborn := r.run("stubborn", nil)
	j := r.next()
	queued := r.run("echo", nil)
	nested := newCall(t, "echo", nil)
	closed := make(chan struct{})
	go func() {
		r.close(patience)
		close(closed)
	}()
	queued.fails(wire.CodeDraining)
	running.fails(wire.CodeCancelled)
	stubborn.fails(wire.CodeCancelled)
	nested.Nested, nested.in = true, r.flow
	var batch wire.Batch
	r.flow.Submit(&batch, &nested.Call)
	nested.fails(wire.CodeDraining)
	j.answer(nil)
	stubborn.wait(stubborn.ended, "finished")
	stubborn.wait(closed, "closed")
	for _, w := range r.starter.Workers() {
		if got := w.Exit(); got != "exit code 0" {
			t.Errorf("%s: %s", w.Name, got)
		}
	}
}

// A worker that ignores everything is killed at the limit, and its calls are settled.
func TestCloseWithAWorkerThatIgnoresEverything(t *testing.T) {
	r := ready(t, func(s *setup) { s.starter.Deaf = true })
	f := r.pool.NewFlow("s", true)
	c, waits := r.submit(f, "stubborn", nil), r.submit(f, "run", nil)
	r.next()
	begun := time.Now()
	r.close(100 * time.Millisecond)
	if took := time.Since(begun); took < 100*time.Millisecond {
		t.Errorf("it had %s to end", took)
	}
	c.fails(wire.CodeCancelled)
	c.wait(c.ended, "finished")
	waits.fails(wire.CodeDraining)
	if got := r.starter.Workers()[0].Exit(); got != "killed by the pool" {
		t.Errorf("the worker: %s", got)
	}
}
