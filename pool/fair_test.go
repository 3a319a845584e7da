package pool_test

import (
	"fmt"
	"testing"

	"github.com/dspex/dspex-sidecar/pool"
)

// fill has n calls of f wait, of which each tells its name.
func (r *rig) fill(f *pool.Flow, name string, n int) {
	r.tb.Helper()
	for range n {
		r.submit(f, "run", name)
	}
}

// sent answers what is at workers, one after the other, and counts by name the n calls that are sent next.
func (r *rig) sent(n int, at *job) (count map[string]int, order []string, last *job) {
	r.tb.Helper()
	count = map[string]int{}
	for range n {
		at.answer(nil)
		at = r.next()
		name := fmt.Sprint(at.value())
		count[name]++
		order = append(order, name)
	}
	return count, order, at
}

// Another's call is sent as soon as a call of a session with 1,000 that wait has ended, and it is passed by one at most of a connection that has as many.
func TestACrowdDelaysOthersByOneCall(t *testing.T) {
	for _, slots := range []int{1, 3} {
		for _, serial := range []bool{true, false} {
			for _, owner := range []string{"main", "another"} {
				t.Run(fmt.Sprint(slots, " slots, session: ", serial, ", ", owner), func(t *testing.T) {
					r := ready(t, func(s *setup) { s.Concurrency, s.QueueLimit = slots, 2000 })
					passed := 1
					if serial { // each has one call at a worker
						passed = 0
						for range slots {
							r.fill(r.pool.NewFlow("main", true), "crowd", 1000/slots)
						}
					} else {
						r.fill(r.flow, "crowd", 1000)
					}
					at := r.next()
					for range slots - 1 {
						r.next()
					}
					r.submit(r.pool.NewFlow(owner, true), "run", "other")
					if got, order, _ := r.sent(passed+1, at); got["other"] != 1 {
						t.Errorf("sent: %v", order)
					}
				})
			}
		}
	}
}

// A flow has as many turns for one of another as its weight says, whether it is pinned to the worker or not.
func TestWeights(t *testing.T) {
	r := ready(t)
	pinned := r.pool.NewFlow("main", true)
	r.submit(pinned, "echo", nil).ok()
	others := map[string]*pool.Flow{"connection": r.pool.NewFlow("main", false), "light": r.pool.NewFlow("main", true), "pinned": pinned}
	others["connection"].SetWeight(2)
	pinned.SetWeight(3)
	r.run("run", "first")
	at := r.next()
	for name, f := range others {
		r.fill(f, name, 100)
	}
	got, order, at := r.sent(60, at)
	if got["pinned"] != 30 || got["connection"] != 20 || got["light"] != 10 {
		t.Errorf("of 60 turns: %v; %v", got, order)
	}
	pinned.SetWeight(1)
	_, _, at = r.sent(3, at) // what it has begun with the old weight
	if got, order, _ = r.sent(40, at); got["pinned"] != 10 || got["connection"] != 20 {
		t.Errorf("of 40 turns with another weight: %v; %v", got, order)
	}
}

// Weights count among the flows of one owner; owners have equal turns.
func TestWeightsStayWithTheOwner(t *testing.T) {
	r := ready(t)
	heavy, other := r.pool.NewFlow("heavy", true), r.pool.NewFlow("other", true)
	heavy.SetWeight(100)
	r.run("run", "first")
	at := r.next()
	r.fill(heavy, "heavy", 100)
	r.fill(other, "other", 100)
	if got, order, _ := r.sent(40, at); got["heavy"] != 20 {
		t.Errorf("of 40 turns: %v; %v", got, order)
	}
}

// A flow that had nothing to send has no more turns for that, be it that it never waited or that it gave up in the middle of its turns.
func TestIdleFlowsSaveNothingUp(t *testing.T) {
	r := ready(t)
	idle, busy := r.pool.NewFlow("main", true), r.pool.NewFlow("main", true)
	idle.SetWeight(4)
	r.run("run", "first")
	at := r.next()
	r.fill(busy, "busy", 100)
	r.fill(idle, "idle", 2) // of its four
	got, order, at := r.sent(50, at)
	if got["idle"] != 2 {
		t.Fatalf("of 50 turns: %v; %v", got, order)
	}
	r.fill(idle, "idle", 50)
	if got, order, _ = r.sent(25, at); got["idle"] > 20 || got["idle"] < 19 || order[0] == "idle" && order[4] == "idle" {
		t.Errorf("of 25 turns: %v; %v", got, order)
	}
}

// Who stands in the turns of its worker and in those of all has no more than who stands in one.
func TestNobodyGainsByStandingInTwo(t *testing.T) {
	r := ready(t)
	pinned, other := r.pool.NewFlow("two", true), r.pool.NewFlow("one", true)
	r.submit(pinned, "echo", nil).ok()
	r.submit(other, "echo", nil).ok()
	r.run("run", "first")
	at := r.next()
	r.fill(pinned, "two", 50)
	r.fill(r.pool.NewFlow("two", false), "two", 50)
	r.fill(other, "one", 100)
	if got, order, _ := r.sent(40, at); got["one"] != 20 {
		t.Errorf("of 40 turns: %v; %v", got, order)
	}
}
