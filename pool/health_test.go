package pool_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// stacks makes workers say where they are, after a while.
func stacks(lines ...string) func(*setup) {
	return func(s *setup) {
		s.starter.Stacks = func(context.Context, *pooltest.Worker) []string { return lines }
	}
}

// muzzle keeps workers, while it is on, from answering heartbeats.
type muzzle struct{ on atomic.Bool }

func (m *muzzle) option(s *setup) {
	s.HealthInterval, s.HealthTimeout = 10*time.Millisecond, 200*time.Millisecond
	s.starter.Ping = func(w *pooltest.Worker, msg wiretest.Message) {
		if !m.on.Load() {
			w.Answer(msg, nil)
		}
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	var m muzzle
	r := ready(t, m.option, stacks("Thread 0x1", `  File "app.py", line 7 in spin`))
	c := r.run("run", nil)
	name := r.next().w.Name
	m.on.Store(true)
	e := c.failed(wire.CodeWorkerLost)
	reason, _ := e.Details["reason"].(string)
	if e.Details["worker"] != name || !strings.Contains(reason, "did not answer a heartbeat within 200ms") {
		t.Errorf("got %v", e.Details)
	}
	if got, _ := e.Details["stacks"].(string); !strings.Contains(got, "line 7 in spin") {
		t.Errorf("stacks: %q", got)
	}
	if s := r.pool.Snapshot(); !strings.Contains(s.LastFailure, "heartbeat") {
		t.Errorf("last failure: %q", s.LastFailure)
	}
	m.on.Store(false)
	c = r.run("safe", nil)
	j := r.next()
	if j.w.Name == name {
		t.Error("the worker that did not answer is used")
	}
	j.answer(nil)
	c.wait(c.settled, "settled")
}

// A worker that answers its heartbeats lives, whatever its calls do.
func TestHeartbeatAnswered(t *testing.T) {
	pings := make(chan struct{}, 1000)
	r := ready(t, func(s *setup) {
		s.HealthInterval = time.Millisecond
		s.starter.Ping = func(w *pooltest.Worker, m wiretest.Message) {
			w.Answer(m, nil)
			select {
			case pings <- struct{}{}:
			default:
			}
		}
	})
	c := r.run("run", nil)
	j := r.next()
	for range 20 {
		<-pings
	}
	j.answer(nil)
	c.ok()
	if j.w.Name != "worker_1" || len(r.starter.Workers()) != 1 {
		t.Error("it was replaced")
	}
}

// Stacks that never end, or come never, hold nothing up for long, and are cut.
func TestStacksAreBounded(t *testing.T) {
	for name, dump := range map[string]func(context.Context, *pooltest.Worker) []string{
		"never": func(ctx context.Context, _ *pooltest.Worker) []string {
			<-ctx.Done()
			return nil
		},
		"long": func(context.Context, *pooltest.Worker) []string {
			return slices.Repeat([]string{"é" + strings.Repeat("x", 4000)}, 1000)
		},
		"death": func(_ context.Context, w *pooltest.Worker) []string {
			w.Leave("killed by SIGUSR1")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m muzzle
			r := ready(t, m.option, func(s *setup) { s.starter.Stacks = dump })
			c := r.run("run", nil)
			r.next()
			m.on.Store(true)
			e := c.failed(wire.CodeWorkerLost)
			got, _ := e.Details["stacks"].(string)
			if len(got) > 8<<10+10 || (name == "long") != strings.HasPrefix(got, "éxxx") {
				t.Errorf("stacks of %d bytes: %.10q", len(got), got)
			}
			if !strings.Contains(e.Message, "heartbeat") {
				t.Errorf("got %v", e)
			}
		})
	}
}

