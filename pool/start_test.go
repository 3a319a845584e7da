package pool_test

import (
	"context"
	"errors"
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

func TestLazyStart(t *testing.T) {
	r := start(t, func(s *setup) { s.Lazy, s.Size = true, 2 })
	if err := r.pool.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := r.pool.Snapshot(); !s.Lazy || len(s.Workers) != 0 || len(r.starter.Workers()) != 0 {
		t.Fatalf("before the first call: %+v", s)
	}
	r.run("echo", 1).ok()
	r.readyWorkers(2)
	if s := r.pool.Snapshot(); s.Lazy {
		t.Error("it still counts as not needed")
	}
}

// What a lazy pool cannot know yet it lets wait, but not the sidecar's own names.
func TestMethodsBeforeTheFirstWorker(t *testing.T) {
	r := start(t, func(s *setup) { s.Lazy = true })
	for _, name := range []string{"hello", "ping", "session.restore", "sidecar.x", "admin.x"} {
		r.run(name, nil).fails(wire.CodeUnknownMethod)
	}
	if n := len(r.starter.Workers()); n != 0 {
		t.Errorf("%d workers were started for reserved names", n)
	}
	r.run("nonsense", nil).fails(wire.CodeUnknownMethod)
	r.run("echo", nil).ok()
}

// While starts fail each waiting call is told why, and the pool is well again when they work.
func TestFailingStarts(t *testing.T) {
	var starts atomic.Int64
	var works atomic.Bool
	r := start(t, func(s *setup) {
		s.Size, s.Lazy = 3, true
		s.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) {
			if works.Load() {
				w.Answer(m, s.starter.Greeting())
				return
			}
			starts.Add(1)
			w.Print("Traceback", "ModuleNotFoundError: no module named nowhere")
			w.Leave("exit code 3")
		}
	})
	first, second := r.run("echo", 1), r.run("echo", 2)
	for _, c := range []*call{first, second} {
		e := c.failed(wire.CodeNoWorkers)
		output, _ := e.Details["output"].(string)
		if !e.Retryable || e.Details["reason"] != "exit code 3" || !strings.Contains(output, "nowhere") || !strings.Contains(e.Message, "exit code 3") {
			t.Errorf("got %v, %v", e, e.Details)
		}
	}
	if err := r.pool.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "exit code 3") {
		t.Errorf("Ready: %v", err)
	}
	if s := r.pool.Snapshot(); !strings.Contains(s.NoWorkers, "exit code 3") || !strings.Contains(s.LastFailure, "exit code 3") {
		t.Errorf("snapshot: %+v", s)
	}
	await(t, "a start after the first three", func() bool { return starts.Load() == 4 })
	works.Store(true)
	r.readyWorkers(3)
	r.run("echo", 3).ok()
	if s := r.pool.Snapshot(); s.NoWorkers != "" {
		t.Errorf("snapshot: %+v", s)
	}
}

func TestStartThatIsRefused(t *testing.T) {
	starts := make(chan time.Time, 10)
	r := start(t, func(s *setup) {
		s.starter.Fail = func(string) error {
			if starts <- time.Now(); len(starts) < 4 {
				return errors.New("no such file: python9")
			}
			return nil
		}
	})
	if err := r.pool.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "python9") {
		t.Fatalf("Ready: %v", err)
	}
	r.readyWorkers(1)
	r.run("echo", 1).ok()
	last := <-starts
	for wait := 100 * time.Millisecond; len(starts) > 0; wait *= 2 {
		next := <-starts
		if gap := next.Sub(last); gap < wait {
			t.Errorf("a start %s after the last, want %s or more", gap, wait)
		}
		last = next
	}
}

// A worker that ends with the keeper before it is ready says nothing of the application: calls wait for the next one.
func TestStartThatIsLostWithTheKeeper(t *testing.T) {
	var starts atomic.Int64
	r := start(t, func(s *setup) {
		s.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) {
			if starts.Add(1) <= 3 {
				w.LeaveWithAll()
				return
			}
			w.Answer(m, s.starter.Greeting())
		}
	})
	r.run("echo", 1).ok()
	if err := r.pool.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestHelloThatCannotBeMade(t *testing.T) {
	r := start(t, func(s *setup) {
		s.hello = func(string) ([]byte, error) { return nil, errors.New("a model's key is missing") }
	})
	if err := r.pool.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "key is missing") {
		t.Fatalf("Ready: %v", err)
	}
	r.close(patience)
}

func TestStartTimeout(t *testing.T) {
	r := start(t, func(s *setup) {
		s.StartTimeout = 20 * time.Millisecond
		s.starter.Hello = func(*pooltest.Worker, wiretest.Message) {}
	})
	e := r.run("echo", 1).failed(wire.CodeNoWorkers)
	if !strings.Contains(e.Message, "start_timeout of 20ms") {
		t.Errorf("got %v", e)
	}
	await(t, "the worker that did not answer is gone", func() bool {
		select {
		case <-r.starter.Workers()[0].Done():
			return true
		default:
			return false
		}
	})
}

