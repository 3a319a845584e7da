package session_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

func TestSessionsOutliveTheSidecar(t *testing.T) {
	b := start(t)
	if err := b.await(b.creating("a", session.Options{
		State: b.encode(doc{"x": 1}), TTL: 2 * time.Hour, MaxAge: 3 * time.Hour, Labels: map[string]string{"team": "one"},
	})); err != nil {
		t.Fatal(err)
	}
	b.ask("a", "do", changing(doc{"set": doc{"y": 2}, "secrets": doc{"key": "hidden"}})).ok()
	b.create("empty", nil)
	b.read("empty") // its first call is answered, and changes nothing
	before, _ := b.get("a")
	b.create("gone", nil)
	b.end("gone")
	b.again()
	after, state := b.get("a")
	same(t, "state", state, doc{"x": 1, "y": 2})
	if after.Version != before.Version || after.TTL != before.TTL || after.MaxAge != before.MaxAge || after.Labels["team"] != "one" {
		t.Errorf("from %+v to %+v", before, after)
	}
	s := b.read("a")
	same(t, "the next call saw", s.State, doc{"x": 1, "y": 2})
	if s.Start || len(s.Lost) != 1 || s.Lost[0] != "key" || len(after.Lost) != 1 {
		t.Errorf("%+v, lost %v", s, after.Lost)
	}
	if b.read("empty").Start {
		t.Error("a session begins twice")
	}
	if _, _, err := b.table.Get(key("gone")); code(err) != wire.CodeSessionNotFound {
		t.Errorf("a session that was ended: %v", err)
	}
	b.ask("a", "do", changing(doc{"secrets": doc{"key": "again"}})).ok()
	if info, _ := b.get("a"); len(info.Lost) != 0 {
		t.Errorf("a secret that was given again is still lost: %v", info.Lost)
	}
	b.create("new", doc{"z": 1}) // its numbers are new
	b.put("new", doc{"z": 2})
}

func TestTimeLimitsGoOn(t *testing.T) {
	idle(t, func(b *rig, _ noWorkers) {
		if err := b.await(b.creating("a", session.Options{TTL: time.Hour, MaxAge: 90 * time.Minute})); err != nil {
			t.Fatal(err)
		}
		after(50 * time.Minute)
		if b.shelf.left("a") != (store.Left{Idle: 10 * time.Minute, Age: 40 * time.Minute}) {
			t.Errorf("%+v is left", b.shelf.left("a"))
		}
		b.update("a", doc{"x": 1}) // used
		after(30 * time.Minute)
		if !b.there("a") {
			t.Error("expired too early")
		}
		b.update("a", doc{"x": 2})
		after(10*time.Minute - time.Nanosecond)
		if !b.there("a") {
			t.Error("expired too early")
		}
		after(time.Nanosecond)
		if b.there("a") {
			t.Error("used, but too old: it has not expired")
		}
	})
}

func TestResumedTimeLimits(t *testing.T) {
	b := start(t)
	b.shelf.records[7] = &store.Record{
		Number: 7, Owner: me, ID: "a", TTL: time.Hour, MaxAge: 2 * time.Hour, Left: store.Left{Idle: time.Minute, Age: 30 * time.Minute},
		State: map[string][]byte{},
	}
	b.again()
	info, _ := b.get("a")
	if left := info.TTL - info.Idle; left > time.Minute || left < 50*time.Second {
		t.Errorf("idle for %s of %s", info.Idle, info.TTL)
	}
	if left := info.MaxAge - info.Age; left > 30*time.Minute || left < 29*time.Minute {
		t.Errorf("%s old, of %s", info.Age, info.MaxAge)
	}
}

