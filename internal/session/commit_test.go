package session_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/wire"
)

var errDisk = errors.New("no space left on device")

// same compares states; numbers come back from the wire as int64.
func same(t *testing.T, what string, got, want map[string]any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestChangesCommitTogether(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1, "y": 1})
	// Several frames count as one change, in their order.
	b.ask("a", "do", changing(
		doc{"set": doc{"x": 2, "z": 1}, "delete": []string{"y", "y", "never"}},
		doc{"set": doc{"y": 3}, "delete": []string{"z"}},
		doc{"set": doc{"z": 4, "w": 5}}, doc{"delete": []string{"w"}},
	)).ok()
	want := doc{"x": 2, "y": 3, "z": 4}
	info, state := b.get("a")
	same(t, "committed", state, want)
	if info.Bytes != len("xyz")+3 {
		t.Errorf("counted %d bytes", info.Bytes)
	}
	b.takeLog()
	same(t, "at the worker", b.read("a").State, want)
	if log := b.takeLog(); len(log) > 0 {
		t.Errorf("a worker that holds the state got %q", log)
	}
}

func TestErrorsCommitNothing(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	b.ask("a", "do", doc{"frames": []any{doc{"set": doc{"x": 2}}}, "fail": true}).refused(wire.CodeProgramError)
	b.ask("a", "do", doc{"frames": []any{doc{"set": doc{"x": 2}}, doc{"set": doc{"y": 2}}}, "die": true}).refused(wire.CodeWorkerLost)
	_, state := b.get("a")
	same(t, "state", state, doc{"x": 1})
	same(t, "at the next worker", b.read("a").State, doc{"x": 1})
	if _, commits := b.shelf.counts(); commits != 0 {
		t.Errorf("%d commits", commits)
	}
}

// What a safe call said before its worker died is gone when it runs again.
func TestRunAgainCountsOnce(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	a := b.ask("a", "safe", doc{"hold": true, "frames": []any{doc{"set": doc{"x": 2}}}})
	first := b.arrival()
	first.worker.Send(wire.KindChange, first.id, doc{"set": doc{"lost": 1}})
	first.worker.Die()
	second := b.arrival()
	close(second.goOn)
	same(t, "the second run saw", a.ok().State, doc{"x": 1})
	_, state := b.get("a")
	same(t, "state", state, doc{"x": 2})
}

// A call that was cancelled commits nothing, whatever its worker says after that; the session's next call comes after it.
func TestLateAnswerCommitsNothing(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	a := b.ask("a", "do", doc{"hold": true, "frames": []any{doc{"set": doc{"x": 2}}}})
	h := b.arrival()
	next := b.ask("a", "read", nil)
	var batch wire.Batch
	b.pool.Cancel(&batch, &a.Call, wire.Errorf(wire.CodeCancelled, "enough"))
	batch.Flush()
	a.refused(wire.CodeCancelled)
	if !next.pending() {
		t.Error("the next call did not wait for the worker")
	}
	close(h.goOn) // it answers as if nothing had been
	same(t, "the next call saw", next.ok().State, doc{"x": 1})
	if log := b.takeLog(); !slices.Contains(log, "stale "+h.worker.Name) {
		t.Errorf("the worker held a version that was not committed, and nobody noticed: %q", log)
	}
	_, state := b.get("a")
	same(t, "state", state, doc{"x": 1})
}

func TestReadOnlyCallsNeverWrite(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	b.put("a", doc{"x": 1})
	if s := b.read("a"); s.Next != 0 {
		t.Errorf("a read-only call was given the version %d", s.Next)
	}
	// One that does is a worker that breaks the protocol.
	b.ask("a", "read", changing(doc{"set": doc{"x": 2}})).refused(wire.CodeWorkerLost)
	_, state := b.get("a")
	same(t, "state", state, doc{"x": 1})
}

func TestReadOnlyCallsRunBesideEachOther(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	b.put("a", doc{"x": 1})
	one, two := b.ask("a", "read", doc{"hold": true}), b.ask("a", "read", doc{"hold": true})
	h1, h2 := b.arrival(), b.arrival()
	write := b.ask("a", "do", doc{"hold": true, "frames": []any{doc{"set": doc{"x": 2}}}})
	three := b.ask("a", "read", nil)
	close(h2.goOn)
	two.ok()
	if len(b.arrived) != 0 {
		t.Error("a write did not wait for those that read")
	}
	close(h1.goOn)
	one.ok()
	h := b.arrival()
	if !three.pending() {
		t.Error("a call was not in order")
	}
	close(h.goOn)
	write.ok()
	same(t, "after the write", three.ok().State, doc{"x": 2})
}

