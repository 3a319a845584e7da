package pool_test

import (
	"fmt"
	"testing"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// refused has the call's handler refuse it when it is to be sent, after it was sent so many times.
func refused(after int) func(*call) {
	return func(c *call) { c.refusal, c.sends = wire.Errorf(wire.CodeBudgetExceeded, "no more"), after }
}

// refusedOnce fails the test where a refused call was not settled and finished once.
func refusedOnce(t *testing.T, c *call) {
	t.Helper()
	c.fails(wire.CodeBudgetExceeded)
	c.wait(c.ended, "finished")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.settles != 1 || c.finishes != 1 || len(c.workers) != c.sends {
		t.Errorf("settled %d times, finished %d times, sent %d times", c.settles, c.finishes, len(c.workers))
	}
}

// nothingLeft fails the test where a pool of one worker has not all of its slots, or something in its books.
func nothingLeft(t *testing.T, r *rig, slots int, flows ...*pool.Flow) {
	t.Helper()
	var jobs []*job
	for range slots {
		r.run("run", "fills")
		jobs = append(jobs, r.next())
	}
	r.run("run", "waits")
	r.waiting(1)
	r.idle()
	for _, j := range append(jobs, nil) {
		if j == nil {
			j = r.next()
		}
		j.answer(nil)
	}
	if err := r.pool.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range append(flows, r.flow) {
		r.closeFlow(f)
	}
	if books := r.pool.Books(); books != "" {
		t.Errorf("left: %s", books)
	}
}

// A call that its handler refuses is settled once, takes no slot and no turn, and what is behind it goes: when a slot is free, and when it had to wait
// for one, with a pin or without.
func TestRefusedAtItsDispatch(t *testing.T) {
	for _, serial := range []bool{false, true} {
		for _, pin := range []bool{false, true} {
			for _, waits := range []bool{false, true} {
				if pin && !serial {
					continue
				}
				t.Run(fmt.Sprintf("session: %v, pinned: %v, waits: %v", serial, pin, waits), func(t *testing.T) {
					r := ready(t, func(s *setup) { s.Concurrency = 2 })
					f := r.pool.NewFlow("main", serial)
					f.SetWeight(3)
					if pin {
						r.submit(f, "echo", nil).ok()
					}
					var holds []*job
					if waits {
						for range 2 {
							r.run("run", nil)
							holds = append(holds, r.next())
						}
					}
					bad := []*call{r.submit(f, "echo", 0, refused(0)), r.submit(f, "echo", 1, refused(0))}
					good := r.submit(f, "echo", 2)
					bad = append(bad, r.submit(f, "echo", 3, refused(0)))
					another := r.submit(r.pool.NewFlow("main", true), "echo", nil)
					for _, j := range holds {
						j.answer(nil)
					}
					for _, c := range bad {
						refusedOnce(t, c)
					}
					good.ok()
					another.ok()
					nothingLeft(t, r, 2, f, another.in)
				})
			}
		}
	}
}

// One that is to be sent again after its worker's death has its turn back before it is refused, and loses it.
func TestRefusedWhenItIsSentAgain(t *testing.T) {
	r := ready(t)
	f := r.pool.NewFlow("main", true)
	c := r.submit(f, "safe", nil, refused(1))
	behind := r.submit(f, "echo", nil)
	r.next().w.Die()
	refusedOnce(t, c)
	behind.ok()
	nothingLeft(t, r, 1, f)
}
