package pool_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// A pause holds calls back without costing them anything but time.
func TestPause(t *testing.T) {
	t.Parallel()
	r := ready(t, func(s *setup) { s.Concurrency, s.CheckoutTimeout = 4, 50*time.Millisecond })
	session := r.pool.NewFlow("main", true)
	r.submit(session, "echo", nil).ok()
	running := r.run("run", "before")
	atRun := r.next()
	if !r.pool.Pause() || r.pool.Pause() || !r.pool.Snapshot().Paused {
		t.Fatal("not paused, or twice")
	}
	pinned := []*call{r.submit(session, "echo", 1), r.submit(session, "echo", 2)}
	free := r.run("echo", 3)
	late := r.run("echo", nil, within(100*time.Millisecond))
	atRun.answer(nil)
	running.ok()
	late.fails(wire.CodeDeadlineExceeded) // twice the time that a slot may be waited for
	for _, c := range append(pinned, free) {
		if c.isSettled() {
			t.Error("settled in a pause")
		}
	}
	if n := len(r.starter.Workers()); n != 1 {
		t.Errorf("%d workers were started", n)
	}
	if !r.pool.Resume() || r.pool.Resume() {
		t.Fatal("not resumed, or twice")
	}
	for _, c := range append(pinned, free) {
		c.ok()
	}
}

// What was left of the wait for a slot when the pause began is left when it ends.
func TestPauseStopsTheCheckoutClock(t *testing.T) {
	t.Parallel()
	const limit = 300 * time.Millisecond
	r := ready(t, func(s *setup) { s.CheckoutTimeout = limit })
	r.run("run", nil)
	r.next()
	began := time.Now()
	waits := r.run("echo", nil)
	r.pool.Pause()
	paused := time.Now()
	during := r.run("echo", nil, within(2*limit))
	during.fails(wire.CodeDeadlineExceeded) // the pause lasts that long
	if waits.isSettled() {
		t.Fatal("the limit ran in the pause")
	}
	stood := time.Since(paused)
	r.pool.Resume()
	waits.fails(wire.CodeCheckoutTimeout)
	if took := time.Since(began); took < limit+stood {
		t.Errorf("it was given up after %s, of which it could wait %s and %s were the pause", took, limit, stood)
	}
}

func TestDrainEndsAPause(t *testing.T) {
	t.Parallel()
	r := ready(t)
	r.pool.Pause()
	c := r.run("echo", nil)
	if err := r.pool.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.ok()
	if r.pool.Pause() {
		t.Error("a pool that drains was paused")
	}
}

// The worker that a session waits for dies in the pause.
func TestAWorkerDiesInAPause(t *testing.T) {
	t.Parallel()
	r := ready(t, func(s *setup) { s.Pinning = pool.PinStrict })
	session := r.pool.NewFlow("main", true)
	r.submit(session, "echo", nil).ok()
	r.pool.Pause()
	c := r.submit(session, "echo", nil)
	r.starter.Named("worker_1").Kill()
	await(t, "another one is ready", func() bool { return slices.Equal(r.names(), []string{"worker_2"}) })
	another := r.submit(session, "echo", nil)
	r.pool.Resume()
	c.ok()
	another.ok()
}

func TestKillWorker(t *testing.T) {
	t.Parallel()
	r := ready(t)
	c := r.run("run", nil)
	r.next()
	if r.pool.KillWorker("worker_9", "") || !r.pool.KillWorker("worker_1", "somebody wants it") {
		t.Fatal("killed another")
	}
	if e := c.failed(wire.CodeWorkerLost); e.Details["reason"] != "somebody wants it" {
		t.Errorf("%v", e)
	}
	r.run("echo", nil).ok()
}

func TestPing(t *testing.T) {
	t.Parallel()
	var m muzzle
	r := ready(t, m.option, func(s *setup) { s.HealthInterval, s.HealthTimeout = long, long })
	if took := r.pool.Ping(t.Context()); len(took) != 1 || took["worker_1"] < 0 {
		t.Errorf("%v", took)
	}
	m.on.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if took := r.pool.Ping(ctx); len(took) != 1 || took["worker_1"] >= 0 {
		t.Errorf("%v", took)
	}
}

// A worker that is killed while it starts is no failure of the start: what waits gets its replacement.
func TestKillWorkerThatStarts(t *testing.T) {
	var answers atomic.Bool
	asked := make(chan struct{}, 10)
	r := start(t, func(s *setup) {
		s.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) {
			asked <- struct{}{}
			if answers.Load() {
				w.Answer(m, s.starter.Greeting())
			}
		}
	})
	<-asked
	c := r.run("echo", nil)
	r.waiting(1)
	answers.Store(true)
	if !r.pool.KillWorker("worker_1", "somebody wants it") {
		t.Fatal("no worker")
	}
	c.ok()
}

// Calls that are run again elsewhere meanwhile have other ids there.
func TestStacksOfWorkerThatDies(t *testing.T) {
	r := ready(t, func(s *setup) {
		s.Size, s.Concurrency = 2, 50
		s.starter.Where = func(w *pooltest.Worker, m wiretest.Message) {
			w.Answer(m, map[string]any{"stacks": slices.Repeat([]string{"here"}, len(asked(m)))})
		}
	})
	for range 10 {
		r.readyWorkers(2)
		var calls []*call
		for range 40 {
			calls = append(calls, r.run("safe", nil))
		}
		name := r.names()[0]
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			r.starter.Named(name).Kill()
		}()
		for range 20 {
			r.pool.Stacks(t.Context(), name)
		}
		<-killed
		done := make(chan struct{})
		go func() {
			for {
				select {
				case j := <-r.jobs:
					j.answer(nil)
				case <-done:
					return
				}
			}
		}()
		for _, c := range calls {
			c.ok()
		}
		close(done)
	}
}
