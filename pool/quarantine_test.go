package pool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// restores has each send of a call preceded by a request, as a session's restore does.
func restores(c *call) { c.ahead = true }

// restoring submits a call of a flow with something ahead of it, and returns that and the call when both have come to a worker.
func (r *rig) restoring(f *pool.Flow, method string, value any) (c *call, ahead, at *job) {
	r.tb.Helper()
	c = r.submit(f, method, value, restores)
	ahead, at = r.arrives(value)
	return c, ahead, at
}

// arrives waits for a call with something ahead of it.
func (r *rig) arrives(value any) (ahead, at *job) {
	r.tb.Helper()
	ahead, at = r.next(), r.next()
	if ahead.m.Method != "restore" || at.m.Method == "restore" || fmt.Sprint(ahead.value(), at.value()) != fmt.Sprint(value, value) {
		r.tb.Fatalf("%s %v, %s %v came, and not %v", ahead.m.Method, ahead.value(), at.m.Method, at.value(), value)
	}
	return ahead, at
}

// suspected makes a flow a suspect: a worker has died in a restore of it, beside another flow's call.
func (r *rig) suspected() *pool.Flow {
	r.tb.Helper()
	var others []*job
	for i := range r.settings.Size {
		r.run("run", i)
		others = append(others, r.next())
	}
	f := r.pool.NewFlow("s", true)
	c, ahead, _ := r.restoring(f, "run", "first")
	ahead.w.Die()
	c.fails(wire.CodeWorkerLost)
	c.wait(c.ended, "finished")
	if !f.Suspect() || f.Lost() != nil {
		r.tb.Fatal("it is no suspect")
	}
	for _, j := range others {
		j.answer(nil)
	}
	r.readyWorkers(r.settings.Size)
	await(r.tb, "all has ended, its turn too", func() bool {
		_, running := f.Waiting()
		return !running && r.pool.Snapshot().InFlight == 0
	})
	return f
}

// A worker that dies of another session's call blames nobody, however often. The session whose restore kills is found all the same.
func TestABusyWorkersDeathBlamesNobody(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 4 })
	victim, guilty := r.pool.NewFlow("v", true), r.pool.NewFlow("g", true)
	for range 5 {
		killer := r.run("run", "killer")
		held := r.next()
		v := r.submit(victim, "run", "victim", restores)
		if victim.Suspect() {
			r.idle() // it waits until nobody else is there
			held.answer(nil)
			killer.ok()
			ahead, at := r.arrives("victim")
			late := r.run("run", "killer") // and nobody comes beside it
			r.waiting(1)
			r.idle()
			ahead.answer(nil)
			r.next().w.Die()
			late.fails(wire.CodeWorkerLost)
			v.fails(wire.CodeWorkerLost)
			at.take()
		} else {
			ahead, _ := r.arrives("victim")
			ahead.w.Die()
			killer.fails(wire.CodeWorkerLost)
			v.fails(wire.CodeWorkerLost)
		}
		v.wait(v.ended, "finished")
		r.readyWorkers(1)
	}
	if err := victim.Lost(); err != nil {
		t.Errorf("the victim is blamed: %v", err)
	}
	for _, beside := range []bool{true, false, false} {
		if beside {
			r.run("run", "beside")
			r.next()
		}
		c, ahead, _ := r.restoring(guilty, "run", "guilty")
		if guilty.Lost() != nil {
			t.Error("blamed too soon")
		}
		ahead.w.Die()
		c.wait(c.ended, "finished")
		r.readyWorkers(1)
	}
	r.submit(guilty, "run", nil).fails(wire.CodeSessionLost)
}

