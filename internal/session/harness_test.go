package session_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
)

const (
	patience = time.Minute // no passing test waits that long
	me       = "uid:1"
	maxState = 1 << 20
)

type (
	doc    = map[string]any
	option = func(*pool.Settings, *session.Config)
)

// rig is a table of sessions over a pool of workers that live in the test, and a store that holds it to its contract.
type rig struct {
	*workers
	t       testing.TB
	options []option
	shelf   *shelf
	starter *pooltest.Starter
	pool    *pool.Pool
	table   *session.Table
}

func start(t testing.TB, options ...option) *rig {
	t.Helper()
	b := &rig{workers: newWorkers(t), t: t, shelf: newShelf(t), options: options}
	b.begin()
	t.Cleanup(b.stop)
	return b
}

// begin starts the pool and the table over what is on the shelf.
func (b *rig) begin() {
	b.t.Helper()
	settings := pool.Settings{
		Size: 2, Concurrency: 4, CheckoutTimeout: patience, QueueLimit: 1000, HealthInterval: time.Minute, HealthTimeout: patience,
		StartTimeout: patience, CancelGrace: patience, Pinning: pool.PinStrict, OverflowIdle: time.Minute,
	}
	cfg := session.Config{Store: b.shelf, Settings: session.Settings{TTL: time.Hour, Max: 100, MaxState: maxState, AnswerTTL: time.Hour}}
	for _, o := range b.options {
		o(&settings, &cfg)
	}
	b.starter = &pooltest.Starter{TB: b.t, Handle: b.handle, Methods: methods(), Vitals: b.vitals}
	var err error
	b.pool, err = pool.New(pool.Config{
		Name: "default", Settings: settings, Starter: b.starter,
		Hello: func(string) ([]byte, error) { return wire.Marshal(doc{}) },
	})
	if err != nil {
		b.t.Fatal(err)
	}
	cfg.Pool = b.pool
	if b.table, err = session.New(cfg); err != nil {
		b.t.Fatal(err)
	}
	if err := b.pool.Ready(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

// stop ends them, with their workers.
func (b *rig) stop() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, w := range b.starter.Workers() {
		w.Die() // calls that a failed test has left
	}
	b.pool.Close(ctx)
	if err := b.table.Close(); err != nil {
		b.t.Error(err)
	}
	b.starter.Close()
}

// again is the sidecar's next start: all workers are others.
func (b *rig) again() {
	b.t.Helper()
	b.stop()
	b.shelf.reopen()
	b.workers = newWorkers(b.t)
	b.begin()
}

// asked is a call under way.
type asked struct {
	pool.Call
	t       testing.TB
	settled chan pool.Result // a copy
	ended   chan struct{}
	once    sync.Once
}

func (a *asked) Dispatch(*pool.Target, *wire.RequestMeta) *wire.Error { return nil }
func (a *asked) Item(*wire.Batch, []byte, bool)                       {}
func (a *asked) Ask(*wire.Batch, *pool.Ask)                           {}
func (a *asked) Change([]byte) error                                  { return nil }

func (a *asked) Settle(_ *wire.Batch, r *pool.Result) {
	out := *r
	out.Payload = append([]byte(nil), r.Payload...)
	select {
	case a.settled <- out:
	default:
		a.t.Error("a call is settled twice")
	}
}

func (a *asked) Finish(*wire.Batch, []byte) { a.once.Do(func() { close(a.ended) }) }

func key(id string) session.Key { return session.Key{Owner: me, ID: id} }

// ask submits a call; its result comes by want, ok or refused.
func (b *rig) ask(id, method string, params doc) *asked {
	b.t.Helper()
	payload, err := wire.Marshal(params)
	if err != nil {
		b.t.Fatal(err)
	}
	a := &asked{t: b.t, settled: make(chan pool.Result, 1), ended: make(chan struct{})}
	a.Call = pool.Call{Method: []byte(method), Params: payload, Owned: true, Handler: a}
	var batch wire.Batch
	if err := b.table.Submit(&batch, key(id), me, &a.Call); err != nil {
		a.settled <- pool.Result{Err: wire.FromError(err)}
		close(a.ended)
	}
	batch.Flush()
	return a
}

func (a *asked) result() pool.Result {
	a.t.Helper()
	select {
	case r := <-a.settled:
		return r
	case <-time.After(patience):
		a.t.Fatal("a call is not settled")
		return pool.Result{}
	}
}

// ok is what the call saw.
func (a *asked) ok() seen {
	a.t.Helper()
	r := a.result()
	if r.Err != nil {
		a.t.Fatalf("the call failed: %v", r.Err)
	}
	var s seen
	if err := wire.Unmarshal(r.Payload, &s); err != nil {
		a.t.Fatal(err)
	}
	return s
}

func (a *asked) refused(code wire.Code) {
	a.t.Helper()
	_ = a.failure(code)
}

// failure is the error of the call, which has to be of that code.
func (a *asked) failure(code wire.Code) *wire.Error {
	a.t.Helper()
	r := a.result()
	if r.Err == nil || r.Err.Code != code {
		a.t.Fatalf("got %v, want %s", r.Err, code)
	}
	return r.Err
}

// pending says that the call has not been settled.
func (a *asked) pending() bool { return len(a.settled) == 0 }

// seen is what a call finds in its worker.
type seen struct {
	State   map[string]any `msgpack:"state"`
	Version uint64         `msgpack:"version"`
	Next    uint64         `msgpack:"next"`
	Start   bool           `msgpack:"start"`
	Worker  string         `msgpack:"worker"`
	Secrets int            `msgpack:"secrets"`
	Lost    []string       `msgpack:"lost"`
	Call    int            `msgpack:"call"` // counts the runs of all methods
}

// put sets keys in a call, and returns what the call saw before.
func (b *rig) put(id string, set doc) seen {
	b.t.Helper()
	return b.ask(id, "do", changing(doc{"set": set})).ok()
}

func changing(frames ...any) doc { return doc{"frames": frames} }

// read is what a read-only call sees.
func (b *rig) read(id string) seen {
	b.t.Helper()
	return b.ask(id, "read", nil).ok()
}

// outcome is a channel for a Done.
func (b *rig) outcome(do func(*wire.Batch, session.Done)) <-chan error {
	done := make(chan error, 1)
	var batch wire.Batch
	do(&batch, func(_ *wire.Batch, err error) { done <- err })
	batch.Flush()
	return done
}

func (b *rig) await(done <-chan error) error {
	b.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		b.t.Fatal("an operation does not end")
		return nil
	}
}

