package pool_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// ends is what was counted of a reason why workers end.
func (r *rig) ends(reason string) uint64 { return r.metrics.WorkerEnds("test", reason).Get() }

// Each way to end is there to be counted from the start, and a worker ends once.
func TestEndsAreCounted(t *testing.T) {
	r := ready(t)
	var text strings.Builder
	if err := r.metrics.Write(&text, nil); err != nil {
		t.Fatal(err)
	}
	for _, reason := range []string{"planned", "failed_start", "crashed", "stuck", "memory", "killed"} {
		if line := `dspex_worker_ends_total{pool="test",reason="` + reason + `"} 0`; !strings.Contains(text.String(), line) {
			t.Errorf("no %s in\n%s", line, text.String())
		}
	}
	_, err := r.pool.Prepare(t.Context(), r.settings, r.generation(2, func(s *pooltest.Starter) {
		s.Fail = func(string) error { return errors.New("no such file") }
	}))
	if err == nil || r.ends("failed_start") != 1 || r.ends("planned") != 0 {
		t.Errorf("%v: %d failed, %d planned", err, r.ends("failed_start"), r.ends("planned"))
	}
	r.prepare(r.settings, r.generation(2)).Commit()
	await(t, "the old one has ended", func() bool { return r.ends("planned") == 1 })
}

// A worker that is replaced as planned has not failed. How one failed is told of the one at its place, and of no other.
func TestFailuresByPlace(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size = 2 })
	hold := r.run("run", nil)
	at := r.next()
	r.pool.RecycleWorker(at.w.Name, "an administrator wants it")
	await(t, "another is ready beside it", func() bool { s := r.pool.Snapshot(); return s.Ready() == 2 && len(s.Workers) == 3 })
	places := map[int]int{}
	for _, w := range r.pool.Snapshot().Workers {
		places[w.Place]++
		if leaves := w.ID == at.w.Name; leaves != (w.Leaving == "an administrator wants it") || w.Failure != "" {
			t.Errorf("%+v", w)
		}
	}
	if len(places) != 2 {
		t.Errorf("places are %v", places)
	}
	at.answer(nil)
	hold.ok()
	await(t, "it has left", func() bool { return len(r.pool.Snapshot().Workers) == 2 })
	dies := r.pool.Snapshot().Workers[0]
	r.starter.Named(dies.ID).Leave("exit code 9")
	await(t, "another is at its place", func() bool {
		s := r.pool.Snapshot()
		for _, w := range s.Workers {
			if w.Place != dies.Place && w.Failure != "" {
				t.Fatalf("%+v", w)
			}
			if w.Place == dies.Place && w.ID != dies.ID && strings.Contains(w.Failure, dies.ID+": exit code 9") {
				return true
			}
		}
		return false
	})
}

// Errors are those of the calls that are counted, and slots those of the workers whose calls are.
func TestFiguresFit(t *testing.T) {
	r := ready(t)
	r.run("nonsense", nil).fails(wire.CodeUnknownMethod)
	r.run("echo", nil).ok()
	if s := r.pool.Snapshot(); s.Commands != 1 || s.Errors != 0 {
		t.Errorf("%d errors of %d calls", s.Errors, s.Commands)
	}
	r.run("run", nil)
	at := r.next()
	r.pool.RecycleWorker(at.w.Name, "an administrator wants it")
	await(t, "another has taken over", func() bool {
		s := r.pool.Snapshot()
		return len(s.Workers) == 2 && s.Workers[0].State == "draining" && s.Workers[1].State == "ready"
	})
	if s := r.pool.Snapshot(); s.Busy() != 0 || s.InFlight != 1 || s.Slots() != 1 {
		t.Errorf("%d of %d slots", s.Busy(), s.Slots())
	}
	at.answer(nil)
}

// Two that resize at once, each another figure, both have what they asked for.
func TestResizeOfOneFigure(t *testing.T) {
	r := ready(t)
	for _, one := range [][2]int{{2, -1}, {-1, 3}} {
		if err := r.pool.Resize(one[0], one[1]); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.pool.Snapshot(); s.Size != 2 || s.MaxOverflow != 3 {
		t.Errorf("size %d, max_overflow %d", s.Size, s.MaxOverflow)
	}
}

// A worker of a generation that gets ready is listed, and can be looked at and killed: the generation is given up then.
func TestWorkerOfTheNextGeneration(t *testing.T) {
	r := ready(t)
	hellos := make(chan string, 10)
	next := r.generation(2, func(s *pooltest.Starter) { s.Hello = func(w *pooltest.Worker, _ wiretest.Message) { hellos <- w.Name } })
	failed := make(chan error, 1)
	go func() {
		_, err := r.pool.Prepare(t.Context(), r.settings, next)
		failed <- err
	}()
	name := <-hellos
	if _, found := r.pool.Stacks(t.Context(), name); !found {
		t.Error("it has no stacks")
	}
	if r.pool.RecycleWorker(name, "an administrator wants it") {
		t.Error("what takes no calls is recycled")
	}
	if !r.pool.KillWorker(name, "an administrator killed it") {
		t.Error("it is not killed")
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "an administrator killed it") {
		t.Errorf("the generation: %v", err)
	}
	r.run("echo", nil).ok()
}