// Before the first worker is ready more slots are no help, and the error does not advise them.
func TestCheckoutTimeoutWhileStarting(t *testing.T) {
	r := start(t, func(s *setup) {
		s.CheckoutTimeout = 20 * time.Millisecond
		s.starter.Hello = func(*pooltest.Worker, wiretest.Message) {}
	})
	e := r.run("echo", 1).failed(wire.CodeCheckoutTimeout)
	if !strings.Contains(e.Message, "no worker of pool test was ready within 20ms: 1 starting") || strings.Contains(e.Message, "size") || !e.Retryable {
		t.Errorf("got %v", e)
	}
}

func TestHelloRefused(t *testing.T) {
	r := start(t, func(s *setup) {
		s.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) {
			w.Refuse(m, wire.Errorf(wire.CodeProgramError, "app.py does not define app"))
		}
	})
	if err := r.pool.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "does not define app") {
		t.Errorf("Ready: %v", err)
	}
}

// A worker whose answer to hello cannot be right is not used, and the reason names what is wrong.
func TestAbsurdHello(t *testing.T) {
	one := pooltest.Plain("m")
	for name, change := range map[string]struct {
		key   string
		value any
		want  string
	}{
		"protocol":         {"protocol", 2, "protocol 2"},
		"no protocol":      {"protocol", nil, "protocol 0"},
		"pid":              {"pid", -1, "pid"},
		"worker":           {"worker", nil, "worker is missing"},
		"max_frame":        {"max_frame", 10, "max_frame"},
		"negative":         {"max_frame", -1, "max_frame"},
		"no methods":       {"methods", nil, "methods are missing"},
		"nil method":       {"methods", []any{nil}, "nil"},
		"no name":          {"methods", []any{one.With("name", "")}, "name"},
		"long name":        {"methods", []any{one.With("name", strings.Repeat("m", 129))}, "128 bytes"},
		"reserved":         {"methods", []any{one.With("name", "session.end")}, "reserved"},
		"reserved, too":    {"methods", []any{one.With("name", "ping")}, "reserved"},
		"twice":            {"methods", []any{one, one}, "twice"},
		"session":          {"methods", []any{one.With("session", "perhaps")}, "session"},
		"stream":           {"methods", []any{one.With("stream", "")}, "stream"},
		"retry":            {"methods", []any{one.With("retry", "always")}, "retry"},
		"methods no array": {"methods", 7, "methods"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(s *setup) {
				s.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) {
					h := s.starter.Greeting()
					h[change.key] = change.value
					w.Answer(m, h)
				}
			})
			err := r.pool.Ready(t.Context())
			if err == nil || !strings.Contains(err.Error(), change.want) {
				t.Errorf("got %v, want something on %q", err, change.want)
			}
			if r.pool.Methods() != nil {
				t.Error("its methods count")
			}
		})
	}
}

// A worker that ends soon after it was ready, again and again, is replaced at once for some time, and then ever more seldom.
func TestCrashLoop(t *testing.T) {
	const atOnce = 2*1 + 8 + 1 // the first, and those after crashes that are not waited after
	starts := make(chan time.Time, 1000)
	r := start(t, func(s *setup) {
		s.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) {
			starts <- time.Now()
			w.Answer(m, s.starter.Greeting())
			w.Leave("exit code 9")
		}
	})
	await(t, "starts that are waited for", func() bool { return len(starts) >= atOnce+2 })
	for range atOnce - 1 {
		<-starts
	}
	last := <-starts
	for wait := range 2 {
		next := <-starts
		if gap := next.Sub(last); gap < time.Duration(wait+1)*100*time.Millisecond {
			t.Errorf("a start %s after the last", gap)
		}
		last = next
	}
	if s := r.pool.Snapshot(); !strings.Contains(s.LastFailure, "exit code 9") {
		t.Errorf("last failure: %q", s.LastFailure)
	}
}

func TestOverflowGrowsAndRetires(t *testing.T) {
	r := ready(t, func(s *setup) { s.MaxOverflow, s.OverflowIdle = 2, 20*time.Millisecond })
	var calls []*call
	for i := range 4 { // all at once: one runs, three wait, and two more workers may come
		calls = append(calls, r.run("run", i))
	}
	jobs := []*job{r.next(), r.next(), r.next()}
	if s := r.pool.Snapshot(); len(s.Workers) != 3 || s.Waiting != 1 {
		t.Fatalf("grown: %+v", s)
	}
	used := map[string]bool{}
	for _, j := range jobs {
		used[j.w.Name] = true
		j.answer(nil)
	}
	r.next().answer(nil)
	for _, c := range calls {
		c.ok()
	}
	if len(used) != 3 {
		t.Errorf("used %v", used)
	}
	await(t, "the overflow retires", func() bool { return len(r.pool.Snapshot().Workers) == 1 })
	r.run("echo", nil).ok()
	if s := r.pool.Snapshot(); s.LastFailure != "" {
		t.Errorf("a retirement counts as a failure: %q", s.LastFailure)
	}
}

