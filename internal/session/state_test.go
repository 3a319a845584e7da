package session_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

func TestLimits(t *testing.T) {
	b := start(t, func(_ *pool.Settings, c *session.Config) { c.Max = 3 })
	big := func(n int) []byte { return make([]byte, n) }
	const header = 5 // of a value of bytes
	err := b.await(b.creating("a", session.Options{State: b.encode(doc{"k": big(maxState - header)})}))
	if code(err) != wire.CodeSessionLimit {
		t.Errorf("one byte too many at creation: %v", err)
	}
	b.create("a", doc{"k": big(maxState - header - 1)})
	if info, _ := b.get("a"); info.Bytes != maxState {
		t.Errorf("%d bytes", info.Bytes)
	}
	refused := map[string]doc{
		"a call":      changing(doc{"set": doc{"l": 1}}),
		"secrets":     changing(doc{"secrets": doc{"dspex.secret.l": 1}}),
		"both":        changing(doc{"set": doc{"l": 1, "m": 1}, "delete": []string{"none"}}),
		"in a longer": changing(doc{"set": doc{"k": big(maxState - header)}}),
	}
	for name, params := range refused {
		e := b.ask("a", "do", params).failure(wire.CodeSessionLimit)
		if e.Details["limit"] == nil {
			t.Errorf("%s: %+v", name, e)
		}
		if s := b.read("a"); len(s.State) != 1 || s.Secrets != 0 {
			t.Errorf("after %s: %d keys", name, len(s.State))
		}
	}
	if err := b.await(b.updating("a", doc{"l": 1})); code(err) != wire.CodeSessionLimit {
		t.Errorf("an update: %v", err)
	}
	b.ask("a", "do", changing(doc{"set": doc{"l": 1}, "delete": []string{"k"}})).ok() // in exchange
	if info, _ := b.get("a"); info.Bytes != 2 {
		t.Errorf("%d bytes", info.Bytes)
	}
	b.create("b", nil)
	b.create("c", nil)
	if err := b.await(b.creating("d", session.Options{})); code(err) != wire.CodeSessionLimit {
		t.Errorf("a session too many: %v", err)
	}
	if err := b.await(b.creating("c", session.Options{})); code(err) != wire.CodeSessionExists {
		t.Errorf("one that exists: %v", err)
	}
	b.end("b")
	b.create("d", nil)
}

// What a call sends of its change is bounded while it runs, not only when it commits.
func TestChangesAreBounded(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	frame := doc{"set": doc{"k": make([]byte, maxState-100)}}
	b.ask("a", "do", changing(frame, frame, frame)).ok() // the last counts
	b.ask("a", "do", changing(frame, frame, frame, frame, frame, doc{"set": doc{"k": 1}})).refused(wire.CodeSessionLimit)
	if info, state := b.get("a"); info.Bytes < maxState-100 || len(state) != 2 {
		t.Errorf("%d bytes, %d keys", info.Bytes, len(state))
	}
	if s := b.ask("a", "read", doc{"lengths": true}).ok(); number(s.State["k"]) < maxState-100 {
		t.Errorf("the next call saw values of %v bytes", s.State)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	b.ask("a", "do", changing(doc{"set": doc{"dspex.lm": 1, "y": 1}, "secrets": doc{"dspex.secret.key": "sk-1"}})).ok()
	info, state := b.get("a")
	same(t, "shown", state, doc{"x": 1, "y": 1})
	if want := len("xy") + 2 + len("dspex.lm") + 1 + len("dspex.secret.key") + len("sk-1") + 1; info.Bytes != want {
		t.Errorf("%d bytes, want %d", info.Bytes, want)
	}
	b.kill(info.Worker)
	s := b.read("a")
	if s.Secrets != 1 || s.State["dspex.secret.key"] != "sk-1" || len(s.State) != 4 {
		t.Errorf("another worker was restored to %v", s.State)
	}
	// What becomes a secret is no longer shown, and the other way round.
	b.ask("a", "do", changing(doc{"secrets": doc{"x": "sk-2"}})).ok()
	if _, state := b.get("a"); state["x"] != nil {
		t.Errorf("a secret is shown: %v", state)
	}
	b.ask("a", "do", changing(doc{"set": doc{"x": 3}}, doc{"delete": []string{"dspex.secret.key"}})).ok()
	info, state = b.get("a")
	same(t, "shown", state, doc{"x": 3, "y": 1})
	b.kill(info.Worker)
	if s := b.read("a"); s.Secrets != 0 || len(s.State) != 3 {
		t.Errorf("restored to %v", s.State)
	}
	if keys := slices.Sorted(maps.Keys(b.shelf.records)); len(keys) != 1 || len(b.shelf.records[keys[0]].Secrets) != 0 {
		t.Error("the store keeps a secret that was deleted")
	}
}
