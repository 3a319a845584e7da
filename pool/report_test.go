package pool_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// asked are the calls that a worker is asked about.
func asked(m wiretest.Message) []any {
	params, _ := m.Payload.(map[string]any)
	ids, _ := params["calls"].([]any)
	return ids
}

// stubborn submits calls that do not stop, and tells them to.
func (r *rig) stubborn(n int) []*call {
	r.tb.Helper()
	calls := make([]*call, n)
	for i := range calls {
		calls[i] = r.run("stubborn", i)
		r.next()
	}
	for _, c := range calls {
		r.cancel(c)
	}
	return calls
}

// A call that goes on is answered with where it is; many of them cost their worker few questions.
func TestReportOfWhatGoesOn(t *testing.T) {
	var questions, most atomic.Int64
	r := ready(t, func(s *setup) {
		s.Concurrency = 40
		s.starter.Where = func(w *pooltest.Worker, m wiretest.Message) {
			questions.Add(1)
			var stacks []string
			for _, id := range asked(m) {
				stacks = append(stacks, fmt.Sprintf("call %v", id))
			}
			most.Store(max(most.Load(), int64(len(stacks))))
			w.Answer(m, map[string]any{"stacks": stacks})
		}
		s.starter.Live = func(context.Context, *pooltest.Worker) []string {
			t.Error("the process was asked, and its loop answers")
			return nil
		}
	})
	seen := map[string]bool{}
	for _, c := range r.stubborn(40) {
		e := c.failed(wire.CodeCancelled)
		text, _ := e.Details["stacks"].(string)
		left, _ := e.Details["kill_in_ms"].(int64)
		if e.Details["ended_by"] != "pending" || !strings.HasPrefix(text, "call ") || seen[text] || left <= 0 || left > long.Milliseconds() {
			t.Errorf("got %v", e.Details)
		}
		seen[text] = true
	}
	if n := questions.Load(); n > 20 || most.Load() < 2 {
		t.Errorf("%d questions, about %d calls at most", n, most.Load())
	}
	if r.run("echo", nil); r.pool.Snapshot().InFlight != 40 {
		t.Error("a slot is free, and its call goes on")
	}
}

// A loop that is blocked answers nothing: its process is asked, once for as long as that lasts.
func TestReportOfABlockedWorker(t *testing.T) {
	questions, dumps := make(chan wiretest.Message, 100), make(chan struct{}, 100)
	r := ready(t, func(s *setup) {
		s.Concurrency = 4
		s.starter.Where = func(_ *pooltest.Worker, m wiretest.Message) { questions <- m }
		s.starter.Live = func(context.Context, *pooltest.Worker) []string {
			dumps <- struct{}{}
			return []string{"Thread 0x1", "  in blocked"}
		}
	})
	for range 2 {
		for _, c := range r.stubborn(1) {
			if e := c.failed(wire.CodeCancelled); e.Details["stacks"] != "Thread 0x1\n  in blocked" {
				t.Errorf("got %v", e.Details)
			}
		}
	}
	if len(questions) != 1 || len(dumps) != 1 {
		t.Errorf("%d questions, %d dumps", len(questions), len(dumps))
	}
	r.starter.Named("worker_1").Answer(<-questions, map[string]any{"stacks": []string{"late"}})
	r.run("echo", nil).ok() // it arrived
	r.stubborn(1)[0].fails(wire.CodeCancelled)
	if len(questions) != 1 {
		t.Error("a loop that answers again is not asked")
	}
}

// Who is stopped, refuses, or answers with what nobody asked for costs the answer its stacks, and nothing else.
func TestReportWithoutStacks(t *testing.T) {
	for name, option := range map[string]func(*setup){
		"refuses": func(*setup) {},
		"stopped": func(s *setup) {
			s.starter.Vitals = func(*pooltest.Worker) pool.Vitals { return pool.Vitals{State: 'T'} }
			s.starter.Where = func(*pooltest.Worker, wiretest.Message) { t.Error("it was asked") }
		},
		"answers nonsense": func(s *setup) {
			s.starter.Where = func(w *pooltest.Worker, m wiretest.Message) { w.Answer(m, map[string]any{"stacks": 7}) }
		},
		"answers too much": func(s *setup) {
			s.starter.Where = func(w *pooltest.Worker, m wiretest.Message) {
				w.Answer(m, map[string]any{"stacks": []string{"a", "b"}})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := ready(t, option)
			e := r.stubborn(1)[0].failed(wire.CodeCancelled)
			if _, has := e.Details["stacks"]; has || e.Details["ended_by"] != "pending" {
				t.Errorf("got %v", e.Details)
			}
		})
	}
}

// A call that ends while its worker is asked is answered with how it ended.
func TestEndsWhileItIsAskedAbout(t *testing.T) {
	var j atomic.Pointer[job]
	r := ready(t, func(s *setup) {
		s.starter.Where = func(*pooltest.Worker, wiretest.Message) {
			j.Load().refuse(wire.Errorf(wire.CodeCancelled, "stopped").With("ended_by", "thread"))
		}
		s.starter.Live = func(ctx context.Context, _ *pooltest.Worker) []string {
			<-ctx.Done()
			return nil
		}
	})
	c := r.run("stubborn", nil)
	j.Store(r.next())
	r.cancel(c)
	if e := c.failed(wire.CodeCancelled); e.Details["ended_by"] != "thread" {
		t.Errorf("got %v", e.Details)
	}
}

// With a stop_report of cancel_grace or more the answer names the last step, also where others in the worker have their grace time first.
func TestReportOfTheLastStep(t *testing.T) {
	t.Parallel()
	r := ready(t, stacks("Thread 0x1"), func(s *setup) {
		s.Concurrency, s.CancelGrace, s.StopReport = 3, 300*time.Millisecond, 300*time.Millisecond
	})
	goesOn := r.run("run", nil)
	r.next()
	stuck := r.run("stubborn", nil)
	r.next()
	r.cancel(stuck)
	late := r.run("stubborn", nil, within(450*time.Millisecond)) // told to stop when the worker is being ended
	r.next()
	for name, c := range map[string]*call{"cancelled": stuck, "late": late} {
		code := wire.CodeCancelled
		if c == late {
			code = wire.CodeDeadlineExceeded
		}
		if e := c.failed(code); e.Details["ended_by"] != "kill" || e.Details["stacks"] != "Thread 0x1" {
			t.Errorf("%s: %v", name, e.Details)
		}
	}
	goesOn.fails(wire.CodeWorkerLost)
}
