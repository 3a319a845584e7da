package pool_test

import (
	"fmt"
	"math/rand/v2"
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

// resize fails the test where the pool does not take it.
func (r *rig) resize(size, maxOverflow int) {
	r.tb.Helper()
	if err := r.pool.Resize(size, maxOverflow); err != nil {
		r.tb.Fatal(err)
	}
}

// apply changes some of the settings that the rig has.
func (r *rig) apply(change func(*pool.Settings)) error {
	r.settings.Size = r.pool.Snapshot().Size
	change(&r.settings)
	return r.pool.Apply(r.settings)
}

// left waits until the pool has just these workers.
func (r *rig) left(names ...string) {
	r.tb.Helper()
	await(r.tb, fmt.Sprint(names, " alone are left"), func() bool {
		s := r.pool.Snapshot()
		return len(s.Workers) == len(names) && slices.Equal(r.names(), names)
	})
}

func TestResizeUp(t *testing.T) {
	r := ready(t)
	for range 3 {
		r.run("run", nil)
	}
	r.waiting(2)
	r.resize(3, 0)
	at := map[string]bool{}
	for range 3 {
		at[r.next().w.Name] = true
	}
	if len(at) != 3 {
		t.Errorf("the calls are at %v", at)
	}
	if s := r.pool.Snapshot(); s.Restarts != 0 || s.Size != 3 {
		t.Errorf("%+v", s)
	}
}

// What a resize did stays until settings say something else of it than they did before.
func TestResizeStays(t *testing.T) {
	r := ready(t)
	r.resize(3, 0)
	same := r.settings
	same.QueueLimit = 10
	r.prepare(same, nil).Commit()
	if err := r.pool.Apply(same); err != nil {
		t.Fatal(err)
	}
	if s := r.pool.Snapshot(); s.Size != 3 {
		t.Errorf("size is %d", s.Size)
	}
	other := same
	other.Size = 2
	r.prepare(other, nil).Commit()
	r.readyWorkers(2)
	r.prepare(r.settings, nil).Commit() // 1, as it was before
	r.readyWorkers(1)
}

// The workers with the fewest sessions go. What runs at them finishes, what waits behind it goes elsewhere, and their sessions do not notice.
func TestResizeDown(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size = 4 })
	var flows []*pool.Flow
	var jobs []*job
	for range 4 { // one to each
		f := r.pool.NewFlow("main", true)
		flows = append(flows, f)
		r.submit(f, "run", nil)
		jobs = append(jobs, r.next())
	}
	stays := []string{jobs[0].w.Name, jobs[1].w.Name}
	slices.Sort(stays)
	for _, j := range jobs[:2] {
		j.answer(nil)
	}
	await(t, "two are free", func() bool { return r.pool.Snapshot().InFlight == 2 })
	for range 2 { // the second one at each of those
		f := r.pool.NewFlow("main", true)
		r.submit(f, "echo", nil).ok()
		flows = append(flows, f)
	}
	behind := r.submit(flows[2], "echo", "behind one that runs")
	r.resize(2, 0)
	if got := r.names(); !slices.Equal(got, stays) {
		t.Fatalf("ready are %v, want %v; %+v", got, stays, r.pool.Snapshot().Workers)
	}
	if n := len(r.pool.Snapshot().Workers); n != 4 {
		t.Fatalf("%d workers, while two have calls", n)
	}
	for _, j := range jobs[2:] {
		j.answer(nil)
	}
	behind.ok()
	for _, f := range flows {
		r.submit(f, "echo", nil).ok()
		if !slices.Contains(stays, f.Worker()) {
			t.Errorf("a session is pinned to %s", f.Worker())
		}
	}
	r.left(stays...)
	if s := r.pool.Snapshot(); s.LastFailure != "" || s.Errors != 0 || s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
}

// A session's call that waits for a worker which is retired goes to another.
func TestResizeMovesWhatWaits(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency = 2, 2 })
	a, b := r.pool.NewFlow("main", true), r.pool.NewFlow("main", true)
	r.submit(a, "echo", nil).ok()
	r.submit(b, "run", nil)
	r.next().answer(nil)
	await(t, "both have a session", func() bool { return a.Worker() != b.Worker() && b.Worker() != "" })
	third := r.pool.NewFlow("main", true)
	r.submit(third, "echo", nil).ok()
	loner := a
	if third.Worker() == a.Worker() {
		loner = b
	}
	var jobs []*job
	for range 4 {
		r.run("run", nil)
		jobs = append(jobs, r.next())
	}
	waits := r.submit(loner, "echo", nil)
	r.resize(1, 0)
	for _, j := range jobs {
		if j.w.Name == third.Worker() {
			j.answer(nil)
			break
		}
	}
	waits.ok()
	if loner.Worker() != third.Worker() {
		t.Errorf("it is pinned to %s", loner.Worker())
	}
}