// A call that goes on after its cancel costs its worker; those beside it have the grace time to end.
func TestCancelGrace(t *testing.T) {
	t.Parallel()
	r := ready(t, stacks("Current thread 0x1", `  File "app.py", line 3 in stubborn`), func(s *setup) {
		s.Concurrency, s.CancelGrace = 3, 2*time.Second
	})
	flow := r.pool.NewFlow("s", true)
	pinned := r.submit(flow, "echo", nil)
	pinned.ok()
	stuck := r.run("stubborn", nil)
	r.next()
	ends, goesOn := r.run("run", "ends"), r.run("run", "goes on")
	beside, other := r.next(), r.next()
	if beside.value() != "ends" {
		beside, other = other, beside
	}
	waits := r.submit(flow, "run", "elsewhere") // no slot is free at its worker
	r.waiting(1)
	r.cancel(stuck)
	e := stuck.failed(wire.CodeCancelled)
	if e.Details["ended_by"] != "pending" {
		t.Errorf("stuck: %v", e.Details)
	}
	// The worker is condemned and takes nothing new: what waited for it goes elsewhere, and so does a session of its.
	j := r.next()
	if j.value() != "elsewhere" || j.w.Name == "worker_1" {
		t.Errorf("got %v at %s", j.value(), j.w.Name)
	}
	beside.answer(nil)
	ends.ok()
	j.answer(nil)
	waits.ok()
	lost := goesOn.failed(wire.CodeWorkerLost)
	reason, _ := lost.Details["reason"].(string)
	text, _ := lost.Details["stacks"].(string)
	if !strings.Contains(reason, "went on for 2s") || !strings.Contains(text, "line 3 in stubborn") {
		t.Errorf("beside: %v", lost.Details)
	}
	stuck.wait(stuck.ended, "finished")
	other.answer(nil) // by a dead worker: nobody hears it
	r.readyWorkers(1)
}

// Where only calls are left that were told to stop nobody is waited for.
func TestNoGraceForNobody(t *testing.T) {
	r := ready(t, func(s *setup) { s.CancelGrace = 10 * time.Millisecond })
	stuck := r.run("stubborn", nil)
	r.next()
	r.cancel(stuck)
	stuck.wait(stuck.ended, "finished")
	r.run("echo", nil).ok()
}

// Without a grace time the outcome can say that the worker was killed, and where it was.
func TestNoGrace(t *testing.T) {
	r := ready(t, stacks("Thread 0x1"), func(s *setup) { s.CancelGrace = 0 })
	late := r.run("stubborn", nil, within(time.Millisecond))
	e := late.failed(wire.CodeDeadlineExceeded)
	if at := e.Details["ended_by"]; at != "queue" && at != "pending" && (at != "kill" || e.Details["stacks"] != "Thread 0x1") {
		t.Errorf("deadline: %v", e.Details)
	}
	// Its client is told before, where the machine has no time for the rest.
	for begun := time.Now(); ; {
		stuck := r.run("stubborn", nil)
		await(t, "it runs", func() bool { return r.state(stuck) == "running" })
		r.cancel(stuck)
		e = stuck.failed(wire.CodeCancelled)
		if e.Details["ended_by"] == "kill" && e.Details["stacks"] == "Thread 0x1" {
			break
		}
		if e.Details["ended_by"] != "pending" || time.Since(begun) > patience {
			t.Fatalf("cancel: %v", e.Details)
		}
	}
}

