package session_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

func TestRestoreOnAnotherWorker(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	for i := range 5 {
		s := b.put("a", doc{fmt.Sprint("k", i): i})
		if len(s.State) != 1+i {
			t.Fatalf("call %d saw %v", i, s.State)
		}
		if info, _ := b.get("a"); info.Worker != s.Worker {
			t.Errorf("it is said to be pinned to %q, not %q", info.Worker, s.Worker)
		}
		b.kill(s.Worker)
		if info, _ := b.get("a"); info.Worker != "" {
			t.Errorf("it is said to be pinned to %q, which is dead", info.Worker)
		}
	}
	restores := 0
	for _, line := range b.takeLog() {
		if strings.HasPrefix(line, "stale") {
			t.Errorf("a worker was not restored in time: %s", line)
		}
		if strings.HasPrefix(line, "restore whole") {
			restores++
		}
	}
	if restores != 5 {
		t.Errorf("%d restores, the first of the initial state", restores)
	}
}

// A new session's state is empty: its worker needs no restore, and knows none of an earlier one of the same id.
func TestMadeAgainWithTheSameID(t *testing.T) {
	b := start(t)
	for i := range 10 {
		b.create("a", nil)
		b.takeLog()
		if s := b.put("a", doc{"old": i}); len(s.State) != 0 || !s.Start {
			t.Fatalf("a new session saw %+v", s)
		}
		if log := b.takeLog(); len(log) > 0 {
			t.Errorf("got %q", log)
		}
		b.end("a")
		b.until("the worker to forget it", func() bool {
			return slices.ContainsFunc(b.takeLog(), func(line string) bool { return strings.HasSuffix(line, "ended=true") })
		})
	}
}

// A restore in parts, of a state that is larger than a frame: each part fits, and the state is whole.
func TestRestoreInParts(t *testing.T) {
	const frame = 64 << 10
	b := start(t, func(p *pool.Settings, c *session.Config) { p.MaxFrame, c.MaxState = frame, 4<<20 })
	b.create("a", doc{"x": 1})
	want := 1
	for i := range 30 {
		k := fmt.Sprint("k", i)
		for _, change := range []doc{{"set": doc{k: strings.Repeat("x", 1+i*2000)}}, {"secrets": doc{"dspex.secret." + k: strings.Repeat("y", 1+i*100)}}} {
			b.ask("a", "do", doc{"frames": []any{change}, "lengths": true}).ok()
		}
		want += 2
	}
	for range 3 {
		s := b.ask("a", "read", doc{"lengths": true}).ok()
		if len(s.State) != want || s.Secrets != 30 || s.State["k29"] != int64(1+29*2000) {
			t.Fatalf("%d keys, %d secrets", len(s.State), s.Secrets)
		}
		b.takeLog()
		b.kill(s.Worker)
	}
	b.ask("a", "read", doc{"lengths": true}).ok()
	if parts := b.takeLog(); len(parts) < 15 || len(parts) > 40 { // about 1 MB
		t.Errorf("%d parts", len(parts))
	}
}

// A value that no frame could bring to another worker is not taken.
func TestValueTooLongToRestore(t *testing.T) {
	const frame = 64 << 10
	b := start(t, func(p *pool.Settings, _ *session.Config) { p.MaxFrame = frame })
	b.create("a", nil)
	taken := 0
	for n := frame - 2000; n < frame-30; n += 100 {
		a := b.ask("a", "do", changing(doc{"set": doc{"k": strings.Repeat("x", n)}}))
		if r := a.result(); r.Err != nil {
			if r.Err.Code != wire.CodeFrameTooLarge {
				t.Fatalf("%d bytes: %v", n, r.Err)
			}
			continue
		}
		taken = n
		info, _ := b.get("a")
		b.kill(info.Worker)
		if s := b.read("a"); len(fmt.Sprint(s.State["k"])) != n {
			t.Fatalf("%d bytes were not restored", n)
		}
	}
	if taken == 0 || taken > frame-1000 {
		t.Errorf("at most %d bytes were taken", taken)
	}
	if s := b.read("a"); len(fmt.Sprint(s.State["k"])) != taken {
		t.Errorf("after a refusal: %d bytes", len(fmt.Sprint(s.State["k"])))
	}
}

// A worker that holds an older version is sent what has changed since, and no more.
func TestRestoreOfWhatChanged(t *testing.T) {
	b := start(t)
	b.create("a", doc{"large": strings.Repeat("x", 100<<10), "x": 1, "y": 1})
	worker := b.put("a", doc{"z": 1}).Worker
	part, whole := "restore part "+worker+" 1/1", "restore whole "+worker+" 1/1"
	length := func() int { return len(b.read("a").State) }
	b.takeLog()
	steps := []struct {
		name string
		do   func()
		keys int
		want []string
	}{
		{"an update", func() { b.update("a", doc{"x": 2}) }, 4, []string{part}},
		{"one that changes nothing", func() { b.update("a", doc{"x": 2}, "none") }, 4, nil},
		{"two, with a key that goes", func() { b.update("a", doc{"v": 2}, "y"); b.update("a", doc{"v": 3}) }, 4, []string{part}},
		{"a failed call", func() { b.ask("a", "do", doc{"fail": true}).result() }, 4, nil},
		{"a commit that fails", func() {
			b.shelf.failNext("commit", errDisk)
			b.ask("a", "do", changing(doc{"set": doc{"w": 2, "x": 4}, "secrets": doc{"s": 1}, "delete": []string{"z"}})).refused(wire.CodeStorageUnavailable)
		}, 4, []string{part}},
		{"and an update on top", func() {
			b.shelf.failNext("commit", errDisk)
			b.ask("a", "do", changing(doc{"set": doc{"w": 2, "x": 4}, "delete": []string{"large"}})).refused(wire.CodeStorageUnavailable)
			b.update("a", doc{"w": 5}, "z")
		}, 4, []string{part}},
		{"more keys than are noted", func() {
			for i := range 70 {
				b.update("a", doc{fmt.Sprint("n", i): i})
			}
		}, 74, []string{whole}},
		{"and after that", func() { b.update("a", doc{"x": 3}) }, 74, []string{part}},
	}
	for _, step := range steps {
		step.do()
		if n := length(); n != step.keys {
			t.Errorf("after %s the worker held %d keys", step.name, n)
		}
		if log := b.takeLog(); !slices.Equal(log, step.want) {
			t.Errorf("after %s: %q, want %q", step.name, log, step.want)
		}
		_, state := b.get("a")
		same(t, "after "+step.name, b.read("a").State, state)
	}
}

