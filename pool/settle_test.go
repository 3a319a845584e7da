package pool_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// What a worker says of its use after the client was told the outcome comes with the finish: none of it is lost, and none told twice.
func TestUsageAfterTheOutcome(t *testing.T) {
	t.Parallel()
	stops := map[string]func(r *rig, c *call){
		"a cancel":      func(r *rig, c *call) { r.cancel(c) },
		"a deadline":    func(*rig, *call) {},
		"a flow closed": func(r *rig, c *call) { r.closeFlow(c.in) },
		"nothing":       nil,
	}
	usage, _ := wire.Marshal(map[string]any{"lm_calls": 3})
	for name, stop := range stops {
		for _, refuses := range []bool{false, true} {
			r := ready(t, func(s *setup) { s.StopReport = time.Millisecond })
			c := r.run("stubborn", nil, func(c *call) {
				if name == "a deadline" {
					c.Deadline = time.Now().Add(50 * time.Millisecond)
				}
			})
			j := r.next()
			if stop != nil {
				stop(r, c)
				c.wait(c.settled, "settled")
			}
			var e any
			if refuses {
				e = wire.Errorf(wire.CodeCancelled, "stopped")
			}
			j.take()
			j.w.Send(wire.KindResponse, j.m.ID, map[string]any{"usage": map[string]any{"lm_calls": 3}}, e, nil)
			c.wait(c.ended, "finished")
			first, late := c.meta.Usage, c.late
			if stop == nil {
				first, late = late, first
			}
			if first != nil || !bytes.Equal(late, usage) {
				t.Errorf("%s, refused %v: at the outcome %x, at the finish %x", name, refuses, c.meta.Usage, c.late)
			}
			r.close(0)
		}
	}
}

// The worker answers while the client is being told of the deadline: the call is finished when that is done, and its usage is not lost.
func TestFinishComesAfterSettle(t *testing.T) {
	for name, answer := range map[string]func(j *job){
		"an answer": func(j *job) {
			j.w.Send(wire.KindResponse, j.m.ID, map[string]any{"usage": map[string]any{"lm_calls": 3}}, nil, nil)
		},
		"a death": func(j *job) { j.w.Die() },
	} {
		t.Run(name, func(t *testing.T) {
			r := ready(t, func(s *setup) { s.Concurrency, s.StopReport = 2, time.Millisecond })
			telling, told := make(chan struct{}), make(chan struct{})
			f := r.pool.NewFlow("s", true)
			c := r.submit(f, "stubborn", nil, within(10*time.Millisecond), func(c *call) {
				c.during = func() { close(telling); <-told }
			})
			j := r.next()
			c.wait(telling, "told")
			j.take()
			answer(j)
			await(t, "its worker has done with it", func() bool { return r.state(c) == "finished" })
			r.run("echo", nil).ok()
			if c.isEnded() {
				t.Error("it is finished, and Settle has not returned")
			}
			close(told)
			c.wait(c.ended, "finished")
			if usage, _ := wire.Marshal(map[string]any{"lm_calls": 3}); name == "an answer" && !bytes.Equal(c.late, usage) {
				t.Errorf("its usage: %x", c.late)
			}
			r.closeFlow(f)
			r.closeFlow(r.flow)
			if err := r.pool.Drain(t.Context()); err != nil || r.pool.Books() != "" {
				t.Errorf("%v; left: %s", err, r.pool.Books())
			}
		})
	}
}
