package pool_test

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// names are the ids of the workers that take calls.
func (r *rig) names() []string {
	var names []string
	for _, w := range r.pool.Snapshot().Workers {
		if w.State == "ready" {
			names = append(names, w.ID)
		}
	}
	return names
}

// A worker that has taken its calls goes on until its replacement is ready, and ends when its calls have.
func TestRecycleAfterCalls(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	r := start(t, func(s *setup) {
		s.RecycleCalls, s.Concurrency = 10, 2
		s.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) {
			if w.Name == "worker_2" {
				<-release
			}
			w.Answer(m, s.starter.Greeting())
		}
	})
	if err := r.pool.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	long := r.run("run", "long")
	atLong := r.next()
	for range 20 { // past the limit, whatever its spread
		r.run("echo", nil).ok()
	}
	if got := r.names(); len(got) != 1 || got[0] != "worker_1" {
		t.Fatalf("ready while the replacement is not: %v", got)
	}
	await(t, "the replacement is started", func() bool { return len(r.starter.Workers()) == 2 })
	close(release)
	await(t, "the replacement alone is ready", func() bool { got := r.names(); return len(got) == 1 && got[0] == "worker_2" })
	r.run("echo", nil).ok()
	if s := r.pool.Snapshot(); len(s.Workers) != 2 {
		t.Fatalf("the old worker ended before its call: %+v", s.Workers)
	}
	atLong.answer(nil)
	long.ok()
	await(t, "the old worker ends", func() bool { return len(r.pool.Snapshot().Workers) == 1 })
	if got := r.pool.Snapshot().LastFailure; got != "" {
		t.Errorf("a planned end is a failure: %s", got)
	}
}

// Workers that are due together are replaced one after the other, and a session's calls go on elsewhere.
func TestRecycleOneAtATime(t *testing.T) {
	t.Parallel()
	var most atomic.Int32
	r := ready(t, func(s *setup) { s.Size, s.Concurrency = 3, 4 })
	session := r.pool.NewFlow("main", true)
	r.submit(session, "echo", nil).ok()
	before := r.names()
	for _, name := range before {
		if !r.pool.RecycleWorker(name, "the test says so") {
			t.Errorf("no worker %s", name)
		}
	}
	if r.pool.RecycleWorker("worker_99", "") {
		t.Error("a worker that is not there is recycled")
	}
	await(t, "all are replaced", func() bool {
		s := r.pool.Snapshot()
		if n := int32(len(s.Workers)); n > most.Load() {
			most.Store(n)
		}
		for _, w := range s.Workers {
			if slices.Contains(before, w.ID) {
				return false
			}
		}
		return s.Ready() == 3
	})
	if most.Load() > 5 { // three, one replacement, and one that is on its way out
		t.Errorf("%d workers at a time", most.Load())
	}
	r.submit(session, "echo", nil).ok()
}

// A worker that was told to end has the time to: no heartbeat or notification breaks its channel, which would have it killed.
func TestRetiredWorkerEndsByItself(t *testing.T) {
	t.Parallel()
	pings := make(chan string, 1000)
	r := ready(t, func(s *setup) {
		s.HealthInterval, s.starter.Deaf = 5*time.Millisecond, true
		s.starter.Ping = func(w *pooltest.Worker, m wiretest.Message) {
			w.Answer(m, nil)
			select {
			case pings <- w.Name:
			default:
			}
		}
	})
	r.pool.RecycleWorker("worker_1", "the test says so")
	old := r.starter.Named("worker_1")
	await(t, "it is let go", func() bool { return slices.Equal(r.names(), []string{"worker_2"}) })
	for n := 0; n < 50; { // time enough for heartbeats of the old one
		if <-pings == "worker_2" {
			n++
		}
	}
	select {
	case <-old.Done():
		t.Fatalf("it was not left to end by itself: %s", old.Exit())
	default:
	}
	old.Leave("exit code 0")
	await(t, "the old worker ends", func() bool { return len(r.pool.Snapshot().Workers) == 1 })
	if got := old.Exit(); got != "exit code 0" {
		t.Errorf("it ended otherwise: %s", got)
	}
}

func TestRecycleByAge(t *testing.T) {
	t.Parallel()
	r := ready(t, func(s *setup) { s.RecycleAge, s.SampleEvery = 50*time.Millisecond, 5*time.Millisecond })
	await(t, "another generation of workers", func() bool { return len(r.starter.Workers()) > 3 })
	r.run("echo", nil).ok()
}

