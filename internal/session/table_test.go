package session_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

func TestAutoCreateIsOffByDefault(t *testing.T) {
	b := start(t)
	b.ask("a", "do", nil).refused(wire.CodeSessionNotFound)
	if err := b.await(b.updating("a", nil)); code(err) != wire.CodeSessionNotFound {
		t.Errorf("an update: %v", err)
	}
	if b.table.Len() != 0 {
		t.Error("a session has come to be")
	}
}

func autoCreate(_ *pool.Settings, c *session.Config) { c.AutoCreate = true }

func TestAutoCreate(t *testing.T) {
	b := start(t, autoCreate, func(_ *pool.Settings, c *session.Config) { c.Max = 2 })
	if s := b.put("a", doc{"x": 1}); !s.Start || len(s.State) != 0 {
		t.Errorf("the first call saw %+v", s)
	}
	same(t, "the next one", b.read("a").State, doc{"x": 1})
	if kept, _ := b.shelf.counts(); kept != 1 {
		t.Errorf("the store keeps %d sessions", kept)
	}
	// A call makes a session; changing and looking do not.
	if err := b.await(b.updating("b", doc{"x": 1})); code(err) != wire.CodeSessionNotFound {
		t.Errorf("an update: %v", err)
	}
	if b.there("b") {
		t.Error("to look at a session made it")
	}
	b.put("b", nil)
	b.ask("c", "do", nil).refused(wire.CodeSessionLimit)
	b.end("a")
	if s := b.put("a", nil); len(s.State) != 0 {
		t.Errorf("made again, it saw %v", s.State)
	}
}

// Of several first calls one makes the session, and all run in it.
func TestAutoCreateRaces(t *testing.T) {
	b := start(t, autoCreate, func(_ *pool.Settings, c *session.Config) { c.Max = 1000 })
	for round := range 20 {
		id, calls := fmt.Sprint("s", round), make([]*asked, 8)
		var tasks sync.WaitGroup
		for i := range calls {
			tasks.Go(func() { calls[i] = b.ask(id, "do", changing(doc{"set": doc{fmt.Sprint("k", i): 1}})) })
		}
		tasks.Wait()
		starts := 0
		for _, a := range calls {
			if a.ok().Start {
				starts++
			}
		}
		if _, state := b.get(id); len(state) != len(calls) || starts != 1 {
			t.Fatalf("%d keys, %d first calls", len(state), starts)
		}
	}
	if kept, _ := b.shelf.counts(); kept != 20 || b.table.Len() != 20 {
		t.Errorf("%d sessions stored, %d in the table", kept, b.table.Len())
	}
}

func TestAutoCreateThatFails(t *testing.T) {
	b := start(t, autoCreate)
	b.shelf.slowly("create", true)
	first, second := b.ask("a", "do", nil), b.ask("a", "do", nil)
	b.storing()(errDisk)
	first.refused(wire.CodeStorageUnavailable)
	second.refused(wire.CodeStorageUnavailable)
	b.shelf.slowly("create", false)
	b.put("a", nil)
	if err := b.pool.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.ask("b", "do", nil).refused(wire.CodeDraining)
	if b.there("b") {
		t.Error("a session was made during the drain")
	}
}

func TestTurns(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	var calls []*asked
	for i := range 5 {
		calls = append(calls, b.ask("a", "do", doc{"hold": true, "frames": []any{doc{"set": doc{fmt.Sprint("k", i): 1}}}}))
	}
	for i, a := range calls {
		h := b.arrival()
		if len(b.arrived) > 0 || !a.pending() {
			t.Fatalf("call %d was not alone", i)
		}
		close(h.goOn)
		if n := len(a.ok().State); n != i {
			t.Errorf("call %d saw %d keys", i, n)
		}
	}
}

