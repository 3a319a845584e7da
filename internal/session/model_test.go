package session_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/dspex/dspex-sidecar/wire"
)

// truth is what a session has to hold: a plain map.
type truth struct {
	state   map[string]any
	version uint64 // of its last commit, as it was last seen
}

// model is a table of sessions beside what each has to hold.
type model struct {
	*rig
	sessions map[string]*truth
}

var ids = []string{"a", "b", "c"} //nolint:gochecknoglobals // a constant

// differs says how a state that was seen is not the one that has to be.
func differs(got, want map[string]any) string {
	if fmt.Sprint(got) == fmt.Sprint(want) { // maps print sorted; integers come back as another type
		return ""
	}
	return fmt.Sprintf("saw %v, has to be %v", got, want)
}

// change draws the frames of a change and applies them to state.
func change(t *rapid.T, state map[string]any) []any {
	key := rapid.SampledFrom([]string{"k", "l", "m", "n", "dspex.programs"})
	frames := make([]any, rapid.IntRange(0, 3).Draw(t, "frames"))
	for i := range frames {
		frame := doc{}
		if rapid.Bool().Draw(t, "sets") {
			set := rapid.MapOfN(key, rapid.Int64Range(0, 9), 0, 3).Draw(t, "set")
			frame["set"] = set
			for k, v := range set {
				state[k] = v
			}
		}
		if rapid.Bool().Draw(t, "deletes") {
			deleted := rapid.SliceOfN(key, 0, 2).Draw(t, "delete")
			frame["delete"] = deleted
			for _, k := range deleted {
				delete(state, k)
			}
		}
		frames[i] = frame
	}
	return frames
}

// call makes one call, with random changes, that ends in one of the ways a call can.
func (m *model) call(t *rapid.T) {
	id := rapid.SampledFrom(ids).Draw(t, "session")
	s := m.sessions[id]
	if s == nil {
		m.ask(id, "do", nil).refused(wire.CodeSessionNotFound)
		return
	}
	after := maps.Clone(s.state)
	params := doc{"frames": change(t, after)}
	switch how := rapid.SampledFrom([]string{"", "", "", "fail", "die", "full", "cancel", "cross"}).Draw(t, "how"); how {
	case "":
		saw := m.ask(id, "do", params).ok()
		m.check(t, id, s, saw)
		s.state = after
	case "fail":
		params["fail"] = true
		m.ask(id, "do", params).refused(wire.CodeProgramError)
	case "die":
		params["die"] = true
		m.ask(id, "do", params).refused(wire.CodeWorkerLost)
	case "full": // the store's disk
		m.shelf.failNext("commit", errDisk)
		a := m.ask(id, "do", params)
		if len(params["frames"].([]any)) > 0 {
			a.refused(wire.CodeStorageUnavailable)
		} else {
			a.ok()
		}
		m.shelf.failNext("commit", nil)
	default: // the worker stops, or its answer and the cancel cross
		params["hold"], params["fail"] = true, how == "cancel"
		a := m.ask(id, "do", params)
		h := m.arrival()
		var batch wire.Batch
		m.pool.Cancel(&batch, &a.Call, wire.Errorf(wire.CodeCancelled, "enough"))
		batch.Flush()
		close(h.goOn)
		a.refused(wire.CodeCancelled)
		<-a.ended
	}
}

// check holds what a call saw against what has to be.
func (m *model) check(t *rapid.T, id string, s *truth, saw seen) {
	if d := differs(saw.State, s.state); d != "" {
		t.Fatalf("session %q: a call %s", id, d)
	}
	if saw.Version < s.version {
		t.Fatalf("session %q went back from version %d to %d", id, s.version, saw.Version)
	}
	s.version = saw.Version
}

func (m *model) look(t *rapid.T) {
	id := rapid.SampledFrom(ids).Draw(t, "session")
	if s := m.sessions[id]; s != nil {
		m.check(t, id, s, m.read(id))
	}
}

func (m *model) updateOne(t *rapid.T) {
	id := rapid.SampledFrom(ids).Draw(t, "session")
	key := rapid.SampledFrom([]string{"k", "l", "m", "n"})
	set := rapid.MapOfN(key, rapid.Int64Range(0, 9), 0, 3).Draw(t, "set")
	deleted := rapid.SliceOfN(key, 0, 2).Draw(t, "delete")
	params := doc{}
	for k, v := range set {
		params[k] = v
	}
	fails := rapid.IntRange(0, 4).Draw(t, "fails") == 0
	if fails {
		m.shelf.failNext("commit", errDisk)
	}
	err := m.await(m.updating(id, params, deleted...))
	m.shelf.failNext("commit", nil)
	s := m.sessions[id]
	switch {
	case s == nil:
		if code(err) != wire.CodeSessionNotFound {
			t.Fatalf("an update of %q, which is not there: %v", id, err)
		}
	case err == nil:
		for k, v := range set {
			s.state[k] = v
		}
		for _, k := range deleted {
			delete(s.state, k)
		}
	case !fails || code(err) != wire.CodeStorageUnavailable:
		t.Fatalf("an update of %q: %v", id, err)
	}
}