// Under permanent load no worker is ever empty: one is held for a suspect, and serves the others again when that has got through or has given up.
func TestASuspectHasItsTurnUnderLoad(t *testing.T) {
	for name, through := range map[string]bool{"gets through": true, "gives up": false} {
		t.Run(name, func(t *testing.T) {
			r := ready(t, func(s *setup) { s.Size, s.Concurrency = 2, 2 })
			f := r.suspected()
			var load []*call
			for i := range 12 {
				load = append(load, r.run("run", i))
			}
			at := map[string][]*job{}
			for range 4 {
				j := r.next()
				at[j.w.Name] = append(at[j.w.Name], j)
			}
			c := r.submit(f, "run", "suspect", restores)
			held := r.pool.Held()
			if held == "" {
				t.Fatal("no worker is held for it")
			}
			for other, jobs := range at {
				if other != held { // which goes on
					jobs[0].answer(nil)
					at[other][0] = r.next()
				}
			}
			at[held][0].answer(nil)
			await(t, "its slot is free", func() bool { return r.pool.Snapshot().InFlight == 3 })
			r.waiting(8) // seven of the load, and the suspect
			r.idle()
			if through {
				at[held][1].answer(nil)
				ahead, j := r.arrives("suspect")
				if j.w.Name != held {
					t.Errorf("it came to %s, and %s was held", j.w.Name, held)
				}
				ahead.answer(nil)
				at[held] = []*job{j, r.next()} // beside the call, which is no suspect's any more
				j.answer(nil)
				c.ok()
			} else {
				r.cancel(c)
				c.fails(wire.CodeCancelled)
				at[held][0] = r.next()
			}
			if r.pool.Held() != "" {
				t.Error("a worker is held, and nobody waits for it")
			}
			for _, jobs := range at {
				for _, j := range jobs {
					j.answer(nil)
				}
			}
			for _, c := range load {
				for !c.isSettled() {
					select {
					case j := <-r.jobs:
						j.answer(nil)
					case <-c.settled:
					}
				}
				c.ok()
			}
		})
	}
}