// An update takes its turn: after the calls before it, ahead of those behind.
func TestUpdateTakesItsTurn(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 0})
	before := b.ask("a", "do", doc{"hold": true, "frames": []any{doc{"set": doc{"x": 1, "y": 1}}}})
	h := b.arrival()
	updated := b.updating("a", doc{"x": 2})
	behind := b.ask("a", "do", nil)
	if info, state := b.get("a"); state["x"] != int64(0) || info.Waiting != 2 || info.Calls != 3 {
		t.Errorf("%v, %+v", state, info)
	}
	close(h.goOn)
	before.ok()
	if err := b.await(updated); err != nil {
		t.Fatal(err)
	}
	same(t, "the call behind saw", behind.ok().State, doc{"x": 2, "y": 1})
}

func TestUpdates(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1, "y": 1})
	b.update("a", doc{"x": 2, "z": 1}, "y", "y", "none")
	_, state := b.get("a")
	same(t, "state", state, doc{"x": 2, "z": 1})
	b.update("a", doc{"x": 3, "z": 2}, "x") // what is deleted goes after what is set
	info, state := b.get("a")
	same(t, "state", state, doc{"z": 2})
	if info.Bytes != 2 {
		t.Errorf("%d bytes", info.Bytes)
	}
	_, commits := b.shelf.counts()
	b.update("a", doc{"z": 2}, "none")
	if _, again := b.shelf.counts(); again != commits {
		t.Error("an update that changes nothing was committed")
	}
	refused := map[string]<-chan error{
		"a reserved key":            b.updating("a", doc{"dspex.programs": 1}),
		"a reserved key to delete":  b.updating("a", nil, "dspex.programs"),
		"an empty key":              b.updating("a", doc{"": 1}),
		"a key of 257 bytes":        b.updating("a", doc{strings.Repeat("k", 257): 1}),
		"a long key to delete":      b.updating("a", nil, strings.Repeat("k", 257)),
		"an empty key to delete":    b.updating("a", nil, ""),
		"a reserved key among some": b.updating("a", doc{"ok": 1, "dspex.": 1}),
	}
	for name, done := range refused {
		if err := b.await(done); code(err) != wire.CodeInvalidParams {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.update("a", doc{strings.Repeat("k", 256): 1, "dspex": 1}) // the longest, and one that is not reserved
	if err := b.await(b.updating("b", nil)); code(err) != wire.CodeSessionNotFound {
		t.Errorf("a session that is not there: %v", err)
	}
}

// A worker's background task knows its session by number: it never changes a later one of the same id.
func TestUpdateByNumber(t *testing.T) {
	b := start(t, autoCreate)
	b.create("a", nil)
	update := func(number uint64, set doc) error {
		return b.await(b.outcome(func(batch *wire.Batch, done session.Done) {
			b.table.UpdateNumber(batch, number, session.Update{Set: b.encode(set)}, func(b *wire.Batch, _ uint64, err error) { done(b, err) })
		}))
	}
	if err := update(1, doc{"x": 1}); err != nil {
		t.Fatal(err)
	}
	same(t, "the next call saw", b.read("a").State, doc{"x": 1})
	if err := update(1, doc{"dspex.programs": 1}); code(err) != wire.CodeInvalidParams {
		t.Errorf("a reserved key: %v", err)
	}
	b.end("a")
	b.create("a", nil)
	if err := update(1, doc{"x": 2}); code(err) != wire.CodeSessionNotFound {
		t.Errorf("a session that has ended: %v", err)
	}
	same(t, "the new session", b.read("a").State, doc{})
}

func TestStatesOfClients(t *testing.T) {
	b := start(t)
	bad := map[string][]byte{
		"text that is not UTF-8":       {0x81, 0xa1, 'k', 0xa1, 0xff},
		"a key that is not UTF-8":      {0x81, 0xa1, 0xff, 0x01},
		"a key twice":                  {0x82, 0xa1, 'k', 0x01, 0xa1, 'k', 0x02},
		"a key twice, further in":      {0x81, 0xa1, 'k', 0x82, 0xa1, 'x', 0x01, 0xa1, 'x', 0x02},
		"a key that is no text":        {0x81, 0x01, 0x01},
		"a key that is bytes":          {0x81, 0xc4, 0x01, 'k', 0x01},
		"a key that is no text within": {0x81, 0xa1, 'k', 0x81, 0x01, 0x01},
	}
	for name, raw := range bad {
		if err := b.await(b.creating("a", session.Options{State: raw})); code(err) != wire.CodeInvalidFrame {
			t.Errorf("create with %s: %v", name, err)
		}
	}
	b.create("a", nil)
	for name, raw := range bad {
		done := b.outcome(func(batch *wire.Batch, done session.Done) {
			b.table.Update(batch, key("a"), session.Update{Set: raw}, func(b *wire.Batch, _ uint64, err error) { done(b, err) })
		})
		if err := b.await(done); code(err) != wire.CodeInvalidFrame {
			t.Errorf("update with %s: %v", name, err)
		}
	}
	for _, k := range []string{"", "dspex.x", strings.Repeat("k", 257)} {
		if err := b.await(b.creating("b", session.Options{State: b.encode(doc{k: 1})})); code(err) != wire.CodeInvalidParams {
			t.Errorf("create with the key %.10q: %v", k, err)
		}
	}
	if b.table.Len() != 1 {
		t.Errorf("%d sessions", b.table.Len())
	}
	// What a worker sends is held to the same.
	a := b.ask("a", "do", doc{"hold": true})
	h := b.arrival()
	if _, err := h.worker.Conn.Write(append([]byte{0, 0, 0, 13, 0x93, 0x06, byte(h.id), 0x81, 0xa3, 's', 'e', 't', 0x81, 0xa1, 'k'}, 0xa1, 0xff)); err != nil {
		t.Fatal(err)
	}
	a.refused(wire.CodeWorkerLost)
	same(t, "state", b.read("a").State, doc{})
}

func TestOwners(t *testing.T) {
	b := start(t)
	b.create("a", doc{"mine": 1})
	theirs := session.Key{Owner: "token:00", ID: "a"}
	if _, _, err := b.table.Get(theirs); code(err) != wire.CodeSessionNotFound {
		t.Errorf("got %v", err)
	}
	end := func(k session.Key) error {
		return b.await(b.outcome(func(batch *wire.Batch, done session.Done) { b.table.End(batch, k, done) }))
	}
	notMine, notThere := end(theirs), end(key("b"))
	if code(notMine) != wire.CodeSessionNotFound || strings.ReplaceAll(notThere.Error(), `"b"`, `"a"`) != notMine.Error() {
		t.Errorf("one can tell %q and %q", notMine, notThere)
	}
	err := b.await(b.outcome(func(batch *wire.Batch, done session.Done) { b.table.Create(batch, theirs, session.Options{}, done) }))
	if err != nil {
		t.Errorf("blocked by another's: %v", err)
	}
	if err := end(theirs); err != nil {
		t.Error(err)
	}
	same(t, "mine", b.read("a").State, doc{"mine": 1})
}

func TestEndSettlesCalls(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	running := b.ask("a", "do", doc{"hold": true, "frames": []any{doc{"set": doc{"x": 2}}}})
	h := b.arrival()
	waiting := b.ask("a", "do", nil)
	updated := b.updating("a", doc{"x": 3})
	b.end("a")
	running.refused(wire.CodeSessionNotFound) // the worker has not answered yet
	waiting.refused(wire.CodeSessionNotFound)
	if err := b.await(updated); code(err) != wire.CodeSessionNotFound {
		t.Errorf("an update: %v", err)
	}
	b.create("a", nil)
	close(h.goOn)
	<-running.ended
	same(t, "the new session", b.read("a").State, doc{})
	if _, commits := b.shelf.counts(); commits != 0 {
		t.Errorf("%d commits", commits)
	}
	b.until("the drop", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return strings.Contains(fmt.Sprint(b.log), "drop "+h.worker.Name+" ended=true")
	})
}