func (m *model) beginOrEnd(t *rapid.T) {
	id := rapid.SampledFrom(ids).Draw(t, "session")
	if m.sessions[id] != nil {
		m.end(id)
		delete(m.sessions, id)
		return
	}
	state := doc{}
	for k, v := range rapid.MapOfN(rapid.SampledFrom([]string{"k", "l", "o"}), rapid.Int64Range(0, 9), 0, 2).Draw(t, "state") {
		state[k] = v
	}
	m.create(id, state)
	m.sessions[id] = &truth{state: state}
}

func (m *model) killOne(t *rapid.T) {
	id := rapid.SampledFrom(ids).Draw(t, "session")
	if m.sessions[id] == nil {
		return
	}
	m.kill(m.read(id).Worker)
}

// invariants hold after each step: what is shown of each session is what has to be, and the store has the same.
func (m *model) invariants(t *rapid.T) {
	for _, id := range ids {
		s := m.sessions[id]
		if m.there(id) != (s != nil) {
			t.Fatalf("session %q is there: %v", id, s == nil)
		}
		if s == nil {
			continue
		}
		info, shown := m.get(id)
		want, bytes := maps.Clone(s.state), 0
		for k := range s.state {
			bytes += len(k) + 1
		}
		delete(want, "dspex.programs")
		if d := differs(shown, want); d != "" || info.Bytes != bytes {
			t.Fatalf("session %q: %s; %d bytes, has to be %d", id, d, info.Bytes, bytes)
		}
	}
	if kept, _ := m.shelf.counts(); kept != len(m.sessions) || m.table.Len() != kept {
		t.Fatalf("%d sessions, stored %d", len(m.sessions), kept)
	}
}

// Whatever is done to sessions, each holds what was committed to it and nothing else. That versions are not used again is
// checked by the store and by the workers.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{rig: start(drawn{t, rt}), sessions: map[string]*truth{}}
		rt.Repeat(map[string]func(*rapid.T){
			"call": m.call, "call again": m.call, "look": m.look, "update": m.updateOne, "begin or end": m.beginOrEnd, "kill": m.killOne, "": m.invariants,
		})
	})
}

// drawn is the test of one drawn run: what fails it makes rapid look for a shorter one.
type drawn struct {
	testing.TB
	rt *rapid.T
}

func (d drawn) Helper()                   { d.rt.Helper() }
func (d drawn) Cleanup(f func())          { d.rt.Cleanup(f) }
func (d drawn) Error(args ...any)         { d.rt.Error(args...) }
func (d drawn) Errorf(f string, a ...any) { d.rt.Errorf(f, a...) }
func (d drawn) Fatal(args ...any)         { d.rt.Fatal(args...) }
func (d drawn) Fatalf(f string, a ...any) { d.rt.Fatalf(f, a...) }

// Many sessions at once, under a store that takes its time, while workers are killed.
func TestManySessionsAtOnce(t *testing.T) {
	b := start(t)
	b.shelf.slowly("commit", true)
	var tasks, helpers sync.WaitGroup
	stop := make(chan struct{})
	helpers.Go(func() {
		for {
			select {
			case store := <-b.shelf.waiting:
				store(nil)
			case <-stop:
				return
			}
		}
	})
	for n := range 6 {
		id := fmt.Sprint("s", n)
		b.create(id, nil)
		tasks.Go(func() {
			state, random := doc{}, rand.New(rand.NewPCG(1, uint64(n)))
			for i := range 100 {
				k := fmt.Sprint("k", random.IntN(5))
				params := changing(doc{"set": doc{k: i}})
				params["die"] = random.IntN(150) == 0
				r := b.ask(id, "do", params).result()
				switch {
				case r.Err == nil:
					var saw seen
					if err := wire.Unmarshal(r.Payload, &saw); err != nil {
						t.Error(err)
					}
					if d := differs(saw.State, state); d != "" {
						t.Errorf("session %s, call %d: %s", id, i, d)
						return
					}
					state[k] = i
				case r.Err.Code != wire.CodeWorkerLost:
					t.Errorf("session %s, call %d: %v", id, i, r.Err)
					return
				}
			}
			if _, shown := b.get(id); differs(shown, state) != "" {
				t.Errorf("session %s: %s", id, differs(shown, state))
			}
		})
	}
	tasks.Wait()
	close(stop)
	helpers.Wait()
}