// The first call of a session is the one that on_session_start runs in, until one has committed.
func TestStartUntilTheFirstCommit(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	for _, how := range []string{"fail", "die"} {
		b.ask("a", "do", doc{how: true, "frames": []any{doc{"set": doc{"hook": 1}}}}).result()
	}
	b.shelf.failNext("commit", errDisk)
	b.ask("a", "do", changing(doc{"set": doc{"hook": 1}})).refused(wire.CodeStorageUnavailable)
	// A read-only method may be the first, and then its hooks write.
	if s := b.ask("a", "read", changing(doc{"set": doc{"hook": 2}})).ok(); !s.Start || s.Next == 0 || len(s.State) != 0 {
		t.Errorf("the first call that succeeded: %+v", s)
	}
	if s := b.read("a"); s.Start || s.State["hook"] == nil {
		t.Errorf("the call after it: %+v", s)
	}
	b.create("b", nil)
	if s := b.read("b"); !s.Start {
		t.Errorf("another session's first call: %+v", s)
	}
	if s := b.put("b", nil); s.Start {
		t.Errorf("hooks that wrote nothing ran again: %+v", s)
	}
}

func TestFailedCommit(t *testing.T) {
	for name, slow := range map[string]bool{"at once": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			b.create("a", doc{"x": 1})
			b.put("a", doc{"y": 1})
			before, _ := b.get("a")
			b.shelf.slowly("commit", slow)
			if !slow {
				b.shelf.failNext("commit", errDisk)
			}
			a := b.ask("a", "do", changing(doc{"set": doc{"x": 2, "new": 1}, "delete": []string{"y"}}))
			if slow {
				b.storing()(errDisk)
			}
			if e := a.failure(wire.CodeStorageUnavailable); !e.Retryable {
				t.Errorf("%+v", e)
			}
			b.shelf.slowly("commit", false)
			after, state := b.get("a")
			same(t, "state", state, doc{"x": 1, "y": 1})
			if after.Version != before.Version || after.Bytes != before.Bytes {
				t.Errorf("from %+v to %+v", before, after)
			}
			b.takeLog()
			s := b.read("a")
			same(t, "the next call saw", s.State, doc{"x": 1, "y": 1})
			if log, want := b.takeLog(), []string{"restore part " + s.Worker + " 1/1"}; !slices.Equal(log, want) {
				t.Errorf("the copy of an abandoned version was mended with %q, not one small restore", log)
			}
		})
	}
}

func TestDelayedCommit(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	b.shelf.slowly("commit", true)
	a := b.ask("a", "do", changing(doc{"set": doc{"x": 1}}))
	store := b.storing()
	next := b.ask("a", "read", nil)
	info, _ := b.get("a")
	for i, at := 0, ""; at != info.Worker; i++ { // others go on, also at that worker, whose frames after the answer have been read then
		b.create(fmt.Sprint("other", i), nil)
		at = b.read(fmt.Sprint("other", i)).Worker
	}
	if _, state := b.get("a"); len(state) != 0 || !a.pending() || !next.pending() {
		t.Error("a change was in force, a call answered or the turn over before the commit")
	}
	store(nil)
	a.ok()
	same(t, "the next call saw", next.ok().State, doc{"x": 1})
	<-a.ended
}

// What is at work in the store is not cut off by its deadline, and the deadline's passing disturbs nobody.
func TestDeadlineDuringACommit(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	b.create("b", nil)
	b.shelf.slowly("commit", true)
	u := session.Update{Set: b.encode(doc{"x": 1}), Deadline: time.Now().Add(20 * time.Millisecond)}
	updated := b.outcome(func(batch *wire.Batch, done session.Done) {
		b.table.Update(batch, key("a"), u, func(b *wire.Batch, _ uint64, err error) { done(b, err) })
	})
	store := b.storing()
	b.until("the deadline", func() bool { return time.Since(u.Deadline) > 10*time.Millisecond })
	b.read("b")
	store(nil)
	if err := b.await(updated); err != nil {
		t.Fatal(err)
	}
	same(t, "state", b.read("a").State, doc{"x": 1})
}

func TestEndDuringACommit(t *testing.T) {
	for name, outcome := range map[string]error{"that succeeds": nil, "that fails": errDisk} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			b.create("a", nil)
			b.shelf.slowly("commit", true)
			a := b.ask("a", "do", changing(doc{"set": doc{"x": 1}}))
			store := b.storing()
			waiting := b.ask("a", "do", nil)
			ended := b.ending("a")
			waiting.refused(wire.CodeSessionNotFound)
			if _, _, err := b.table.Get(key("a")); code(err) != wire.CodeSessionNotFound {
				t.Errorf("it is there: %v", err)
			}
			b.create("a", doc{"new": 1}) // the id is free at once
			store(outcome)
			a.refused(wire.CodeSessionNotFound)
			if err := b.await(ended); err != nil {
				t.Error(err)
			}
			same(t, "the new session's state", b.read("a").State, doc{"new": 1})
			if kept, _ := b.shelf.counts(); kept != 1 {
				t.Errorf("the store keeps %d sessions", kept)
			}
		})
	}
}

