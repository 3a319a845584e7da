package session_test

import (
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// keyed is a call with an idempotency key.
type keyed struct {
	*asked
	ticket *session.Ticket
}

// once submits a call with an idempotency key; id "" is no session.
func (b *rig) once(id, method, idempotencyKey string, params doc) keyed {
	b.t.Helper()
	a := &asked{t: b.t, settled: make(chan pool.Result, 1), ended: make(chan struct{})}
	a.Call = pool.Call{Method: []byte(method), Params: b.encode(orEmpty(params)), Handler: a}
	var batch wire.Batch
	ticket, err := b.table.SubmitOnce(&batch, key(id), me, idempotencyKey, &a.Call)
	if err != nil {
		a.settled <- pool.Result{Err: wire.FromError(err)}
		close(a.ended)
	}
	batch.Flush()
	return keyed{a, ticket}
}

func orEmpty(params doc) doc {
	if params == nil {
		return doc{}
	}
	return params
}

func (k keyed) leave(stop bool) {
	var batch wire.Batch
	k.ticket.Leave(&batch, wire.Errorf(wire.CodeCancelled, "enough"), stop)
	batch.Flush()
}

// places are a session and none: both keep answers.
var places = []string{"a", ""} //nolint:gochecknoglobals // a constant

func TestAnswerIsKept(t *testing.T) {
	for _, id := range places {
		b := start(t)
		b.create("a", nil)
		set := changing()
		if id != "" {
			set = changing(doc{"set": doc{"n": 1}})
		}
		first := b.once(id, "do", "k", set).ok()
		if again := b.once(id, "do", "k", set).ok(); again.Call != first.Call {
			t.Errorf("in %q: the call ran again", id)
		}
		b.once(id, "do", "k", changing(doc{"set": doc{"n": 2}})).refused(wire.CodeInvalidParams)
		// Another method, another session and another key are other calls.
		for _, other := range []int{
			b.once(id, "safe", "k", set).ok().Call, b.once(id, "do", "l", set).ok().Call,
		} {
			if other == first.Call {
				t.Errorf("in %q: another call got the answer", id)
			}
		}
		b.again()
		if after := b.once(id, "do", "k", set).ok(); after.Call != first.Call || after.Worker != first.Worker {
			t.Errorf("in %q: after a restart the call ran again: %+v", id, after)
		}
	}
}

func TestKeyJoinsTheCallThatRuns(t *testing.T) {
	for _, id := range places {
		b := start(t)
		b.create("a", nil)
		one := b.once(id, "do", "k", doc{"hold": true})
		h := b.arrival()
		two, three := b.once(id, "do", "k", doc{"hold": true}), b.once(id, "do", "k", doc{"hold": true})
		b.once(id, "do", "k", doc{"hold": false}).refused(wire.CodeInvalidParams)
		one.leave(true) // the others still want it
		one.refused(wire.CodeCancelled)
		three.leave(false)
		three.refused(wire.CodeCancelled)
		if !two.pending() {
			t.Fatal("settled too early")
		}
		close(h.goOn)
		two.ok()
		<-two.ended
		if n := b.calls.Load(); n != 1 {
			t.Errorf("in %q: it ran %d times", id, n)
		}
	}
}

// A client whose connection was lost finds the answer when it comes back; one that cancels ends the call.
func TestLeaving(t *testing.T) {
	for _, id := range places {
		b := start(t)
		b.create("a", nil)
		gone := b.once(id, "do", "k", doc{"hold": true})
		h := b.arrival()
		gone.leave(false)
		close(h.goOn)
		back := b.once(id, "do", "k", doc{"hold": true}).ok()
		if back.Call != 1 {
			t.Errorf("in %q: it ran again", id)
		}
		stopped := b.once(id, "do", "l", doc{"hold": true})
		h = b.arrival()
		stopped.leave(true)
		stopped.refused(wire.CodeCancelled)
		close(h.goOn)
		b.until("the end of the stop", func() bool { // meanwhile nobody joins it
			r := b.once(id, "do", "l", doc{"hold": true}).result()
			return r.Err != nil && r.Err.Code == wire.CodeCancelled // what it has done is not known
		})
	}
}

// A joined client's own deadline ends its part only.
func TestDeadlineOfOneThatJoined(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	one := b.once("a", "do", "k", doc{"hold": true})
	h := b.arrival()
	a := &asked{t: t, settled: make(chan pool.Result, 1), ended: make(chan struct{})}
	a.Call = pool.Call{Method: []byte("do"), Params: b.encode(doc{"hold": true}), Handler: a, Deadline: time.Now().Add(time.Millisecond)}
	var batch wire.Batch
	if _, err := b.table.SubmitOnce(&batch, key("a"), me, "k", &a.Call); err != nil {
		t.Fatal(err)
	}
	a.refused(wire.CodeDeadlineExceeded)
	close(h.goOn)
	one.ok()
}

// An error that may pass, or that came before the call ran, is not kept; others are.
func TestWhichErrorsAreKept(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	b.once("a", "do", "k", doc{"busy": true}).refused(wire.CodeLMError)
	b.once("a", "do", "k", doc{"busy": true}).refused(wire.CodeLMError)
	if n := b.calls.Load(); n != 2 {
		t.Errorf("an error that may pass: it ran %d times", n)
	}
	b.once("a", "no such", "k", nil).refused(wire.CodeUnknownMethod)
	b.once("a", "do", "l", doc{"fail": true}).refused(wire.CodeProgramError)
	b.once("a", "do", "l", doc{"fail": true}).refused(wire.CodeProgramError)
	if n := b.calls.Load(); n != 3 {
		t.Errorf("an error of the program's: it ran %d times", n)
	}
	b.once("a", "do", "m", doc{"die": true}).refused(wire.CodeWorkerLost)
	again := b.once("a", "do", "m", doc{"die": true}).failure(wire.CodeWorkerLost)
	if again.Details["maybe_executed"] != true || b.calls.Load() != 4 {
		t.Errorf("a call whose worker died: %+v, %d calls", again, b.calls.Load())
	}
}

// The sidecar's end in the middle of a call: it is not run again, and the client is told so.
func TestUnknownOutcome(t *testing.T) {
	for _, id := range places {
		b := start(t)
		b.create("a", nil)
		b.once(id, "do", "k", doc{"hold": true})
		b.arrival()
		crashed := b.shelf.snapshot() // what a crash would leave
		b.stop()
		b.shelf = crashed
		b.workers = newWorkers(t)
		b.begin()
		e := b.once(id, "do", "k", doc{"hold": true}).failure(wire.CodeWorkerLost)
		if e.Details["maybe_executed"] != true {
			t.Errorf("in %q: %+v", id, e)
		}
		if n := b.calls.Load(); n != 0 {
			t.Errorf("in %q: it ran again", id)
		}
	}
}

// A call does not run before the store has noted that it begins, and is refused where that fails; its answer waits for the store as well.
func TestBeginningIsStoredFirst(t *testing.T) {
	for _, id := range places {
		b := start(t)
		b.create("a", nil)
		if id == "" {
			b.once("", "do", "make the ledger", nil).ok()
		} else {
			b.put("a", doc{"n": 0})
		}
		ran := b.calls.Load()
		b.shelf.slowly("note", true)
		call := b.once(id, "do", "k", nil)
		begin := b.storing()
		if !call.pending() || b.calls.Load() != ran {
			t.Errorf("in %q: it ran before its beginning was stored", id)
		}
		begin(errDisk)
		b.storing()(nil) // that it is forgotten
		call.refused(wire.CodeStorageUnavailable)
		<-call.ended
		if b.calls.Load() != ran {
			t.Errorf("in %q: it ran", id)
		}
		call = b.once(id, "do", "k", nil)
		b.storing()(nil)
		answer := b.storing()
		if !call.pending() {
			t.Errorf("in %q: answered before its answer was stored", id)
		}
		answer(nil)
		call.ok()
	}
}

// A change and the answer that goes with it are one.
func TestAnswerCommitsWithTheState(t *testing.T) {
	b := start(t)
	b.create("a", doc{"n": 0})
	b.put("a", doc{"n": 0})
	set := changing(doc{"set": doc{"n": 1}})
	b.shelf.failNext("commit", errDisk)
	b.once("a", "do", "k", set).refused(wire.CodeStorageUnavailable)
	_, state := b.get("a")
	same(t, "state", state, doc{"n": 0})
	// It has run, and nobody knows how it ended: it is not run again.
	e := b.once("a", "do", "k", set).failure(wire.CodeWorkerLost)
	if e.Details["maybe_executed"] != true {
		t.Errorf("%+v", e)
	}
}

func TestAnswersAreCountedAndExpire(t *testing.T) {
	ttl := 50 * time.Millisecond
	b := start(t, func(_ *pool.Settings, c *session.Config) { c.AnswerTTL, c.MaxState = ttl, 20_000 })
	b.create("a", nil)
	before, _ := b.get("a")
	b.once("a", "do", "k", nil).ok()
	kept, _ := b.get("a")
	if kept.Bytes <= before.Bytes {
		t.Error("an answer takes no room")
	}
	var full *wire.Error
	for i := 0; full == nil; i++ { // more than fit
		if i > 500 {
			t.Fatal("answers are not limited")
		}
		r := b.once("a", "do", "x"+string(rune('A'+i)), doc{"n": i}).result()
		full = r.Err
	}
	if full.Code != wire.CodeSessionLimit {
		t.Fatal(full)
	}
	b.until("the answers' end", func() bool {
		r := b.once("a", "do", "another", nil).result()
		return r.Err == nil
	})
	for _, r := range b.shelf.snapshot().records {
		for _, a := range r.Answers {
			if a.Key == "k" {
				t.Error("an answer that has expired is still stored")
			}
		}
	}
}

// An error is kept whatever room there is, cut to what was set aside for it; without that room no call begins.
func TestErrorsThatAreKeptAreBounded(t *testing.T) {
	const most = 20_000
	b := start(t, func(_ *pool.Settings, c *session.Config) { c.MaxState = most })
	b.create("a", nil)
	var full *wire.Error
	for i := 0; full == nil; i++ {
		if i > 100 {
			t.Fatal("errors are not limited")
		}
		if e := b.once("a", "do", string(rune('A'+i)), doc{"lament": true}).result().Err; e.Code != wire.CodeProgramError {
			full = e
		}
	}
	if info, _ := b.get("a"); full.Code != wire.CodeSessionLimit || info.Bytes > most {
		t.Errorf("%v, %d bytes", full, info.Bytes)
	}
	again := b.once("a", "do", "A", doc{"lament": true}).failure(wire.CodeProgramError)
	if again.Details["type"] != "Error" || len(again.Message) > 2000 {
		t.Errorf("kept: %+v", again)
	}
	b.ask("a", "do", nil).ok()
}

// A call that ended before it ran has never begun, wherever the note that it begins was.
func TestCallThatEndedBeforeItRan(t *testing.T) {
	b := start(t)
	b.create("a", nil)
	held := b.ask("a", "do", doc{"hold": true})
	h := b.arrival()
	waiting := b.once("a", "do", "k", nil)
	waiting.leave(true)
	waiting.refused(wire.CodeCancelled)
	close(h.goOn)
	held.ok()
	b.read("a") // comes after the note
	b.again()
	b.once("a", "do", "k", nil).ok()
}

func TestCancelWhileTheBeginningIsStored(t *testing.T) {
	for _, id := range places {
		b := start(t)
		b.create("a", nil)
		b.put("a", nil)
		b.once("", "do", "make the ledger", nil).ok()
		ran := b.calls.Load()
		b.shelf.slowly("note", true)
		call := b.once(id, "do", "k", nil)
		begin := b.storing()
		b.shelf.slowly("note", false)
		call.leave(true)
		call.refused(wire.CodeCancelled)
		begin(nil)
		b.once(id, "do", "l", nil).ok()
		if n := b.calls.Load() - ran; n != 1 {
			t.Errorf("in %q: it ran for nobody", id)
		}
	}
}

// Answers are kept as long as was said when they were given, whatever is said later.
func TestShorterAnswerTTL(t *testing.T) {
	var s session.Settings
	b := start(t, func(_ *pool.Settings, c *session.Config) { s = c.Settings })
	b.create("a", nil)
	b.once("a", "do", "long", nil).ok()
	s.AnswerTTL = time.Millisecond
	b.table.Apply(s)
	first := b.once("a", "do", "short", nil).ok().Call
	b.until("its end", func() bool { return b.once("a", "do", "short", nil).ok().Call != first })
	if n := b.once("a", "do", "long", nil).ok().Call; n != 1 {
		t.Errorf("the other call ran again: %d", n)
	}
	for _, r := range b.shelf.snapshot().records {
		for _, a := range r.Answers {
			if most := map[string]time.Duration{"long": time.Hour, "short": s.AnswerTTL}[a.Key]; a.Left != most {
				t.Errorf("the store is to keep %q for %s, and not %s", a.Key, a.Left, most)
			}
		}
	}
}

// A ledger that could not be stored is no obstacle to the next call.
func TestLedgerThatCannotBeStored(t *testing.T) {
	for _, slow := range []bool{false, true} {
		b := start(t)
		b.shelf.slowly("create", slow)
		if !slow {
			b.shelf.failNext("create", errDisk)
		}
		c := b.once("", "do", "k", nil)
		if slow {
			b.storing()(errDisk)
			b.shelf.slowly("create", false)
		}
		c.refused(wire.CodeStorageUnavailable)
		b.until("another ledger", func() bool { return b.once("", "do", "k", nil).result().Err == nil })
	}
}

// What goes on for nobody is bounded: beyond that, a client that leaves has its calls stopped.
func TestCallsThatGoOnForNobody(t *testing.T) {
	b := start(t, func(s *pool.Settings, _ *session.Config) { s.Concurrency = 1000 })
	var calls []keyed
	for i := range 300 {
		calls = append(calls, b.once("", "do", string(rune(1000+i)), doc{"hold": true}))
	}
	var held []*held
	for range calls {
		held = append(held, b.arrival())
	}
	for _, c := range calls {
		c.leave(false)
	}
	for _, h := range held {
		close(h.goOn)
	}
	kept := 0
	for i := range calls {
		b.until("its end", func() bool {
			r := b.once("", "do", string(rune(1000+i)), doc{"hold": true}).result()
			if r.Err == nil {
				kept++
			}
			return r.Err == nil || r.Err.Code == wire.CodeCancelled
		})
	}
	if kept < 256 || kept == len(calls) {
		t.Errorf("%d of %d went on", kept, len(calls))
	}
}
