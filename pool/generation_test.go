package pool_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// generation is one whose workers have a method that no other's have.
func (r *rig) generation(number int, change ...func(*pooltest.Starter)) *pool.Generation {
	name := fmt.Sprint("only in ", number)
	s := &pooltest.Starter{TB: r.tb, Methods: append(methods(), pooltest.Plain(name)), Handle: func(w *pooltest.Worker, m wiretest.Message) {
		if m.Kind == wire.KindRequest && m.Method == name {
			w.Answer(m, w.Name)
			return
		}
		r.handle(w, m)
	}}
	for _, do := range change {
		do(s)
	}
	r.tb.Cleanup(func() { r.close(0); s.Close() })
	return &pool.Generation{Number: number, Starter: s, Hello: func(string) ([]byte, error) { return wire.Marshal(map[string]any{}) }}
}

func (r *rig) prepare(settings pool.Settings, g *pool.Generation) *pool.Next {
	r.tb.Helper()
	n, err := r.pool.Prepare(r.tb.Context(), settings, g)
	if err != nil {
		r.tb.Fatal(err)
	}
	return n
}

func (r *rig) awaitGone(gone <-chan struct{}) {
	r.tb.Helper()
	select {
	case <-gone:
	case <-time.After(patience):
		r.tb.Fatalf("something is left: %+v", r.pool.Snapshot().Workers)
	}
}

// New workers take over: what runs at the old ones finishes there, what waits for them and all that comes goes to the new.
func TestGeneration(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size = 2 })
	one, two := r.pool.NewFlow("main", true), r.pool.NewFlow("main", true)
	r.submit(one, "run", 1)
	running := r.next()
	r.submit(two, "run", 2)
	other := r.next()
	waits := r.submit(r.pool.NewFlow("main", true), "run", 3)
	pinned := r.submit(one, "run", 4) // behind the one that runs
	r.waiting(2)
	s := r.settings
	s.Size, s.Concurrency = 3, 2
	n := r.prepare(s, r.generation(2))
	r.run("only in 2", nil).fails(wire.CodeUnknownMethod)
	if s := r.pool.Snapshot(); s.Ready() != 2 || len(s.Workers) != 5 || s.Generation != 1 {
		t.Errorf("prepared: %+v", s)
	}
	r.idle()
	gone := n.Commit()
	moved := r.next()
	if moved.value() != int64(3) || moved.w == running.w || moved.w == other.w {
		t.Errorf("%v came to %s", moved.value(), moved.w.Name)
	}
	r.run("only in 2", nil).ok()
	running.answer(nil)
	next := r.next()
	if next.value() != int64(4) || next.w == running.w {
		t.Errorf("%v came to %s", next.value(), next.w.Name)
	}
	for _, j := range []*job{moved, next} {
		j.answer(nil)
	}
	waits.ok()
	pinned.ok()
	select {
	case <-gone:
		t.Error("the old generation is gone, and a call of it runs")
	default:
	}
	other.answer(nil)
	r.awaitGone(gone)
	snapshot := r.pool.Snapshot()
	if snapshot.Ready() != 3 || len(snapshot.Workers) != 3 || snapshot.Generation != 2 || snapshot.Slots() != 6 || snapshot.Restarts != 0 {
		t.Errorf("%+v", snapshot)
	}
}

// A generation that does not get ready is taken back whole, and the workers that there are go on.
func TestGenerationThatDoesNotGetReady(t *testing.T) {
	dies := func(w *pooltest.Worker, _ wiretest.Message) {
		w.Print("No module named 'shop'")
		w.Leave("exit code 3")
	}
	for name, c := range map[string]struct {
		change func(*pooltest.Starter)
		want   string
	}{
		"is not started": {func(s *pooltest.Starter) { s.Fail = func(string) error { return errors.New("no such file") } }, "no such file"},
		"dies":           {func(s *pooltest.Starter) { s.Hello = dies }, "exit code 3"},
		"refuses": {func(s *pooltest.Starter) {
			s.Hello = func(w *pooltest.Worker, m wiretest.Message) {
				w.Refuse(m, wire.Errorf(wire.CodeInternal, "cannot import"))
			}
		}, "cannot import"},
		"is late": {func(s *pooltest.Starter) { s.Hello = func(*pooltest.Worker, wiretest.Message) {} }, "start_timeout"},
		"the second one dies": {func(s *pooltest.Starter) {
			s.Hello = func(w *pooltest.Worker, m wiretest.Message) {
				if len(s.Workers()) > 1 {
					dies(w, m)
					return
				}
				w.Answer(m, s.Greeting())
			}
		}, "exit code 3"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ready(t, func(s *setup) { s.Size = 2 })
			r.run("run", 1)
			running := r.next()
			s := r.settings
			if s.Size = 3; name == "is late" {
				s.StartTimeout = 20 * time.Millisecond
			}
			_, err := r.pool.Prepare(t.Context(), s, r.generation(2, c.change))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if name == "dies" && !strings.Contains(fmt.Sprint(wire.FromError(err).Details["output"]), "shop") {
				t.Errorf("it does not say what was printed: %v", wire.FromError(err).Details)
			}
			running.answer(nil)
			r.run("echo", nil).ok()
			if s := r.pool.Snapshot(); s.Ready() != 2 || len(s.Workers) != 2 || s.Generation != 1 || s.LastFailure != "" {
				t.Errorf("%+v", s)
			}
			r.awaitGone(r.prepare(r.settings, r.generation(3)).Commit())
			r.run("only in 3", nil).ok()
		})
	}
}