// A worker that breaks the protocol dies, and no other.
func TestWorkersThatBreakTheProtocol(t *testing.T) {
	for name, wrong := range map[string]func(w *pooltest.Worker, id uint64){
		"response to nothing": func(w *pooltest.Worker, id uint64) { w.Send(wire.KindResponse, id+100, nil, nil, 1) },
		"item for nothing":    func(w *pooltest.Worker, id uint64) { w.Send(wire.KindItem, id+100, nil, 1) },
		"change for nothing":  func(w *pooltest.Worker, id uint64) { w.Send(wire.KindChange, id+100, map[string]any{}) },
		"garbage":             func(w *pooltest.Worker, _ uint64) { _, _ = w.Conn.Write([]byte("Traceback (most recent call last)")) },
		"length 0":            func(w *pooltest.Worker, _ uint64) { _, _ = w.Conn.Write(make([]byte, 4)) },
		"absurd length":       func(w *pooltest.Worker, _ uint64) { _, _ = w.Conn.Write([]byte{0xff, 0xff, 0xff, 0xff}) },
		"absurd length of a response": func(w *pooltest.Worker, id uint64) {
			_, _ = w.Conn.Write(append([]byte{0x40, 0, 0, 0}, wire.AppendResponse(nil, id, nil)[4:]...))
		},
		"bomb": func(w *pooltest.Worker, _ uint64) {
			_, _ = w.Conn.Write([]byte{0, 0, 0, 5, 0xdd, 0xff, 0xff, 0xff, 0xff})
		},
		"hello again": func(w *pooltest.Worker, _ uint64) { w.Send(wire.KindResponse, 1, nil, nil, w.Name) },
		"meta": func(w *pooltest.Worker, id uint64) {
			w.Send(wire.KindResponse, id, map[string]any{"run_us": "x"}, nil, 1)
		},
		"long, for nothing": func(w *pooltest.Worker, id uint64) { w.Send(wire.KindResponse, id+100, nil, nil, make([]byte, 17<<20)) },
		"ids of asks": func(w *pooltest.Worker, id uint64) {
			for range 2 {
				w.Send(wire.KindRequest, 7, "client.x", map[string]any{"call": id}, nil)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := ready(t, func(s *setup) { s.Size = 2 })
			hit, spared := r.run("run", "hit"), r.run("run", "spared")
			bad, good := r.next(), r.next()
			if bad.value() != "hit" {
				bad, good = good, bad
			}
			wrong(bad.w, bad.m.ID)
			e := hit.failed(wire.CodeWorkerLost)
			if reason, _ := e.Details["reason"].(string); !strings.Contains(reason, "it broke the protocol") {
				t.Errorf("got %v", e.Details)
			}
			good.answer(nil)
			spared.ok()
			r.readyWorkers(2)
		})
	}
}

func TestWorkerThatCloses(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(w *pooltest.Worker)
		want string
	}{
		"closes and lives": {(*pooltest.Worker).CloseChannel, "it closed its channel but went on"},
		"exits":            {func(w *pooltest.Worker) { w.Leave("exit code 4") }, "exit code 4"},
		"kill -9":          {(*pooltest.Worker).Die, "SIGKILL"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ready(t, func(s *setup) { s.starter.Deaf = true })
			hit := r.run("run", nil)
			j := r.next()
			c.end(j.w)
			e := hit.failed(wire.CodeWorkerLost)
			if reason, _ := e.Details["reason"].(string); !strings.Contains(reason, c.want) {
				t.Errorf("reason: %q", reason)
			}
			select {
			case <-j.w.Done():
			default:
				t.Error("its calls were settled, and it lives")
			}
			r.run("echo", nil).ok()
		})
	}
}

// A frame that is too long settles the call that it belongs to, and costs no worker.
func TestFramesThatAreTooLong(t *testing.T) {
	r := ready(t, func(s *setup) { s.MaxFrame, s.CancelGrace = 1<<20, long })
	long := make([]byte, 2<<20)
	answered := r.run("run", nil)
	j := r.next()
	j.answer(long)
	if e := answered.failed(wire.CodeFrameTooLarge); fmt.Sprint(e.Details["limit"]) != "1048576" {
		t.Errorf("got %v", e.Details)
	}
	answered.wait(answered.ended, "finished")
	streams := r.run("items", nil, func(c *call) { c.Meta.Stream = 5 })
	j = r.next()
	j.w.Send(wire.KindItem, j.m.ID, nil, long)
	streams.fails(wire.CodeFrameTooLarge)
	streams.wait(streams.ended, "finished") // the worker has been told, and stopped
	stopped := r.run("stubborn", nil)
	j = r.next()
	r.cancel(stopped)
	j.answer(long)
	stopped.fails(wire.CodeCancelled)
	stopped.wait(stopped.ended, "finished")
	if n := len(r.starter.Workers()); n != 1 {
		t.Errorf("%d workers were needed", n)
	}
}