func TestDelayedAndFailedUpdates(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	b.shelf.failNext("commit", errDisk)
	if err := b.await(b.updating("a", doc{"x": 2})); code(err) != wire.CodeStorageUnavailable {
		t.Errorf("got %v", err)
	}
	same(t, "after a failed update", b.read("a").State, doc{"x": 1})
	b.shelf.slowly("commit", true)
	updated := b.updating("a", doc{"x": 3})
	store := b.storing()
	next := b.ask("a", "read", nil)
	if _, state := b.get("a"); state["x"] != int64(1) || !next.pending() {
		t.Error("an update was in force, or its turn over, before the commit")
	}
	store(nil)
	if err := b.await(updated); err != nil {
		t.Error(err)
	}
	same(t, "after it", next.ok().State, doc{"x": 3})
	updated = b.updating("a", doc{"x": 4})
	store = b.storing()
	ended := b.ending("a")
	store(nil)
	if err := b.await(updated); code(err) != wire.CodeSessionNotFound {
		t.Errorf("an update of a session that ended: %v", err)
	}
	if err := b.await(ended); err != nil {
		t.Error(err)
	}
}

func TestCreationIsStoredFirst(t *testing.T) {
	b := start(t)
	b.shelf.slowly("create", true)
	created := b.creating("a", session.Options{State: b.encode(doc{"x": 1})})
	store := b.storing()
	first := b.ask("a", "do", changing(doc{"set": doc{"y": 1}})) // waits for it
	if _, _, err := b.table.Get(key("a")); code(err) != wire.CodeSessionNotFound || !first.pending() {
		t.Errorf("a session that is not durable is shown or used: %v", err)
	}
	if infos, _ := b.table.List(session.Query{All: true, Limit: 10}); len(infos) != 0 {
		t.Errorf("or listed: %+v", infos)
	}
	store(nil)
	if err := b.await(created); err != nil {
		t.Fatal(err)
	}
	same(t, "the first call saw", first.ok().State, doc{"x": 1})

	created = b.creating("b", session.Options{})
	store = b.storing()
	first = b.ask("b", "do", nil)
	store(errDisk)
	if err := b.await(created); code(err) != wire.CodeStorageUnavailable {
		t.Errorf("got %v", err)
	}
	first.refused(wire.CodeStorageUnavailable)

	created = b.creating("c", session.Options{})
	store = b.storing()
	ended := b.ending("c")
	store(nil)
	if err := b.await(created); code(err) != wire.CodeSessionNotFound {
		t.Errorf("created and ended: %v", err)
	}
	if err := b.await(ended); err != nil {
		t.Error(err)
	}
	if kept, _ := b.shelf.counts(); kept != 1 || b.table.Len() != 1 {
		t.Errorf("the store keeps %d sessions, the table %d", kept, b.table.Len())
	}
}

func TestFailedDelete(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	b.shelf.failNext("delete", errDisk)
	if err := b.await(b.ending("a")); code(err) != wire.CodeStorageUnavailable {
		t.Errorf("got %v", err)
	}
	b.ask("a", "do", nil).refused(wire.CodeSessionNotFound)
}

// An answer waits in memory that is not its own until it has been stored.
func TestDelayedAnswersAreWhole(t *testing.T) {
	b := start(t)
	b.shelf.slowly("commit", true)
	ids := []string{"a", "b", "c", "d"}
	calls := map[string]*asked{}
	for i, id := range ids {
		b.create(id, doc{"x": i})
		calls[id] = b.ask(id, "do", changing(doc{"set": doc{"y": 1}}))
	}
	stores := make([]func(error), len(ids))
	for i := range stores {
		stores[i] = b.storing()
	}
	b.shelf.slowly("commit", false)
	for range 20 { // others' frames go where these answers were read to
		b.create("other", doc{"x": "something else"})
		b.put("other", doc{"y": "something else"})
		b.end("other")
	}
	for _, store := range stores {
		store(nil)
	}
	for i, id := range ids {
		if s := calls[id].ok(); !reflect.DeepEqual(s.State, doc{"x": int64(i)}) {
			t.Errorf("%s: %v", id, s.State)
		}
	}
}