// Overflow workers are of no use to a session that waits for its own.
func TestNoOverflowForPinned(t *testing.T) {
	r := ready(t, func(s *setup) { s.MaxOverflow = 1 })
	one, other := r.pool.NewFlow("a", true), r.pool.NewFlow("b", true)
	r.submit(one, "echo", nil).ok()
	r.submit(other, "echo", nil).ok()
	first := r.submit(one, "run", nil)
	held := r.next()
	waits := r.submit(other, "run", nil)
	r.waiting(1)
	if n := len(r.pool.Snapshot().Workers); n != 1 {
		t.Errorf("%d workers", n)
	}
	held.answer(nil)
	r.next().answer(nil)
	first.ok()
	waits.ok()
}

// A retiring worker that does not end when it is dismissed is killed.
func TestRetiringWorkerThatStays(t *testing.T) {
	r := ready(t, func(s *setup) {
		s.MaxOverflow, s.OverflowIdle, s.CancelGrace, s.starter.Deaf = 1, 10*time.Millisecond, 10*time.Millisecond, true
	})
	a, b := r.run("run", 1), r.run("run", 2)
	r.next().answer(nil)
	r.next().answer(nil)
	a.ok()
	b.ok()
	await(t, "it is gone", func() bool { return len(r.pool.Snapshot().Workers) == 1 })
}

func TestSettingsThatCannotBe(t *testing.T) {
	good := pool.Settings{Size: 1, Concurrency: 1}
	for name, change := range map[string]func(*pool.Settings){
		"size":            func(s *pool.Settings) { s.Size = 0 },
		"overflow":        func(s *pool.Settings) { s.MaxOverflow = -1 },
		"concurrency":     func(s *pool.Settings) { s.Concurrency = 0 },
		"queue_limit":     func(s *pool.Settings) { s.QueueLimit = -1 },
		"health interval": func(s *pool.Settings) { s.HealthInterval = -1 },
		"checkout":        func(s *pool.Settings) { s.CheckoutTimeout = -1 },
		"cancel_grace":    func(s *pool.Settings) { s.CancelGrace = -1 },
		"pinning":         func(s *pool.Settings) { s.Pinning = "loose" },
	} {
		s := good
		change(&s)
		p, err := pool.New(pool.Config{
			Name: "test", Settings: s, Starter: &pooltest.Starter{TB: t}, Hello: func(string) ([]byte, error) { return nil, nil },
		})
		if err == nil {
			p.Close(t.Context())
			t.Errorf("%s: a pool was made", name)
		}
	}
}

// Closing while a worker is being started gives up on the start.
func TestCloseWhileStarting(t *testing.T) {
	r := start(t, func(s *setup) {
		s.Size = 3
		s.starter.Hello = func(*pooltest.Worker, wiretest.Message) {}
	})
	c := r.run("echo", nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r.pool.Close(ctx)
	if err := ctx.Err(); err != nil {
		t.Error("it took as long as it might")
	}
	c.fails(wire.CodeDraining)
	if s := r.pool.Snapshot(); len(s.Workers) != 0 {
		t.Errorf("left: %+v", s.Workers)
	}
	r.closing.Do(r.starter.Close)
}

func TestLeastLoadedAndPins(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency = 3, 4 })
	at := map[string]int{}
	var flows []*pool.Flow
	for i := range 6 { // idle sessions weigh nothing but decide between equals
		f := r.pool.NewFlow("o", true)
		r.submit(f, "echo", i).ok()
		at[f.Worker()]++
		flows = append(flows, f)
	}
	for w, n := range at {
		if n != 2 {
			t.Errorf("%d sessions at %s", n, w)
		}
	}
	var calls []*call
	load := map[string]int{}
	for i := range 9 {
		calls = append(calls, r.run("run", i))
	}
	var jobs []*job
	for range 9 {
		j := r.next()
		load[j.w.Name]++
		jobs = append(jobs, j)
	}
	if fmt.Sprint(load) != "map[worker_1:3 worker_2:3 worker_3:3]" {
		t.Errorf("load: %v", load)
	}
	for _, f := range flows { // pinned ones stay, whatever the load
		before := f.Worker()
		c := r.submit(f, "run", nil)
		j := r.next()
		if j.w.Name != before {
			t.Errorf("a session of %s went to %s", before, j.w.Name)
		}
		j.answer(nil)
		c.ok()
	}
	for _, j := range jobs {
		j.answer(nil)
	}
	for _, c := range calls {
		c.ok()
	}
}