// A base that the worker turns out not to hold costs one round: it says so, and gets the whole state.
func TestBaseThatIsNotHeld(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	a := b.ask("a", "do", doc{"hold": true, "frames": []any{doc{"set": doc{"x": 2}}}})
	h := b.arrival()
	var batch wire.Batch
	b.pool.Cancel(&batch, &a.Call, wire.Errorf(wire.CodeCancelled, "enough"))
	batch.Flush()
	close(h.goOn) // its answer and the cancel cross
	a.refused(wire.CodeCancelled)
	<-a.ended
	b.update("a", doc{"y": 1})
	b.takeLog()
	same(t, "the next call saw", b.read("a").State, doc{"x": 1, "y": 1})
	w := h.worker.Name
	if log, want := b.takeLog(), []string{"restore part " + w + " 1/1", "stale " + w, "restore whole " + w + " 1/1"}; !slices.Equal(log, want) {
		t.Errorf("got %q, want %q", log, want)
	}
}

// The worker that a session leaves forgets it; back there, it is restored.
func TestDropAtThePreviousHolder(t *testing.T) {
	b := start(t, func(p *pool.Settings, _ *session.Config) { p.Pinning, p.Concurrency = pool.PinSoft, 1 })
	b.create("a", doc{"x": 0})
	here := b.read("a").Worker
	var log []string
	for i := range 4 {
		full := b.fill(here, i)
		s := b.put("a", doc{"x": i + 1})
		if s.Worker == here {
			t.Fatalf("it did not move from %s", here)
		}
		same(t, "where it moved to", s.State, doc{"x": i})
		close(full.goOn)
		b.until("the drop", func() bool {
			log = append(log, b.takeLog()...)
			return slices.Contains(log, "drop "+here+" ended=false")
		})
		if want := "restore whole " + s.Worker + " 1/1"; !slices.Contains(log, want) {
			t.Errorf("%q, want %q", log, want)
		}
		here, log = s.Worker, nil
	}
}

// fill takes the only slot of a worker, and leaves that of the other free.
func (b *rig) fill(worker string, round int) *held {
	b.t.Helper()
	var other *held
	for i := range 2 {
		id := fmt.Sprint("filler", round, i)
		b.create(id, nil)
		b.ask(id, "do", doc{"hold": true})
		h := b.arrival()
		if h.worker.Name != worker {
			other = h
			continue
		}
		if other != nil {
			close(other.goOn)
		}
		return h
	}
	b.t.Fatalf("no call went to %s", worker)
	return nil
}

// A large state is encoded before the dispatch where that can be foreseen; what is sent is the same.
func TestLargeStates(t *testing.T) {
	b := start(t, func(_ *pool.Settings, c *session.Config) { c.MaxState = 4 << 20 })
	state := doc{}
	for i := range 300 {
		state[fmt.Sprint("k", i)] = strings.Repeat("x", 1000)
	}
	b.create("a", state)
	want := b.put("a", doc{"last": 1})
	ready := func(parts int) {
		t.Helper()
		if n := session.Prepare(b.table, key("a")); n != parts {
			t.Errorf("%d parts are ready, want %d", n, parts)
		}
	}
	for i := range 3 {
		ready(0)
		b.update("a", doc{fmt.Sprint("new", i): 1})
		ready(0) // it is small
		b.update("a", doc{"k1": strings.Repeat("y", 200_000)})
		ready(1)
		b.update("a", doc{"k1": strings.Repeat("z", 200_000+i)}) // what is ready is of no use
		if s := b.read("a"); len(s.State) != 302+i || len(fmt.Sprint(s.State["k1"])) != 200_000+i {
			t.Fatalf("%d keys", len(s.State))
		}
		b.kill(want.Worker)
		ready(1)
		want = b.read("a")
		if len(want.State) != 302+i || session.Prepared(b.table, key("a")) != 0 {
			t.Fatalf("%d keys", len(want.State))
		}
		// The call that waits behind one whose worker dies.
		dies := b.ask("a", "do", doc{"hold": true})
		h := b.arrival()
		behind := b.ask("a", "read", nil)
		h.worker.Die()
		dies.refused(wire.CodeWorkerLost)
		if want = behind.ok(); len(want.State) != 302+i {
			t.Fatalf("%d keys", len(want.State))
		}
	}
	for _, line := range b.takeLog() {
		if strings.HasPrefix(line, "stale") {
			t.Errorf("what was prepared did not fit: %s", line)
		}
	}
}
