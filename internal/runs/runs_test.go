package runs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/internal/runs"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

type doc = map[string]any

// job is a run at its worker.
type job struct {
	w *pooltest.Worker
	m wiretest.Message
}

func (j *job) item(v any) { j.w.Send(wire.KindItem, j.m.ID, nil, v) }

// rig is a table of runs, whose workers the test is.
type rig struct {
	t     *testing.T
	table *runs.Table
	jobs  chan *job
}

func start(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, jobs: make(chan *job, 16)}
	starter := &pooltest.Starter{
		TB: t, Methods: []pooltest.Method{pooltest.Plain("run").With("process", "own").With("stream", "optional")},
		Handle: func(w *pooltest.Worker, m wiretest.Message) {
			switch m.Kind {
			case wire.KindRequest:
				r.jobs <- &job{w, m}
			case wire.KindCancel:
				w.Refuse(m, wire.Errorf(wire.CodeCancelled, "stopped"))
			default:
			}
		},
	}
	p, err := pool.New(pool.Config{
		Name: "runs", Starter: starter, Hello: func(string) ([]byte, error) { return wire.Marshal(doc{}) },
		Settings: pool.Settings{
			MaxOverflow: 8, Once: true, Concurrency: 1, CheckoutTimeout: patience, QueueLimit: 100, HealthInterval: patience, HealthTimeout: patience,
			StartTimeout: patience, CancelGrace: patience, OverflowIdle: patience,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := session.New(session.Config{Pool: p, Store: store.Memory{}, Settings: session.Settings{TTL: time.Hour, Max: 10, MaxState: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		for _, w := range starter.Workers() {
			w.Die()
		}
		p.Close(ctx)
		if err := sessions.Close(); err != nil {
			t.Error(err)
		}
		starter.Close()
	})
	r.table = runs.New(runs.Config{Settings: runs.Settings{Timeout: patience, Keep: time.Hour}, Pool: p, Sessions: sessions})
	return r
}

func (r *rig) detach(owner string) *runs.Run {
	r.t.Helper()
	var batch wire.Batch
	c := &pool.Call{Method: []byte("run"), Params: wire.Nil, Meta: wire.RequestMeta{Stream: 1}}
	run, err := r.table.Detach(&batch, runs.By{Key: session.Key{Owner: owner}, Payer: owner}, c)
	if err != nil {
		r.t.Fatal(err)
	}
	batch.Flush()
	return run
}

func (r *rig) next() *job {
	r.t.Helper()
	select {
	case j := <-r.jobs:
		return j
	case <-time.After(patience):
		r.t.Fatal("no run came to a worker")
		return nil
	}
}

// end is what becomes of a run.
func (r *rig) end(run *runs.Run) *pool.Result {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	result, err := run.Follow(ctx, func([]byte) error { return nil })
	if err != nil {
		r.t.Fatal(err)
	}
	return result
}

func of(owner string) func(string) bool { return func(o string) bool { return o == owner } }

func TestWhoReadsSlowlyMissesSomeAndNeverTheLast(t *testing.T) {
	r := start(t)
	run := r.detach("a")
	j := r.next()
	if credit := fmt.Sprint(j.m.Meta["stream"]); credit != fmt.Sprint(wire.MaxCredit) {
		t.Errorf("credit %s", credit)
	}
	taken, goOn := make(chan int64), make(chan struct{})
	ended := make(chan *pool.Result, 1)
	go func() {
		result, err := run.Follow(t.Context(), func(item []byte) error {
			var n int64
			if err := wire.Unmarshal(item, &n); err != nil {
				return err
			}
			taken <- n
			<-goOn
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		ended <- result
	}()
	j.item(0)
	if n := <-taken; n != 0 {
		t.Fatalf("%d came first", n)
	}
	for i := 1; i <= 100; i++ {
		j.item(i)
	}
	j.w.Answer(j.m, "done")
	r.end(run)
	goOn <- struct{}{}
	if n := <-taken; n != 100 {
		t.Errorf("%d came last", n)
	}
	goOn <- struct{}{}
	var result string
	if err := wire.Unmarshal((<-ended).Payload, &result); err != nil || result != "done" {
		t.Errorf("%q, %v", result, err)
	}
}

func TestStates(t *testing.T) {
	r := start(t)
	for want, do := range map[runs.State]func(*job, *runs.Run){
		runs.Succeeded: func(j *job, _ *runs.Run) { j.w.Answer(j.m, nil) },
		runs.Failed:    func(j *job, _ *runs.Run) { j.w.Refuse(j.m, wire.Errorf(wire.CodeProgramError, "boom")) },
		runs.Lost:      func(j *job, _ *runs.Run) { j.w.Die() },
		runs.Cancelled: func(_ *job, run *runs.Run) {
			var batch wire.Batch
			run.Cancel(&batch, wire.Errorf(wire.CodeCancelled, "enough"))
			batch.Flush()
		},
	} {
		run := r.detach("a")
		j := r.next()
		if i := run.Info(); i.State != runs.Running || i.Worker != j.w.Name || i.Started.IsZero() || !i.Detached {
			t.Errorf("%+v", i)
		}
		do(j, run)
		r.end(run)
		if i := run.Info(); i.State != want || i.Ended.IsZero() || (i.Err == nil) != (want == runs.Succeeded) {
			t.Errorf("want %s: %+v", want, i)
		}
	}
	if queued, running := r.table.Count(); queued+running != 0 {
		t.Errorf("%d queued, %d running", queued, running)
	}
}

func TestOthersFindNothing(t *testing.T) {
	r := start(t)
	run := r.detach("a")
	j := r.next()
	id := run.Info().ID
	if _, err := r.table.Find(id, of("a")); err != nil {
		t.Error(err)
	}
	_, mine := r.table.Find(id, of("b"))
	_, none := r.table.Find("run_0", of("b"))
	if mine == nil || none == nil || !errors.Is(mine, &wire.Error{Code: wire.CodeInvalidParams}) {
		t.Errorf("%v, %v", mine, none)
	}
	if len(r.table.List(of("b"))) != 0 || len(r.table.List(of("a"))) != 1 {
		t.Error("lists")
	}
	j.w.Answer(j.m, nil)
	r.end(run)
}

func TestWhatIsKept(t *testing.T) {
	r := start(t)
	finish := func(result any) *runs.Run {
		run := r.detach("a")
		j := r.next()
		j.w.Answer(j.m, result)
		r.end(run)
		return run
	}
	first := finish(nil)
	for range 100 {
		finish(nil)
	}
	list := r.table.List(of("a"))
	if len(list) != 100 || list[0].ID == first.Info().ID {
		t.Errorf("%d runs are kept, the first is %s", len(list), list[0].ID)
	}
	for range 5 {
		finish(make([]byte, 10<<20))
	}
	if n := len(r.table.List(of("a"))); n != 3 {
		t.Errorf("%d runs are kept whose results take 10 MiB", n)
	}
	r.table.Apply(runs.Settings{Timeout: patience, Keep: 1})
	if n := len(r.table.List(of("a"))); n != 0 {
		t.Errorf("%d runs are kept after their time", n)
	}
}

func TestRequestsOfRunsForNobodyAreBounded(t *testing.T) {
	r := start(t)
	var batch wire.Batch
	_, err := r.table.Detach(&batch, runs.By{}, &pool.Call{Method: []byte("run"), Params: make([]byte, 257<<20)})
	if !errors.Is(err, &wire.Error{Code: wire.CodeQueueFull}) {
		t.Errorf("got %v", err)
	}
	if n := len(r.table.List(of(""))); n != 0 {
		t.Errorf("%d runs", n)
	}
}
