package session_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
)

// runners is a pool whose workers take one call, beside the rig's.
func (b *rig) runners() *pool.Pool {
	b.t.Helper()
	starter := &pooltest.Starter{TB: b.t, Handle: b.handle, Methods: methods(), Vitals: b.vitals}
	p, err := pool.New(pool.Config{
		Name: "runs", Prefix: "runner", Starter: starter, Hello: func(string) ([]byte, error) { return wire.Marshal(doc{}) },
		Settings: pool.Settings{
			MaxOverflow: 4, Once: true, Concurrency: 1, CheckoutTimeout: patience, QueueLimit: 100, HealthInterval: time.Minute, HealthTimeout: patience,
			StartTimeout: patience, CancelGrace: patience, OverflowIdle: time.Minute,
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, w := range starter.Workers() {
			w.Die()
		}
		p.Close(ctx)
		starter.Close()
	})
	return p
}

// apart submits a call that takes no turn.
func (b *rig) apart(p *pool.Pool, id string, params doc) *asked {
	b.t.Helper()
	a := &asked{t: b.t, settled: make(chan pool.Result, 1), ended: make(chan struct{})}
	a.Call = pool.Call{Method: []byte("do"), Params: b.encode(params), Owned: true, Handler: a}
	var batch wire.Batch
	if err := b.table.SubmitApart(&batch, key(id), me, p.NewFlow(me, false), &a.Call); err != nil {
		b.t.Fatal(err)
	}
	batch.Flush()
	return a
}

func TestApartSeesASnapshotAndCommitsAtItsEnd(t *testing.T) {
	b := start(t)
	p := b.runners()
	b.create("s", doc{"a": 1})
	run := b.apart(p, "s", doc{"hold": true, "frames": []any{doc{"set": doc{"made": 1}, "secrets": doc{"key": "k"}}, doc{"delete": []string{"a"}}}})
	held := b.arrival()
	b.put("s", doc{"b": 2}) // the turn is free
	if _, state := b.get("s"); len(state) != 2 {
		t.Errorf("before its end: %v", state)
	}
	held.goOn <- struct{}{}
	if saw := run.ok(); len(saw.State) != 1 || saw.State["a"] == nil || saw.Start {
		t.Errorf("it saw %v", saw)
	}
	if _, state := b.get("s"); len(state) != 2 || state["made"] == nil || state["b"] == nil {
		t.Errorf("after its end: %v", state)
	}
	if saw := b.read("s"); len(saw.State) != 3 || saw.Secrets != 1 {
		t.Errorf("the worker of the session's other calls sees %v", saw)
	}
	<-run.ended
	b.end("s")
}

func TestApartDoesNotOverwrite(t *testing.T) {
	b := start(t)
	p := b.runners()
	for name, frame := range map[string]doc{
		"set": {"set": doc{"a": 2, "b": 2}}, "delete": {"delete": []string{"a"}, "set": doc{"b": 2}}, "secret": {"secrets": doc{"a": 2}, "set": doc{"b": 2}},
	} {
		b.create(name, doc{"a": 1})
		run := b.apart(p, name, doc{"hold": true, "frames": []any{frame}})
		held := b.arrival()
		b.put(name, doc{"a": 3})
		held.goOn <- struct{}{}
		err := run.failure(wire.CodeSessionBusy)
		if keys, _ := err.Details["keys"].([]string); err.Retryable || !slices.Equal(keys, []string{"a"}) {
			t.Errorf("%s: %+v", name, err)
		}
		if _, state := b.get(name); len(state) != 1 {
			t.Errorf("%s: %v", name, state)
		}
	}
}

func TestApartOfASessionThatEnds(t *testing.T) {
	b := start(t)
	p := b.runners()
	b.create("s", doc{})
	run := b.apart(p, "s", doc{"hold": true})
	held := b.arrival()
	b.end("s")
	run.refused(wire.CodeSessionNotFound)
	held.worker.Die()
	<-run.ended
}

func TestApartCommitThatIsNotStored(t *testing.T) {
	b := start(t)
	p := b.runners()
	b.create("s", doc{})
	run := b.apart(p, "s", doc{"hold": true, "frames": []any{doc{"set": doc{"a": 1}}}})
	held := b.arrival()
	b.shelf.slowly("commit", true)
	held.goOn <- struct{}{}
	b.storing()(errDisk)
	b.shelf.slowly("commit", false)
	run.refused(wire.CodeStorageUnavailable)
	<-run.ended
	if _, state := b.get("s"); len(state) != 0 {
		t.Errorf("%v", state)
	}
}

func TestApartCountsInBudgets(t *testing.T) {
	b := start(t, budgets(session.Budgets{Session: store.Amounts{Calls: 2, Tokens: 100}}))
	p := b.runners()
	b.create("s", doc{})
	run := b.apart(p, "s", doc{"hold": true, "usage": doc{"total_tokens": 40}})
	held := b.arrival()
	tell := func(n int) {
		held.worker.Send(wire.KindNotification, "call.usage", nil, doc{"call": held.id, "usage": doc{"total_tokens": n}})
	}
	tell(20)
	tell(30)
	b.until("what it used is counted", func() bool { info, _ := b.get("s"); return info.Spent.Life.Tokens == 30 })
	held.goOn <- struct{}{}
	run.ok()
	if info, _ := b.get("s"); info.Spent.Life != (store.Amounts{Calls: 1, Tokens: 40}) {
		t.Errorf("spent %+v", info.Spent.Life)
	}
	run = b.apart(p, "s", doc{"hold": true})
	held = b.arrival()
	tell(60)
	err := run.failure(wire.CodeBudgetExceeded)
	if err.Details["resource"] != "tokens" {
		t.Errorf("%+v", err)
	}
	held.worker.Die()
	<-run.ended
	b.apart(p, "s", doc{}).refused(wire.CodeBudgetExceeded)
}