func TestDamagedSession(t *testing.T) {
	b := start(t)
	b.create("good", doc{"x": 1})
	b.shelf.damaged = []store.Damage{{Number: 99, Owner: me, ID: "bad", Reason: "a flipped bit"}, {Reason: "it is no session's"}}
	b.again()
	e := b.ask("bad", "read", nil).failure(wire.CodeSessionLost)
	if e.Details["reason"] != "a flipped bit" || b.table.Damages() != 1 {
		t.Errorf("%+v, %d damaged", e, b.table.Damages())
	}
	b.once("bad", "read", "k", nil).refused(wire.CodeSessionLost)
	if err := b.await(b.updating("bad", doc{"x": 1})); code(err) != wire.CodeSessionLost {
		t.Error(err)
	}
	if err := b.await(b.creating("bad", session.Options{})); code(err) != wire.CodeSessionExists {
		t.Error(err)
	}
	list, _ := b.table.List(session.Query{Owner: me, Limit: 10})
	if len(list) != 2 || list[0].Failed == nil || list[1].Failed != nil {
		t.Errorf("%+v", list)
	}
	if _, err := b.table.Export(key("bad"), "", 1000); code(err) != wire.CodeSessionLost {
		t.Errorf("a damaged session is exported: %v", err)
	}
	b.read("good")
	b.end("bad")
	if n := b.table.Damages(); n != 0 {
		t.Errorf("%d damaged sessions after the end of the only one", n)
	}
	b.create("bad", nil)
	b.read("bad")
}

// What nobody can name, nobody can end: it is deleted, and its number is not given again.
func TestDamageWithoutAName(t *testing.T) {
	b := start(t, budgets(session.Budgets{OwnerDay: store.Amounts{Calls: 100}}))
	b.shelf.damaged = []store.Damage{{Number: 50, Owner: me, Reason: "a ledger"}, {Number: 60, Reason: "a session"}}
	b.again()
	if n := b.table.Damages(); n != 0 || b.table.Len() != 0 {
		t.Errorf("%d damages, %d sessions", n, b.table.Len())
	}
	if d := b.shelf.damaged; len(d) != 0 {
		t.Errorf("the store still has %+v", d)
	}
	b.create("a", nil)
	b.read("a") // which makes a ledger
	if got := b.shelf.numbers(); !slices.Equal(got, []uint64{61, 62}) {
		t.Errorf("the numbers given are %v", got)
	}
	b.again()
	b.read("a")
}

// A session whose deletion failed is not there beside the one that came after it.
func TestTwoOfOneKey(t *testing.T) {
	b := start(t)
	for n := range uint64(4) {
		b.shelf.records[n+1] = &store.Record{Number: n + 1, Version: n + 1, Owner: me, ID: "a", State: map[string][]byte{"n": {byte(n + 1)}}}
		b.shelf.records[n+11] = &store.Record{Number: n + 11, Owner: me, ID: "b", State: map[string][]byte{}}
	}
	b.shelf.damaged = []store.Damage{
		{Number: 5, Owner: me, ID: "b"}, {Number: 21, Owner: me, ID: "c"}, {Number: 22, Owner: me, ID: "c"}, {Number: 15, Owner: me, ID: "b"},
	}
	b.again()
	same(t, "the newest", b.read("a").State, doc{"n": 4})
	b.ask("b", "read", nil).refused(wire.CodeSessionLost)
	b.ask("c", "read", nil).refused(wire.CodeSessionLost)
	if got := b.shelf.numbers(); !slices.Equal(got, []uint64{4}) || len(b.shelf.damaged) != 2 || b.table.Damages() != 2 || b.table.Len() != 3 {
		t.Errorf("the store keeps %v, and as damaged %v; %d sessions", got, b.shelf.damaged, b.table.Len())
	}
}

