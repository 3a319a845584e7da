package pool_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
)

// once makes a pool whose workers take one call, so many at a time.
func once(most int, change ...func(*setup)) []func(*setup) {
	return append([]func(*setup){func(s *setup) {
		s.Size, s.MaxOverflow, s.Once = 0, most, true
		s.starter.Methods = append(s.starter.Methods, pooltest.Plain("alone").With("process", "own"))
	}}, change...)
}

// ids are the names of all workers that were started.
func (r *rig) started() (ids []string) {
	for _, w := range r.starter.Workers() {
		ids = append(ids, w.Name)
	}
	return ids
}

func TestOnceEachCallHasAWorker(t *testing.T) {
	t.Parallel()
	r := ready(t, once(2)...)
	if got := r.started(); len(got) != 0 {
		t.Fatalf("started before there was a call: %v", got)
	}
	calls := []*call{r.run("alone", 0), r.run("alone", 1), r.run("run", 2)}
	first, second := r.next(), r.next()
	r.idle() // the third waits
	if n := len(r.started()); n != 2 {
		t.Fatalf("%d workers", n)
	}
	first.answer(nil)
	third := r.next() // when the first worker is gone
	if got := r.started(); len(got) != 3 || third.w.Name == first.w.Name {
		t.Fatalf("%v, the third call at %s", got, third.w.Name)
	}
	<-first.w.Done()
	second.answer(nil)
	third.answer(nil)
	for _, c := range calls {
		c.ok()
	}
	await(t, "all are gone", func() bool { return len(r.pool.Snapshot().Workers) == 0 })
	if s := r.pool.Snapshot(); s.LastFailure != "" {
		t.Errorf("failed: %s", s.LastFailure)
	}
}

func TestOnceADeathIsOfItsCall(t *testing.T) {
	t.Parallel()
	r := ready(t, once(2)...)
	c, other := r.run("alone", 0), r.run("alone", 1)
	a, b := r.next(), r.next()
	if a.value() != any(int64(0)) {
		a, b = b, a
	}
	a.w.Die()
	if err := c.failed(wire.CodeWorkerLost); err.Details["reason"] != "killed by SIGKILL" || err.Details["maybe_executed"] != true {
		t.Errorf("%+v", err.Details)
	}
	b.answer(nil)
	other.ok()
	safe := r.run("safe", 2) // is run again in another worker
	first := r.next()
	first.w.Die()
	again := r.next()
	if again.w == first.w {
		t.Error("the same worker")
	}
	again.answer(nil)
	safe.ok()
}

// A call that does not stop has its worker killed, and one that does has it gone within the grace, whatever it has left behind.
func TestOnceACancelEndsTheWorker(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"alone", "stubborn"} {
		r := ready(t, once(1, func(s *setup) { s.CancelGrace, s.starter.Deaf = 50*time.Millisecond, true })...)
		c := r.run(method, nil)
		j := r.next()
		r.cancel(c)
		c.fails(wire.CodeCancelled)
		<-j.w.Done()
	}
}

func TestOnceWaitsItsTime(t *testing.T) {
	t.Parallel()
	r := ready(t, once(1)...)
	c := r.run("alone", nil)
	j := r.next()
	r.settings.CheckoutTimeout = 20 * time.Millisecond
	if err := r.pool.Apply(r.settings); err != nil {
		t.Fatal(err)
	}
	if err := r.run("alone", nil).failed(wire.CodeCheckoutTimeout); !strings.Contains(err.Message, "runs.max") {
		t.Error(err)
	}
	j.answer(nil)
	c.ok()
}

// Calls of a generation that was replaced finish in it, and count for how many there may be.
func TestOnceReload(t *testing.T) {
	t.Parallel()
	r := ready(t, once(2)...)
	c := r.run("alone", 0)
	old := r.next()
	next, err := r.pool.Prepare(t.Context(), r.settings, &pool.Generation{Number: 2, Starter: r.starter, Hello: func(string) ([]byte, error) { return wire.Nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.started()); n != 1 {
		t.Errorf("%d workers after nothing was committed", n)
	}
	gone := next.Commit()
	second, third := r.run("alone", 1), r.run("alone", 2)
	j := r.next()
	r.idle()
	j.answer(nil)
	r.next().answer(nil)
	second.ok()
	third.ok()
	select {
	case <-gone:
		t.Error("the old generation is said to be gone")
	default:
	}
	old.answer(nil)
	c.ok()
	<-gone
}

// Before a worker has said which methods want a process of their own, the pool takes such a call, and gives it back.
func TestOnceIsNotForOtherPools(t *testing.T) {
	t.Parallel()
	r := start(t, func(s *setup) {
		s.Lazy = true
		s.starter.Methods = append(s.starter.Methods, pooltest.Plain("alone").With("process", "own"))
	})
	if r.pool.Apart([]byte("alone")) {
		t.Error("known before a worker said so")
	}
	c := r.run("alone", nil)
	<-c.ended
	if c.err != pool.ErrOwnProcess {
		t.Errorf("got %v", c.err)
	}
	if !r.pool.Apart([]byte("alone")) || r.pool.Apart([]byte("run")) {
		t.Error("what the worker said is not known")
	}
	if got := r.names(); !slices.Equal(got, []string{"worker_1"}) {
		t.Errorf("workers %v", got)
	}
}

// meter is a call that hears what it uses, and is stopped by more than so many bytes of that.
type meter struct {
	*call
	most int
	told chan []byte
}

func (m *meter) Used(usage []byte) *wire.Error {
	m.told <- slices.Clone(usage)
	if len(usage) > m.most {
		return wire.Errorf(wire.CodeBudgetExceeded, "too much")
	}
	return nil
}

func TestUsageIsToldAndStops(t *testing.T) {
	t.Parallel()
	r := ready(t, once(1)...)
	m := &meter{most: 20, told: make(chan []byte, 2)}
	c := r.run("alone", nil, func(c *call) {
		m.call = c
		c.Handler = m
	})
	j := r.next()
	j.w.Send(wire.KindNotification, "call.usage", nil, map[string]any{"call": j.m.ID + 100, "usage": map[string]any{"tokens": 1}}) // of no call
	for _, usage := range []map[string]any{{"tokens": 1}, {"a long name": 1, "another one": 2}} {
		j.w.Send(wire.KindNotification, "call.usage", nil, map[string]any{"call": j.m.ID, "usage": usage})
		var got map[string]any
		if err := wire.Unmarshal(<-m.told, &got); err != nil || len(got) != len(usage) {
			t.Errorf("told %v (%v)", got, err)
		}
	}
	c.fails(wire.CodeBudgetExceeded)
	if c := r.run("alone", nil); true {
		j := r.next()
		j.w.Send(wire.KindNotification, "call.usage", nil, map[string]any{"usage": 1}) // breaks the protocol
		c.fails(wire.CodeWorkerLost)
	}
}