func TestGenerationGivenUp(t *testing.T) {
	r := ready(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	other := errors.New("another one is wanted")
	g := r.generation(2, func(s *pooltest.Starter) {
		s.Hello = func(*pooltest.Worker, wiretest.Message) { cancel(other) }
	})
	if _, err := r.pool.Prepare(ctx, r.settings, g); !errors.Is(err, other) {
		t.Errorf("got %v", err)
	}
	r.awaitGone(r.prepare(r.settings, r.generation(3)).GiveUp())
	r.run("only in 3", nil).fails(wire.CodeUnknownMethod)
	r.run("echo", nil).ok()
	r.left("worker_1")
}

// A worker of the old generation that is still starting is not waited for.
func TestGenerationWhileWorkersStart(t *testing.T) {
	var hung chan struct{}
	r := start(t, func(s *setup) {
		hung = make(chan struct{}, 2)
		s.starter.Hello = func(*pooltest.Worker, wiretest.Message) { hung <- struct{}{} }
		s.Size = 2
	})
	waits := r.run("echo", nil)
	<-hung
	<-hung
	gone := r.prepare(r.settings, r.generation(2)).Commit()
	waits.ok()
	r.awaitGone(gone)
	r.left("worker_3", "worker_4")
	if s := r.pool.Snapshot(); s.LastFailure != "" {
		t.Errorf("%+v", s)
	}
}

// A pool that cannot start workers gets some when the application is mended.
func TestGenerationAfterOneThatFailed(t *testing.T) {
	r := start(t, func(s *setup) { s.starter.Fail = func(string) error { return errors.New("broken") } })
	r.run("echo", nil).fails(wire.CodeNoWorkers)
	r.awaitGone(r.prepare(r.settings, r.generation(2)).Commit())
	r.run("only in 2", nil).ok()
}

func TestGenerationOfALazyPool(t *testing.T) {
	r := start(t, func(s *setup) { s.Lazy = true })
	r.awaitGone(r.prepare(r.settings, r.generation(2)).Commit())
	if s := r.pool.Snapshot(); len(s.Workers) != 0 {
		t.Errorf("%+v", s)
	}
	r.run("only in 2", nil).ok()
}

func TestCloseWhileAGenerationGetsReady(t *testing.T) {
	for _, prepared := range []bool{true, false} {
		r := ready(t)
		hung := make(chan struct{}, 1)
		g := r.generation(2, func(s *pooltest.Starter) {
			if !prepared {
				s.Hello = func(*pooltest.Worker, wiretest.Message) { hung <- struct{}{} }
			}
		})
		if prepared {
			n := r.prepare(r.settings, g)
			r.close(patience)
			n.Commit()
			r.awaitGone(n.GiveUp())
			continue
		}
		failed := make(chan error, 1)
		go func() {
			_, err := r.pool.Prepare(context.Background(), r.settings, g) //nolint:usetesting // it ends with the pool
			failed <- err
		}()
		<-hung
		r.close(patience)
		if err := <-failed; err == nil {
			t.Error("it was prepared")
		}
	}
}

// What workers are told comes before the calls that follow, and to those that start meanwhile, too.
func TestTell(t *testing.T) {
	told := make(chan string, 8)
	hello := make(chan func(), 8)
	r := ready(t, func(s *setup) {
		handle := s.starter.Handle
		s.starter.Handle = func(w *pooltest.Worker, m wiretest.Message) {
			if m.Kind == wire.KindNotification {
				told <- w.Name + " " + m.Method
				return
			}
			handle(w, m)
		}
	})
	r.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) { hello <- func() { w.Answer(m, r.starter.Greeting()) } }
	r.resize(2, 0)
	answer := <-hello
	r.pool.Tell("sidecar.settings", []byte{0x80})
	if got := <-told; got != "worker_1 sidecar.settings" {
		t.Errorf("got %q", got)
	}
	answer()
	if got := <-told; got != "worker_2 sidecar.settings" {
		t.Errorf("got %q", got)
	}
	r.resize(3, 0)
	(<-hello)()
	r.readyWorkers(3)
	r.run("echo", nil).ok()
	select {
	case got := <-told:
		t.Errorf("%s, whose hello said so already", got)
	default:
	}
}