// After a crash a session has its whole ttl: it may have been used until then.
func TestWholeTTLAfterACrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	synctest.Test(t, func(t *testing.T) {
		b := &rig{workers: newWorkers(t), t: t}
		open := func(dir string) {
			t.Helper()
			file, err := store.OpenFile(dir, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			p, err := pool.New(pool.Config{
				Name: "default", Starter: noWorkers{}, Hello: func(string) ([]byte, error) { return nil, nil },
				Settings: pool.Settings{Size: 1, Concurrency: 1, QueueLimit: 10, Lazy: true, Pinning: pool.PinStrict, HealthInterval: time.Hour},
			})
			if err != nil {
				t.Fatal(err)
			}
			table, err := session.New(session.Config{Pool: p, Store: file, Settings: session.Settings{TTL: time.Hour, Max: 10, MaxState: maxState}})
			if err != nil {
				t.Fatal(err)
			}
			b.pool, b.table = p, table
			t.Cleanup(func() {
				p.Close(t.Context())
				if err := table.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		open(dir)
		b.create("a", nil)
		after(59 * time.Minute)
		b.update("a", doc{"x": 1}) // after the store was told that ten minutes were left
		crashed := dir + " after a crash"
		if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		open(crashed)
		after(time.Hour - time.Nanosecond)
		if !b.there("a") {
			t.Error("expired too early")
		}
		after(time.Nanosecond)
		if b.there("a") {
			t.Error("did not expire")
		}
	})
}

func TestReset(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": 1})
	b.ask("a", "do", changing(doc{"set": doc{"dspex.programs": 1}, "secrets": doc{"key": "k"}})).ok()
	held := b.ask("a", "do", doc{"hold": true})
	h := b.arrival()
	reset := b.outcome(func(batch *wire.Batch, done session.Done) { b.table.Reset(batch, key("a"), time.Time{}, done) })
	next := b.ask("a", "read", nil)
	close(h.goOn)
	held.ok()
	if err := b.await(reset); err != nil {
		t.Fatal(err)
	}
	saw := next.ok()
	if !saw.Start || len(saw.State) != 0 || saw.Secrets != 0 {
		t.Errorf("after a reset: %+v", saw)
	}
	info, state := b.get("a")
	if len(state) != 0 || info.Bytes != 0 {
		t.Errorf("%d bytes: %v", info.Bytes, state)
	}
	log := b.takeLog()
	if !slices.Contains(log, "drop "+h.worker.Name+" ended=true") {
		t.Errorf("%q", log)
	}
	b.again()
	if s := b.read("a"); s.Start || len(s.State) != 0 {
		t.Errorf("after a restart: %+v", s)
	}
}

func TestLimitOfAllSessions(t *testing.T) {
	b := start(t, func(_ *pool.Settings, c *session.Config) { c.MaxTotal = 3200 })
	large := make([]byte, 600)
	b.create("a", doc{"x": large})
	if err := b.await(b.creating("b", session.Options{State: b.encode(doc{"x": large})})); code(err) != wire.CodeSessionLimit {
		t.Errorf("got %v", err)
	}
	b.create("b", nil)
	b.ask("b", "do", changing(doc{"set": doc{"x": large}})).refused(wire.CodeSessionLimit)
	if err := b.await(b.updating("b", doc{"x": large})); code(err) != wire.CodeSessionLimit {
		t.Errorf("got %v", err)
	}
	same(t, "nothing is half written", b.read("b").State, doc{})
	b.put("a", doc{"x": 1}) // smaller
	b.put("b", doc{"x": large})
	b.end("b")
	b.put("a", doc{"x": large})
}

func TestExport(t *testing.T) {
	b := start(t)
	b.create("a", doc{"b": strings.Repeat("b", 500), "c": 1, "d": strings.Repeat("d", 500)})
	b.ask("a", "do", changing(doc{"set": doc{"dspex.programs": 1}, "secrets": doc{"key": "k"}})).ok()
	whole, pages := doc{}, 0
	for after := ""; ; pages++ {
		p, err := b.table.Export(key("a"), after, 510)
		if err != nil {
			t.Fatal(err)
		}
		var part doc
		if err := wire.Unmarshal(p.State, &part); err != nil {
			t.Fatal(err)
		}
		maps.Copy(whole, part)
		if !p.Started || len(p.Lost) != 1 || p.Lost[0] != "key" {
			t.Errorf("%+v", p)
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if pages != 2 || len(whole) != 4 {
		t.Errorf("%d pages, %d keys", pages+1, len(whole))
	}
	o := session.Options{State: b.encode(whole), Imported: true, Started: true, Lost: []string{"key"}}
	if err := b.await(b.creating("copy", o)); err != nil {
		t.Fatal(err)
	}
	s := b.read("copy")
	same(t, "the copy", s.State, whole)
	if s.Start || len(s.Lost) != 1 {
		t.Errorf("%+v", s)
	}
}

// A session that is too old takes no new call, however busy it is.
func TestOldSessionTakesNoCall(t *testing.T) {
	b := start(t)
	if err := b.await(b.creating("a", session.Options{MaxAge: 50 * time.Millisecond})); err != nil {
		t.Fatal(err)
	}
	inside := b.ask("a", "do", doc{"hold": true})
	h := b.arrival()
	b.until("its end", func() bool {
		r := b.ask("a", "read", nil)
		return !r.pending() && r.result().Err != nil
	})
	close(h.goOn)
	inside.ok()
	b.until("its end", func() bool { return b.table.Len() == 0 })
}

// A disk that fails is told of, once, and so is that it works again; clients do not learn where it is.
func TestFailingDiskIsTold(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	for range 2 {
		b.shelf.failNext("commit", &fs.PathError{Op: "write", Path: "/secret/place", Err: syscall.ENOSPC})
		e := b.ask("a", "do", changing(doc{"set": doc{"x": 1}})).failure(wire.CodeStorageUnavailable)
		if strings.Contains(e.Message, "secret") || b.table.StoreFailure() != syscall.ENOSPC.Error() {
			t.Errorf("%v, %q", e, b.table.StoreFailure())
		}
	}
	b.put("a", doc{"x": 1})
	if b.table.StoreFailure() != "" {
		t.Error(b.table.StoreFailure())
	}
	b.shelf.failNext("delete", &fs.PathError{Op: "write", Path: "/secret/place", Err: syscall.ENOSPC})
	if err := b.await(b.ending("a")); code(err) != wire.CodeStorageUnavailable || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// Calls come when the last page has, and half a session does not outlive the sidecar.
func TestImportInPages(t *testing.T) {
	b := start(t)
	page := func(set doc, more bool) <-chan error {
		u := session.Update{Set: b.encode(set), Imported: true, More: more}
		return b.outcome(func(batch *wire.Batch, done session.Done) {
			b.table.Update(batch, key("a"), u, func(b *wire.Batch, _ uint64, err error) { done(b, err) })
		})
	}
	first := session.Options{State: b.encode(doc{"a": 1}), Imported: true, More: true}
	for _, cut := range []bool{true, false} {
		if err := b.await(b.creating("a", first)); err != nil {
			t.Fatal(err)
		}
		b.ask("a", "read", nil).refused(wire.CodeSessionBusy)
		if err := b.await(b.updating("a", doc{"x": 1})); code(err) != wire.CodeSessionBusy {
			t.Error(err)
		}
		if err := b.await(page(doc{"dspex.programs": 1}, true)); err != nil {
			t.Fatal(err)
		}
		b.ask("a", "read", nil).refused(wire.CodeSessionBusy)
		if cut {
			b.again()
			b.ask("a", "read", nil).refused(wire.CodeSessionNotFound)
			if kept, _ := b.shelf.counts(); kept != 0 {
				t.Errorf("%d sessions are kept", kept)
			}
		}
	}
	if err := b.await(page(doc{"c": 3}, false)); err != nil {
		t.Fatal(err)
	}
	same(t, "state", b.read("a").State, doc{"a": 1, "c": 3, "dspex.programs": 1})
	if err := b.await(page(doc{"d": 4}, false)); code(err) != wire.CodeInvalidParams {
		t.Errorf("a page after the last one: %v", err)
	}
}

// State and version are of one commit.
func TestLooksAreWhole(t *testing.T) {
	b := start(t)
	b.create("a", doc{"n": 0})
	first, _ := b.get("a")
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				b.update("a", doc{"n": i})
			}
		}
	}()
	for range 2000 {
		p, err := b.table.Export(key("a"), "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		var state map[string]uint64
		if err := wire.Unmarshal(p.State, &state); err != nil || state["n"] != p.Info.Version-first.Version {
			t.Fatalf("%v: state %v of version %d, which began at %d", err, state, p.Info.Version, first.Version)
		}
	}
	close(stop)
	<-ended
}

// What a session takes beside its state counts among all of them.
func TestHeadsAreCounted(t *testing.T) {
	b := start(t, func(_ *pool.Settings, c *session.Config) { c.MaxTotal = 20_000 })
	long := map[string]string{"label": strings.Repeat("x", 5000)}
	made := 0
	for err := error(nil); err == nil; made++ {
		if made > 10 {
			t.Fatal("labels take no room")
		}
		err = b.await(b.creating(string(rune('a'+made)), session.Options{Labels: long}))
	}
	b.end("a")
	if err := b.await(b.creating("a", session.Options{Labels: long})); err != nil {
		t.Errorf("the room was not given back: %v", err)
	}
}
