package session

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// answer is what is known of a call that was made with an idempotency key.
type answer struct {
	params  [32]byte
	running *once  // nil: it does not run
	outcome []byte // the response, encoded; nil where running is: what became of the call is not known
	expires time.Time
	size    int
}

// answerHead is what an answer takes beside its method, its key and its outcome.
const answerHead = 128

func newAnswer(k store.AnswerKey, params [32]byte, outcome []byte) *answer {
	return &answer{params: params, outcome: outcome, size: answerHead + len(k.Method) + len(k.Key) + len(outcome)}
}

// once is a call with an idempotency key, on behalf of all that ask for it. Between the pool and it stands the session's own handler.
type once struct {
	table   *Table
	session *session
	key     store.AnswerKey
	payer   string // who began it
	size    int    // of its params
	call    pool.Call

	// Guarded by Table.mu.
	waiters  []*Ticket
	refused  *wire.Error // why it must not begin
	over     bool        // it has ended without having run
	detached bool        // all that asked for it have gone
}

// Ticket is one client's part in a call with an idempotency key.
type Ticket struct {
	once    *once
	handler pool.Handler
	timer   *time.Timer // its own deadline; nil: that of the call
}

// SubmitOnce hands in a call that a client made with an idempotency key: it joins the one that runs, or gets the answer that was kept,
// or begins. The handler's Settle and Finish are called as for any call; instead of canceling it in the pool its client leaves. A call
// without a session has its payer's keys.
func (t *Table) SubmitOnce(batch *wire.Batch, key Key, payer, idempotencyKey string, c *pool.Call) (*Ticket, error) {
	s, err := t.keeperOf(batch, key, payer)
	if err != nil {
		return nil, err
	}
	ledger, refused := t.ledgerFor(batch, payer)
	if refused != nil {
		t.leave(s)
		return nil, refused
	}
	ticket := &Ticket{handler: c.Handler}
	k := store.AnswerKey{Method: string(c.Method), Key: idempotencyKey}
	params := sha256.Sum256(c.Params)
	t.mu.Lock()
	a := s.answers[k]
	switch {
	case a == nil, a.running == nil && !time.Now().Before(a.expires):
		o := &once{table: t, session: s, key: k, payer: payer, size: len(c.Params), waiters: []*Ticket{ticket}}
		mark, refused := t.beginLocked(o, params)
		t.mu.Unlock()
		if refused == nil {
			ticket.once = o
			t.runOnce(batch, o, mark, ledger, c)
			return ticket, nil
		}
		t.mu.Lock()
		err = refused
	case a.params != params:
		err = wire.Errorf(wire.CodeInvalidParams, "the idempotency key %q was used for %s with other params", k.Key, k.Method)
	case a.running != nil && a.running.refused != nil:
		err = wire.Errorf(wire.CodeSessionBusy, "the call with the idempotency key %q is being stopped; ask again", k.Key)
	case a.running != nil:
		ticket.once = a.running
		a.running.attachLocked()
		a.running.waiters = append(a.running.waiters, ticket)
		if d := c.Deadline; !d.IsZero() {
			ticket.timer = time.AfterFunc(time.Until(d), ticket.expired)
		}
	}
	t.leaveLocked(s)
	if ledger != nil {
		t.leaveLocked(ledger)
	}
	t.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case ticket.once == nil:
		replay(batch, a.outcome, c.Handler)
	}
	return ticket, nil
}

// keeperOf is the session that keeps the answers of calls in key; it has been told of one more call.
func (t *Table) keeperOf(batch *wire.Batch, key Key, payer string) (*session, error) {
	if key.ID != "" {
		return t.use(batch, key, payer)
	}
	s, refused := t.ledgerOf(batch, payer)
	if refused != nil {
		return nil, refused
	}
	return s, nil
}

const (
	// maxAnswers is how many answers a session keeps at a time.
	maxAnswers = 10_000
	// errorReserve is the room that an answer is refused without: what an error takes is kept in any case, cut to that.
	errorReserve = 4 << 10
)

