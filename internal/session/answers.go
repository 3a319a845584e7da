package session

import (
	"cmp"
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

// dropAnswerLocked forgets an answer that is in s.answers and not in s.given.
func (t *Table) dropAnswerLocked(s *session, k store.AnswerKey) {
	size := s.answers[k].size
	delete(s.answers, k)
	s.bytes -= size
	t.bytes -= size
}

// takeStaleLocked forgets the answers that have been kept for long enough.
func (t *Table) takeStaleLocked(s *session, now time.Time) (stale []store.AnswerKey) {
	for len(s.given) > 0 && !now.Before(s.answers[s.given[0]].expires) {
		k := s.given[0]
		s.given = s.given[1:]
		t.dropAnswerLocked(s, k)
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

// replay answers with an outcome that was kept.
func replay(batch *wire.Batch, outcome []byte, h pool.Handler) {
	r := pool.Refused(nil)
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

// keptLocked says what is to be stored of the call's outcome, which is encoded: the answer, or, where it has not run or may be tried
// again, nothing any more.
func (o *once) keptLocked(c *store.Change, r *pool.Result, encoded []byte, ran bool) {
	if r.Err != nil && (!ran || r.Err.Retryable) {
		c.Forget = append(c.Forget, o.key)
		o.over = !ran
		return
	}
	a := o.session.answers[o.key]
	c.Answers = append(c.Answers, store.Answer{
		AnswerKey: o.key, Params: a.params, Outcome: encoded, Left: o.table.settings().AnswerTTL,
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
		o.table.dropAnswerLocked(s, o.key)
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
