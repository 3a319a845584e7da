package session_test

import (
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// A session whose restore kills workers is refused after two of them; its state is kept, other sessions live, and a change mends it.
func TestQuarantine(t *testing.T) {
	for _, mend := range []string{"update", "reset", "end"} {
		t.Run(mend, func(t *testing.T) {
			b := start(t)
			b.create("good", doc{"x": 1})
			b.put("good", doc{"x": 2})
			b.create("bad", doc{"deadly": 1})
			if e := b.ask("bad", "do", nil).failure(wire.CodeWorkerLost); e.Details["maybe_executed"] != false {
				t.Errorf("a call that had not begun: %+v", e)
			}
			e := b.ask("bad", "read", nil).failure(wire.CodeSessionLost)
			if e.Details["reason"] == nil {
				t.Errorf("%+v", e)
			}
			b.ask("bad", "do", nil).refused(wire.CodeSessionLost)
			b.once("bad", "do", "k", nil).refused(wire.CodeSessionLost)
			if n := b.died.Load(); n != 2 {
				t.Errorf("%d workers were killed", n)
			}
			b.until("workers", func() bool { s := b.pool.Snapshot(); return s.Ready() == 2 })
			same(t, "the other session", b.read("good").State, doc{"x": 2})
			info, state := b.get("bad")
			same(t, "the state", state, doc{"deadly": 1})
			if info.Failed == nil {
				t.Error("nobody is told that it is quarantined")
			}
			if p, err := b.table.Export(key("bad"), "", 1000); err != nil || len(p.State) == 0 {
				t.Errorf("it cannot be exported: %v", err)
			}
			switch mend {
			case "update":
				b.update("bad", doc{"fine": 1}, "deadly")
			case "reset":
				reset := b.outcome(func(batch *wire.Batch, done session.Done) { b.table.Reset(batch, key("bad"), time.Time{}, done) })
				if err := b.await(reset); err != nil {
					t.Fatal(err)
				}
			case "end":
				b.end("bad")
				b.create("bad", nil)
			}
			b.put("bad", doc{"y": 1})
		})
	}
}

// Sessions whose restores were under way together when a worker died are restored one at a time, so that the one that kills is found, and
// no other is blamed.
func TestOnlyTheGuiltySessionIsQuarantined(t *testing.T) {
	b := start(t)
	names := []string{"a", "b", "c", "d", "e", "f"}
	for _, id := range names {
		b.create(id, doc{"x": 1})
	}
	b.create("bad", doc{"deadly": 1})
	b.slow = map[string]bool{"worker_1": true, "worker_2": true} // all restores there are under way until one dies
	var calls []*asked
	for _, id := range append(names, "bad") {
		calls = append(calls, b.ask(id, "safe", nil))
	}
	for i, c := range calls {
		r := c.result()
		if i == len(calls)-1 && (r.Err == nil || r.Err.Code != wire.CodeSessionLost && r.Err.Code != wire.CodeWorkerLost) {
			t.Errorf("the deadly session: %v", r.Err)
		}
	}
	for range 3 {
		if r := b.ask("bad", "safe", nil).result(); r.Err == nil {
			t.Fatal("the deadly session lives")
		}
	}
	b.ask("bad", "safe", nil).refused(wire.CodeSessionLost)
	for _, id := range names {
		same(t, id, b.read(id).State, doc{"x": 1})
		if info, _ := b.get(id); info.Failed != nil {
			t.Errorf("%s is quarantined: %v", id, info.Failed)
		}
	}
}

// A worker that the pool itself ends blames nobody.
func TestDeathsThatTheSidecarCausedDoNotCount(t *testing.T) {
	b := start(t, func(s *pool.Settings, _ *session.Config) { s.MemoryLimit, s.SampleEvery = 1000, time.Millisecond })
	b.create("a", doc{"stuck": 1})
	for range 4 {
		c := b.ask("a", "read", doc{"hold": true})
		b.greedy.Store(<-b.stuck, true)
		<-b.arrived
		c.refused(wire.CodeWorkerLost)
	}
	if info, _ := b.get("a"); info.Failed != nil {
		t.Errorf("the session is blamed: %v", info.Failed)
	}
}