// beginLocked notes that a call begins, or says why there is no room for its answer. What it returns has to be in the store before the
// call runs.
func (t *Table) beginLocked(o *once, params [32]byte) (*store.Change, *wire.Error) {
	s, k := o.session, o.key
	stale := t.takeStaleLocked(s, time.Now())
	t.forgetAnswerLocked(s, k) // it has expired
	need := answerHead + len(k.Method) + len(k.Key) + errorReserve
	switch most := t.settings().MaxState; {
	case s.bytes+need > most:
		return nil, tooMuch(s, s.bytes+need, most)
	case len(s.answers) >= maxAnswers:
		return nil, wire.Errorf(wire.CodeSessionLimit, "%d answers to calls with idempotency keys are kept; they go after sessions.answer_ttl", maxAnswers).
			With("limit", maxAnswers)
	}
	if err := t.roomLocked(need); err != nil {
		return nil, err
	}
	if s.answers == nil {
		s.answers = make(map[store.AnswerKey]*answer)
	}
	a := newAnswer(k, params, nil)
	a.running = o
	s.answers[k] = a
	s.bytes += a.size
	t.bytes += a.size
	return &store.Change{
		Number: s.number, Forget: slices.DeleteFunc(stale, func(old store.AnswerKey) bool { return old == k }), // it is replaced
		Answers: []store.Answer{{AnswerKey: k, Params: params, Left: t.settings().AnswerTTL}},
	}, nil
}

func (t *Table) forgetAnswerLocked(s *session, k store.AnswerKey) {
	if a := s.answers[k]; a != nil {
		delete(s.answers, k)
		s.given = slices.DeleteFunc(s.given, func(other store.AnswerKey) bool { return other == k })
		s.bytes -= a.size
		t.bytes -= a.size
	}
}

// takeStaleLocked forgets the answers that have been kept for long enough.
func (t *Table) takeStaleLocked(s *session, now time.Time) (stale []store.AnswerKey) {
	for len(s.given) > 0 {
		k := s.given[0]
		if now.Before(s.answers[k].expires) {
			break
		}
		t.forgetAnswerLocked(s, k)
		stale = append(stale, k)
	}
	return stale
}

// takeInAnswers is what the store kept of a session's answers. Of those that have no outcome it is not known what became of the call.
func (s *session) takeInAnswers(kept []store.Answer, now time.Time) {
	if len(kept) == 0 {
		return
	}
	slices.SortFunc(kept, func(a, b store.Answer) int { return cmp.Compare(a.Left, b.Left) })
	s.answers = make(map[store.AnswerKey]*answer, len(kept))
	for i := range kept {
		k := &kept[i]
		a := newAnswer(k.AnswerKey, k.Params, k.Outcome)
		a.expires = now.Add(k.Left)
		s.answers[k.AnswerKey] = a
		s.given = append(s.given, k.AnswerKey)
		s.bytes += a.size
	}
}

// runOnce has the store note that a call begins, and lets it come. In a session the note takes its turn right before the call.
func (t *Table) runOnce(batch *wire.Batch, o *once, mark *store.Change, ledger *session, c *pool.Call) {
	s := o.session
	o.call = pool.Call{
		Method: bytes.Clone(c.Method), Params: bytes.Clone(c.Params), Owned: true, Meta: c.Meta, Deadline: c.Deadline, Nested: c.Nested,
	}
	o.call.Meta.Traceparent, o.call.Meta.App = bytes.Clone(c.Meta.Traceparent), bytes.Clone(c.Meta.App)
	h := &call{table: t, session: s, flow: s.flow, pool: &o.call, inner: o, once: o, ledger: ledger}
	o.call.Handler = h
	if s.ledger {
		begin := func(b *wire.Batch, err error) {
			o.begun(err)
			s.flow.Submit(b, &o.call)
		}
		if now, err := t.cfg.Store.Commit(mark, later(begin)); now {
			begin(batch, err)
		}
		return
	}
	u := &turn{table: t, session: s, method: "session.begin", beside: true, change: *mark, once: o}
	u.done = func(_ *wire.Batch, _ uint64, err error) { o.begun(err) }
	u.take(batch, c.Deadline)
	s.flow.Submit(batch, &o.call)
}