// One sample over the soft limit may be a peak; three in a row are not.
func TestRecycleByMemory(t *testing.T) {
	t.Parallel()
	var memory, samples atomic.Int64
	memory.Store(10 << 20)
	r := ready(t, func(s *setup) {
		s.RecycleMemory, s.SampleEvery = 100<<20, 5*time.Millisecond
		s.starter.Vitals = func(w *pooltest.Worker) pool.Vitals {
			if w.Name != "worker_1" {
				return pool.Vitals{Memory: 1 << 20}
			}
			if n := samples.Add(1); n%3 == 0 {
				return pool.Vitals{Memory: 500 << 20} // a peak
			}
			return pool.Vitals{Memory: memory.Load()}
		}
	})
	await(t, "thirty samples", func() bool { return samples.Load() > 30 })
	if n := len(r.starter.Workers()); n != 1 {
		t.Fatalf("recycled for peaks: %d workers", n)
	}
	memory.Store(200 << 20)
	await(t, "the replacement alone", func() bool { got := r.names(); return len(got) == 1 && got[0] == "worker_2" })
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	var memory atomic.Int64
	r := ready(t, func(s *setup) {
		s.MemoryLimit, s.SampleEvery, s.Concurrency = 100<<20, 5*time.Millisecond, 2
		s.starter.Vitals = func(w *pooltest.Worker) pool.Vitals {
			if w.Name != "worker_1" {
				return pool.Vitals{}
			}
			return pool.Vitals{Memory: memory.Load()}
		}
	})
	c := r.run("run", nil)
	r.next()
	memory.Store(101 << 20)
	e := c.failed(wire.CodeWorkerLost)
	if reason, _ := e.Details["reason"].(string); reason != "it took 101.0 MiB of memory, over the memory_limit of 100.0 MiB" {
		t.Errorf("reason: %q", reason)
	}
	r.run("echo", nil).ok()
}

// What a worker takes is looked at while a heartbeat is awaited, too: C code that holds the interpreter lock takes memory as well.
func TestMemoryLimitOfAWorkerThatAnswersNothing(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	var once sync.Once
	var memory atomic.Int64
	r := ready(t, func(s *setup) {
		s.MemoryLimit, s.SampleEvery, s.HealthInterval = 100<<20, 5*time.Millisecond, time.Millisecond
		s.starter.Ping = func(*pooltest.Worker, wiretest.Message) { once.Do(func() { close(asked) }) }
		s.starter.Vitals = func(w *pooltest.Worker) pool.Vitals {
			if w.Name != "worker_1" {
				return pool.Vitals{}
			}
			return pool.Vitals{Memory: memory.Load()}
		}
	})
	c := r.run("run", nil)
	r.next()
	<-asked
	memory.Store(101 << 20)
	e := c.failed(wire.CodeWorkerLost)
	if reason, _ := e.Details["reason"].(string); !strings.Contains(reason, "memory_limit") {
		t.Errorf("reason: %q", reason)
	}
}

// A worker that computes in C code is given longer than one that is stopped, and each is told apart.
func TestSilentWorkersAreToldApart(t *testing.T) {
	for name, want := range map[string]struct {
		state  byte
		spends bool
		reason string
		least  time.Duration
	}{
		"stopped":  {'T', false, "it is stopped (SIGSTOP)", 0},
		"waiting":  {'S', false, "it waits in C code that holds the interpreter lock, or in the kernel", 0},
		"computes": {'R', true, "it computes in C code that holds the interpreter lock", 600 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m muzzle
			began := time.Now()
			r := ready(t, m.option, func(s *setup) {
				s.starter.Vitals = func(*pooltest.Worker) pool.Vitals {
					v := pool.Vitals{State: want.state}
					if want.spends {
						v.CPU = time.Since(began)
					}
					return v
				}
			})
			c := r.run("run", nil)
			r.next()
			silent := time.Now()
			m.on.Store(true)
			e := c.failed(wire.CodeWorkerLost)
			if reason, _ := e.Details["reason"].(string); !strings.HasSuffix(reason, want.reason) {
				t.Errorf("reason: %q", reason)
			}
			if took := time.Since(silent); took < want.least {
				t.Errorf("it was killed after %s", took)
			}
		})
	}
}

// The calls beside one that does not stop get no grace time where their worker can do nothing else.
func TestNoGraceWhereNothingCanGoOn(t *testing.T) {
	t.Parallel()
	var m muzzle
	r := ready(t, func(s *setup) {
		s.Concurrency, s.CancelGrace = 2, 2*time.Second
		m.option(s)
		s.HealthInterval, s.HealthTimeout = long, long
	})
	beside := r.run("run", "beside")
	r.next()
	stuck := r.run("stubborn", "stuck", within(50*time.Millisecond))
	r.next()
	m.on.Store(true)
	_ = stuck.failed(wire.CodeDeadlineExceeded) // how it ended is another test's
	e := beside.failed(wire.CodeWorkerLost)
	if reason, _ := e.Details["reason"].(string); !strings.Contains(reason, "had no time to finish") {
		t.Errorf("reason: %q", reason)
	}
	// Grace to stop, and one second to answer a ping; a whole grace time more would be the neighbour's.
	if took := e2e(beside); took > 3*time.Second+900*time.Millisecond {
		t.Errorf("the worker lived for %s", took)
	}
}

// e2e is how long a call took until it was settled.
func e2e(c *call) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.meta.RunUS) * time.Microsecond
}