func (b *rig) creating(id string, o session.Options) <-chan error {
	return b.outcome(func(batch *wire.Batch, done session.Done) { b.table.Create(batch, key(id), o, done) })
}

func (b *rig) create(id string, state doc) {
	b.t.Helper()
	if err := b.await(b.creating(id, session.Options{State: b.encode(state)})); err != nil {
		b.t.Fatal(err)
	}
}

func (b *rig) ending(id string) <-chan error {
	return b.outcome(func(batch *wire.Batch, done session.Done) { b.table.End(batch, key(id), done) })
}

func (b *rig) end(id string) {
	b.t.Helper()
	if err := b.await(b.ending(id)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *rig) updating(id string, set doc, deleted ...string) <-chan error {
	u := session.Update{Set: b.encode(set), Delete: deleted}
	return b.outcome(func(batch *wire.Batch, done session.Done) {
		b.table.Update(batch, key(id), u, func(b *wire.Batch, _ uint64, err error) { done(b, err) })
	})
}

func (b *rig) update(id string, set doc, deleted ...string) {
	b.t.Helper()
	if err := b.await(b.updating(id, set, deleted...)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *rig) encode(m doc) []byte {
	b.t.Helper()
	if m == nil {
		return nil
	}
	raw, err := wire.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	return raw
}

// get is the last commit, as clients see it.
func (b *rig) get(id string) (session.Info, doc) {
	b.t.Helper()
	info, raw, err := b.table.Get(key(id))
	if err != nil {
		b.t.Fatal(err)
	}
	var state doc
	if err := wire.Unmarshal(raw, &state); err != nil {
		b.t.Fatal(err)
	}
	return info, state
}

// arrival is the next call that waits at its worker.
func (b *rig) arrival() *held {
	b.t.Helper()
	select {
	case h := <-b.arrived:
		return h
	case <-time.After(patience):
		b.t.Fatal("no call has come to a worker")
		return nil
	}
}

// storing is the next operation that waits in the store: the test gives it its outcome.
func (b *rig) storing() func(error) {
	b.t.Helper()
	select {
	case f := <-b.shelf.waiting:
		return f
	case <-time.After(patience):
		b.t.Fatal("the store has not been asked")
		return nil
	}
}

// kill ends a worker, and returns when another is in its place.
func (b *rig) kill(worker string) {
	b.t.Helper()
	b.starter.Named(worker).Die()
	b.until("another worker", func() bool {
		snapshot := b.pool.Snapshot()
		for i := range snapshot.Workers {
			if snapshot.Workers[i].ID == worker {
				return false
			}
		}
		return snapshot.Ready() >= 2
	})
}

func (b *rig) until(what string, holds func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(100 * time.Microsecond) //nolint:forbidigo // polls a condition
	}
}

func code(err error) wire.Code {
	if err == nil {
		return ""
	}
	return wire.FromError(err).Code
}