// hold keeps workers from getting ready until it is let go.
func hold(s *setup) (release func()) {
	free := make(chan struct{})
	s.starter.Hello = func(w *pooltest.Worker, m wiretest.Message) {
		<-free
		w.Answer(m, s.starter.Greeting())
	}
	return sync.OnceFunc(func() { close(free) })
}

// Workers that start while the pool is made smaller go when enough are ready, and not before.
func TestResizeDuringStarts(t *testing.T) {
	var release func()
	r := start(t, func(s *setup) { s.Size, release = 4, hold(s) })
	c := r.run("echo", nil)
	r.resize(1, 0)
	r.resize(3, 0)
	r.resize(2, 0)
	release()
	c.ok()
	await(t, "two are left", func() bool { s := r.pool.Snapshot(); return len(s.Workers) == 2 && s.Ready() == 2 })
	if n := len(r.starter.Workers()); n != 4 {
		t.Errorf("%d were started", n)
	}
}

// An overflow worker that is there becomes one of the regular ones, and one more than there may be goes, though it is busy.
func TestResizeWithOverflow(t *testing.T) {
	r := ready(t, func(s *setup) { s.MaxOverflow = 2 })
	var jobs []*job
	for range 3 {
		r.run("run", nil)
	}
	for range 3 {
		jobs = append(jobs, r.next())
	}
	r.readyWorkers(3)
	r.resize(2, 0)
	await(t, "two are left to take calls", func() bool { return len(r.names()) == 2 })
	for _, w := range r.pool.Snapshot().Workers {
		if w.State == "ready" && w.Overflow {
			t.Errorf("%s is beyond the size", w.ID)
		}
	}
	for _, j := range jobs {
		j.answer(nil)
	}
	await(t, "the third has ended", func() bool { return len(r.pool.Snapshot().Workers) == 2 })
	if n := len(r.starter.Workers()); n != 3 {
		t.Errorf("%d workers were started", n)
	}
}

