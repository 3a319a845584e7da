package pool_test

import (
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
)

// A session has no more calls in flight than the limit says: those that wait count, those that run, and those whose turn has not ended.
func TestMaxInFlight(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency, s.MaxInFlight = 4, 3 })
	f := r.pool.NewFlow("main", true)
	f.Share(true)
	keep := func(c *call) { c.keep = true }
	first, second := r.submit(f, "look", nil, keep), r.submit(f, "look", nil, keep)
	local, running := r.local(f)
	e := r.submit(f, "echo", nil).failed(wire.CodeQueueFull)
	if ms, _ := e.Details["retry_after_ms"].(int64); !e.Retryable || ms < 10 || e.Details["limit"] != 3 || e.Details["setting"] != "sessions.max_in_flight" {
		t.Errorf("%v, %v", e, e.Details)
	}
	for range 5 { // a connection has no such limit, and other sessions have one of their own
		r.run("run", nil)
	}
	r.submit(r.pool.NewFlow("main", true), "echo", nil)
	a, b := r.next(), r.next()
	a.answer(nil)
	b.answer(nil)
	first.ok()
	second.ok()
	r.submit(f, "echo", nil).fails(wire.CodeQueueFull)
	var batch wire.Batch
	second.endTurn(&batch)
	r.submit(f, "echo", nil)
	r.submit(f, "echo", nil).fails(wire.CodeQueueFull)
	first.endTurn(&batch)
	local.wait(running, "run")
	r.submit(f, "echo", nil)
	r.submit(f, "echo", nil).fails(wire.CodeQueueFull)
	local.endTurn(&batch)
	batch.Flush()
}

// A call that is run again is not one more.
func TestMaxInFlightAfterADeath(t *testing.T) {
	r := ready(t, func(s *setup) { s.MaxInFlight = 2 })
	f := r.pool.NewFlow("main", true)
	calls := []*call{r.submit(f, "safe", nil), r.submit(f, "echo", nil)}
	r.next().w.Die()
	r.next().answer(nil)
	for _, c := range calls {
		c.ok()
	}
}