// Whatever becomes of a suspect that waits for the worker held for it, or of that worker, nobody stays held, and others have their turn.
func TestAHoldEnds(t *testing.T) {
	t.Parallel()
	type waits struct {
		*rig
		f    *pool.Flow
		call *call  // of the suspect
		busy *job   // in the worker that is held
		held string // that
	}
	for name, do := range map[string]func(w *waits){
		"its call is cancelled": func(w *waits) { w.cancel(w.call); w.call.fails(wire.CodeCancelled) },
		"its deadline passes":   func(w *waits) { w.call.fails(wire.CodeDeadlineExceeded) },
		"its session ends": func(w *waits) {
			w.closeFlow(w.f)
			w.call.fails(wire.CodeSessionNotFound)
			w.f = w.pool.NewFlow("s", true)
		},
		"it is mended": func(w *waits) { w.f.Forgive(); w.throughRestore() },
		"it is moved by hand": func(w *waits) {
			if err := w.f.Move(w.held); err != nil {
				w.tb.Fatal(err)
			}
			w.busy.answer(nil)
			w.throughRestore()
		},
		"the worker dies":       func(w *waits) { w.busy.w.Die(); w.throughRestore() },
		"the worker is retired": func(w *waits) { w.pool.RecycleWorker(w.held, "the test wants it"); w.throughRestore() },
		"the worker is condemned": func(w *waits) {
			w.busy.w.Send(wire.KindResponse, 1<<40, nil, nil, nil)
			w.throughRestore()
		},
		"the pool is paused": func(w *waits) {
			w.pool.Pause()
			w.busy.answer(nil)
			await(w.tb, "it is empty", func() bool { return w.pool.Snapshot().InFlight == 0 })
			w.idle()
			w.pool.Resume()
			w.throughRestore()
		},
		"another worker comes": func(w *waits) {
			if err := w.pool.Resize(2, 0); err != nil {
				w.tb.Fatal(err)
			}
			w.throughRestore()
		},
		"it is refused when it is sent": func(w *waits) {
			w.call.refusal = wire.Errorf(wire.CodeInternal, "refused")
			w.busy.answer(nil)
			w.call.fails(wire.CodeInternal)
		},
		"its worker refuses the restore": func(w *waits) {
			w.busy.answer(nil)
			ahead, at := w.arrives("suspect")
			ahead.refuse(wire.Errorf(wire.CodeInternal, "no"))
			at.refuse(wire.Errorf(wire.CodeStaleSession, "not that one"))
			w.throughRestore()
		},
		"it is cancelled in its restore": func(w *waits) {
			w.busy.answer(nil)
			ahead, at := w.arrives("suspect")
			w.cancel(w.call)
			w.call.fails(wire.CodeCancelled)
			w.call.wait(w.call.ended, "finished")
			w.run("run", "beside")
			w.waiting(1)
			w.idle() // the restore is still on its way
			ahead.answer(nil)
			at.take()
			w.next().answer(nil)
		},
		"its worker is retired in the restore": func(w *waits) {
			w.busy.answer(nil)
			ahead, at := w.arrives("suspect")
			w.pool.RecycleWorker(at.w.Name, "the test wants it")
			w.run("echo", nil).ok() // at another
			ahead.answer(nil)
			at.answer(nil)
			w.call.ok()
		},
		"its worker dies in the restore": func(w *waits) {
			w.busy.answer(nil)
			ahead, _ := w.arrives("suspect")
			ahead.w.Die()
			w.throughRestore() // it is run again, and alone again
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := ready(t, func(s *setup) { s.Concurrency = 2 })
			w := &waits{rig: r, f: r.suspected()}
			r.run("safe", "busy")
			w.busy = r.next()
			w.call = r.submit(w.f, "safe", "suspect", restores, func(c *call) {
				if name == "its deadline passes" {
					within(50 * time.Millisecond)(c)
				}
			})
			// What is left of the dead worker's end may let go of a hold, and take it again.
			await(t, "the busy worker is held", func() bool { w.held = r.pool.Held(); return w.held == w.busy.w.Name })
			do(w)
			if r.pool.Held() != "" {
				t.Errorf("%s is held", r.pool.Held())
			}
			w.busy.answer(nil)
			last := r.submit(w.f, "echo", "last", restores)
			for j := r.next(); ; j = r.next() {
				j.answer(nil)
				if j.value() == "last" { // its restore
					break
				}
			}
			last.ok()
			for range 4 {
				r.run("echo", nil).ok()
			}
			if w.f.Lost() != nil {
				t.Error("it is blamed")
			}
			r.closeFlow(w.f)
			r.closeFlow(r.flow)
			if err := r.pool.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if books := r.pool.Books(); books != "" {
				t.Errorf("left: %s", books)
			}
		})
	}
}

// throughRestore answers whatever comes until the suspect's restore and its call have come, and no suspect is left.
func (r *rig) throughRestore() {
	r.tb.Helper()
	for {
		j := r.next()
		suspects := j.value() == "suspect" && j.m.Method != "restore"
		j.answer(nil)
		if suspects {
			return
		}
	}
}

// A session that is quarantined while a call of it waits for its worker: what runs in the sidecar goes on, the repair above all.
func TestLocalCallBehindOnesThatAreQuarantined(t *testing.T) {
	r := ready(t, func(s *setup) { s.Concurrency = 2 })
	f := r.pool.NewFlow("s", true)
	c, ahead, _ := r.restoring(f, "run", 0)
	ahead.w.Die()
	c.wait(c.ended, "finished")
	r.readyWorkers(1)
	c, ahead, _ = r.restoring(f, "run", 1)
	r.cancel(c) // its worker stops it, and has still not got through the restore
	c.wait(c.ended, "finished")
	waits := r.submit(f, "run", 2, restores, func(c *call) { c.keep = true })
	local, running := r.local(f)
	ahead.w.Die()
	waits.fails(wire.CodeSessionLost)
	local.wait(running, "run")
	f.Forgive()
	var batch wire.Batch
	local.endTurn(&batch)
	batch.Flush()
	if f.Suspect() {
		t.Error("it was forgiven, and is a suspect")
	}
	r.readyWorkers(1)
	c, ahead, at := r.restoring(f, "run", 3)
	ahead.answer(nil)
	at.answer(nil)
	c.ok()
}