// No call fails while a pool under load is resized again and again, its workers are recycled and its settings change.
func TestResizeUnderLoad(t *testing.T) {
	r := ready(t, func(s *setup) { s.Size, s.Concurrency, s.MaxOverflow, s.OverflowIdle = 3, 2, 2, time.Millisecond })
	var calls sync.WaitGroup
	var done atomic.Bool
	for i := range 8 {
		f := r.pool.NewFlow(fmt.Sprint("owner ", i%3), i > 1)
		calls.Go(func() {
			for !done.Load() {
				for _, c := range []*call{r.submit(f, "echo", nil), r.submit(f, "echo", nil)} {
					c.wait(c.settled, "settled")
					if c.err != nil {
						t.Errorf("%v (%v)", c.err, c.err.Details)
						return
					}
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	sizes := 0
	for range 200 {
		size := 1 + random.IntN(4)
		r.resize(size, random.IntN(3))
		if err := r.pool.Resize(0, 0); err == nil {
			t.Error("no worker at all is taken")
		}
		if random.IntN(3) == 0 {
			r.run("echo", nil).ok()
		}
		if names := r.names(); random.IntN(4) == 0 && len(names) > 0 {
			r.pool.RecycleWorker(names[random.IntN(len(names))], "the test says so")
		}
		if sizes += size; size == 4 {
			if err := r.pool.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	r.resize(2, 0)
	await(t, "two are left", func() bool { s := r.pool.Snapshot(); return len(s.Workers) == 2 && s.Ready() == 2 })
	done.Store(true)
	calls.Wait()
	if s := r.pool.Snapshot(); s.LastFailure != "" {
		t.Error(s.LastFailure)
	}
}

func TestApplyTakesNothingThatIsWrong(t *testing.T) {
	r := ready(t)
	if err := r.apply(func(s *pool.Settings) { s.Size, s.Pinning = 7, "loose" }); err == nil || !strings.Contains(err.Error(), "loose") {
		t.Errorf("got %v", err)
	}
	if s := r.pool.Snapshot(); s.Size != 1 || len(s.Workers) != 1 {
		t.Errorf("%+v", s)
	}
}

// A shorter heartbeat interval counts at once, also where the settings change all the time.
func TestApplyHealthInterval(t *testing.T) {
	pings := make(chan struct{}, 1000)
	r := ready(t, func(s *setup) {
		s.starter.Ping = func(w *pooltest.Worker, m wiretest.Message) {
			w.Answer(m, nil)
			pings <- struct{}{}
		}
	})
	limit := time.After(patience)
	for i, seen := 1, 0; seen < 3; i++ {
		if err := r.apply(func(s *pool.Settings) { s.HealthInterval, s.QueueLimit = 20*time.Millisecond, 1000+i%2 }); err != nil {
			t.Fatal(err)
		}
		select {
		case <-pings:
			seen++
		case <-limit:
			t.Fatal("no heartbeat")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestApplyMemoryLimit(t *testing.T) {
	r := ready(t, func(s *setup) {
		s.SampleEvery = 5 * time.Millisecond
		s.starter.Vitals = func(w *pooltest.Worker) pool.Vitals {
			if w.Name != "worker_1" {
				return pool.Vitals{}
			}
			return pool.Vitals{Memory: 200 << 20}
		}
	})
	if err := r.apply(func(s *pool.Settings) { s.RecycleMemory = 100 << 20 }); err != nil {
		t.Fatal(err)
	}
	r.left("worker_2")
}

// The queue may become shorter than what waits in it: nothing of that fails, but what comes then is one too many.
func TestApplyQueueLimit(t *testing.T) {
	r := ready(t)
	r.run("run", nil)
	at := r.next()
	calls := []*call{r.run("echo", nil), r.run("echo", nil), r.run("echo", nil)}
	if err := r.apply(func(s *pool.Settings) { s.QueueLimit = 1 }); err != nil {
		t.Fatal(err)
	}
	r.run("echo", nil).fails(wire.CodeQueueFull)
	at.answer(nil)
	for _, c := range calls {
		c.ok()
	}
}

// How a session's next call waits is changed for one that is there already.
func TestApplyPinning(t *testing.T) {
	r := ready(t, two(pool.PinStrict))
	f, fills := pinned(r)
	if err := r.apply(func(s *pool.Settings) { s.Pinning = pool.PinFailFast }); err != nil {
		t.Fatal(err)
	}
	r.submit(f, "echo", nil).fails(wire.CodeSessionBusy)
	fills.answer(nil)
}

// A worker is told how many calls it takes when it starts: another number counts for those that start later.
func TestApplyConcurrency(t *testing.T) {
	r := ready(t)
	if err := r.apply(func(s *pool.Settings) { s.Size, s.Concurrency = 2, 3 }); err != nil {
		t.Fatal(err)
	}
	r.readyWorkers(2)
	at := map[string]int{}
	for range 6 {
		r.run("run", nil)
	}
	for range 4 {
		at[r.next().w.Name]++
	}
	if s := r.pool.Snapshot(); at["worker_1"] != 1 || at["worker_2"] != 3 || s.Waiting != 2 || s.Slots() != 4 {
		t.Errorf("at %v, %d wait, %d slots", at, s.Waiting, s.Slots())
	}
}

// A lazy pool that is not to be lazy any more starts its workers, and one that has workers does not become lazy.
func TestApplyLazy(t *testing.T) {
	r := start(t, func(s *setup) { s.Lazy = true })
	if err := r.apply(func(s *pool.Settings) { s.Lazy = false }); err != nil {
		t.Fatal(err)
	}
	r.readyWorkers(1)
	if err := r.apply(func(s *pool.Settings) { s.Lazy = true }); err != nil {
		t.Fatal(err)
	}
	r.starter.Named("worker_1").Die()
	r.left("worker_2")
}

// The start of an overflow worker that failed is tried again while calls wait.
func TestOverflowStartsAgainAfterAFailure(t *testing.T) {
	r := ready(t, func(s *setup) {
		s.MaxOverflow = 1
		s.starter.Fail = func(id string) error {
			if id == "worker_2" {
				return wire.Errorf(wire.CodeInternal, "not now")
			}
			return nil
		}
	})
	r.run("run", nil)
	r.next()
	r.run("run", nil)
	if j := r.next(); j.w.Name != "worker_3" {
		t.Errorf("it went to %s", j.w.Name)
	}
}