// begun is told whether the store has noted that the call begins. Where it has not, the call is refused when its turn comes.
func (o *once) begun(err error) {
	if err == nil {
		return
	}
	o.table.mu.Lock()
	defer o.table.mu.Unlock()
	if o.refused != nil {
		return
	}
	if o.refused = wire.FromError(err); o.refused.Code == wire.CodeInternal {
		o.refused = notStored(err)
	}
}

// replay answers with an outcome that was kept.
func replay(batch *wire.Batch, outcome []byte, h pool.Handler) {
	r := &pool.Result{Meta: wire.ResponseMeta{QueueUS: -1, RunUS: -1}}
	if outcome == nil {
		r.Err = wire.Errorf(wire.CodeWorkerLost, "it is not known what became of a call with this idempotency key that had begun: the sidecar, or its store, ended before its answer was kept; it is not run again").
			With("maybe_executed", true)
	} else if err := decodeOutcome(outcome, r); err != nil {
		r.Err = wire.FromError(err)
	}
	h.Settle(batch, r)
	h.Finish(batch, nil)
}

// encodeOutcome makes what is kept of a result: a response frame.
func encodeOutcome(r *pool.Result) []byte {
	if r.Err != nil {
		b := wire.AppendError(nil, 1, &r.Meta, r.Err)
		if len(b) > errorReserve {
			b = wire.AppendError(nil, 1, &wire.ResponseMeta{Worker: r.Meta.Worker, QueueUS: -1, RunUS: -1}, shortened(r.Err))
		}
		return b
	}
	return append(wire.AppendResponse(nil, 1, &r.Meta), r.Payload...)
}

// shortened is what is kept of an error that is too long to be kept: its code and how its message begins.
func shortened(e *wire.Error) *wire.Error {
	const most = 1 << 10
	short := wire.Errorf(e.Code, "%s… (this is how the error began that was kept)", strings.ToValidUTF8(e.Message[:min(most, len(e.Message))], ""))
	short.Retryable = e.Retryable
	for _, key := range []string{"type", "maybe_executed", "ended_by"} {
		if v, ok := e.Details[key].(string); ok && len(v) < most {
			short = short.With(key, v)
		} else if v, ok := e.Details[key].(bool); ok {
			short = short.With(key, v)
		}
	}
	return short
}

func decodeOutcome(outcome []byte, r *pool.Result) error {
	f, err := wire.Parse(outcome)
	if err != nil {
		return err
	}
	if err := wire.ParseResponseMeta(f.Meta, &r.Meta); err != nil {
		return err
	}
	if f.Error == nil {
		r.Payload, r.Owned = f.Payload, true
		return nil
	}
	r.Err = new(wire.Error)
	return wire.Unmarshal(f.Error, r.Err)
}

// Call is the call that runs; nil where an answer was kept.
func (k *Ticket) Call() *pool.Call {
	if k.once == nil {
		return nil
	}
	return &k.once.call
}

// Leave ends a client's part before the call has ended: its handler is told why. With stop the call is stopped where nobody else waits for it;
// without, as when the client's connection is lost, it goes on, so that the client finds its answer later.
func (k *Ticket) Leave(batch *wire.Batch, why *wire.Error, stop bool) {
	o := k.once
	if o == nil {
		return
	}
	o.table.mu.Lock()
	at := slices.Index(o.waiters, k)
	if at >= 0 {
		o.waiters = slices.Delete(o.waiters, at, at+1)
	}
	stopped := at >= 0 && len(o.waiters) == 0 && (stop || !o.detachLocked())
	if stopped && o.refused == nil {
		o.refused = why // it must not begin any more, and nobody joins it
	}
	o.table.mu.Unlock()
	if at < 0 {
		return
	}
	k.settle(batch, &pool.Result{Err: why, Meta: wire.ResponseMeta{QueueUS: -1, RunUS: -1}})
	if stopped {
		o.table.cfg.Pool.Cancel(batch, &o.call, why)
	}
}

// What goes on for nobody is limited for each payer, in number and in bytes of its params.
const (
	maxDetached      = 256
	maxDetachedBytes = 64 << 20
)

// detachLocked lets the call go on though nobody waits for it, if that may be.
func (o *once) detachLocked() bool {
	d := o.table.detached[o.payer]
	if d.calls >= maxDetached || d.bytes+o.size > maxDetachedBytes {
		return false
	}
	o.detached = true
	o.table.detached[o.payer] = detached{d.calls + 1, d.bytes + o.size}
	return true
}

// attachLocked ends that.
func (o *once) attachLocked() {
	if !o.detached {
		return
	}
	o.detached = false
	d := o.table.detached[o.payer]
	if d = (detached{d.calls - 1, d.bytes - o.size}); d.calls == 0 {
		delete(o.table.detached, o.payer)
	} else {
		o.table.detached[o.payer] = d
	}
}

// detached are the calls that go on for nobody.
type detached struct{ calls, bytes int }

func (k *Ticket) expired() {
	var batch wire.Batch
	k.Leave(&batch, wire.Errorf(wire.CodeDeadlineExceeded, "the deadline passed; the call that has this idempotency key goes on"), false)
	batch.Flush()
}

func (k *Ticket) settle(batch *wire.Batch, r *pool.Result) {
	if k.timer != nil {
		k.timer.Stop()
	}
	k.handler.Settle(batch, r)
	k.handler.Finish(batch, nil)
}

// Dispatch refuses a call whose beginning is not in the store.
func (o *once) Dispatch(*pool.Target, *wire.RequestMeta) *wire.Error {
	o.table.mu.Lock()
	defer o.table.mu.Unlock()
	return o.refused
}

// Item does not happen: a stream has no idempotency key.
func (o *once) Item(*wire.Batch, []byte, bool) {}

// Change does not happen: the session's own handler takes it.
func (o *once) Change([]byte) error { return nil }

// Ask goes to the client that has waited longest.
func (o *once) Ask(batch *wire.Batch, ask *pool.Ask) {
	o.table.mu.Lock()
	var first *Ticket
	if len(o.waiters) > 0 {
		first = o.waiters[0]
	}
	o.table.mu.Unlock()
	if first == nil {
		ask.Answer(batch, nil, true, wire.Errorf(wire.CodeConnectionLost, "the client left"))
		return
	}
	first.handler.Ask(batch, ask)
}

// Settle answers all that wait.
func (o *once) Settle(batch *wire.Batch, r *pool.Result) {
	o.table.mu.Lock()
	waiters := o.waiters
	o.waiters = nil
	o.attachLocked()
	o.table.mu.Unlock()
	for _, k := range waiters {
		k.settle(batch, r)
	}
}

// Finish has nothing to give back.
func (o *once) Finish(*wire.Batch, []byte) {}

// keptLocked says what is to be stored of the call's outcome: the answer, or, where it has not run or may be tried again, nothing any more.
func (o *once) keptLocked(c *store.Change, r *pool.Result, ran bool) {
	if r.Err != nil && (!ran || r.Err.Retryable) {
		c.Forget = append(c.Forget, o.key)
		o.over = !ran
		return
	}
	a := o.session.answers[o.key]
	c.Answers = append(c.Answers, store.Answer{
		AnswerKey: o.key, Params: a.params, Outcome: encodeOutcome(r), Left: o.table.cfg.AnswerTTL,
	})
}

// committedLocked notes the outcome that is in the store; of one that could not be stored nothing is known.
func (o *once) committedLocked(c *store.Change, stored bool) {
	s := o.session
	a := s.answers[o.key]
	if a == nil {
		return
	}
	a.running = nil
	if len(c.Forget) > 0 && c.Forget[len(c.Forget)-1] == o.key {
		o.table.forgetAnswerLocked(s, o.key)
		return
	}
	a.expires = time.Now().Add(o.table.settings().AnswerTTL)
	at, _ := slices.BinarySearchFunc(s.given, a.expires, func(k store.AnswerKey, t time.Time) int { return s.answers[k].expires.Compare(t) })
	s.given = slices.Insert(s.given, at, o.key)
	if stored && len(c.Answers) > 0 {
		a.outcome = c.Answers[0].Outcome
		a.size += len(a.outcome) // by which the session has grown with the change
	}
}
