package session

import (
	"bytes"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// call is a call in a session, or one that its owner's ledger keeps account of, between the pool and the call's own handler: it restores the
// worker's copy, collects changes, and commits them, with what else has to be kept of the call, before the outcome goes on.
type call struct {
	table     *Table
	session   *session
	ledger    *session // of the owner, where it has a budget; nil: it has none
	flow      *pool.Flow
	pool      *pool.Call
	inner     pool.Handler
	once      *once         // nil: it has no idempotency key
	counted   store.Amounts // of its usage, while it ran; guarded by Table.mu
	countedLM LMUse         // likewise

	change   store.Change // collected since the last dispatch; used by the worker's reader alone
	changed  bool
	size     int // of its frames
	maxFrame int // the worker's

	// Guarded by Table.mu: the turn ends when the worker is done with the call and its commit is, too.
	ran        bool // it was dispatched
	committing bool
	finished   bool
	pending    *store.Change // what is being committed
	began      time.Time     // that
	kept       *pool.Result  // the outcome, where the store takes its time
	answered   bool          // the store has answered, with outcome
	outcome    error
}

// Dispatch makes sure that the worker holds the session's state, and says what the state will be called after the call.
func (c *call) Dispatch(to *pool.Target, meta *wire.RequestMeta) *wire.Error {
	t, s := c.table, c.session
	if err := c.inner.Dispatch(to, meta); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := c.beginLocked(); err != nil || s.ledger {
		return err
	}
	c.maxFrame = to.MaxFrame()
	t.maxFrame = c.maxFrame
	c.change, c.changed, c.size = store.Change{Number: s.number, Expected: s.version}, false, 0
	if old := s.holder; old != nil && old != to.Worker() {
		t.tell(s, "moved", "worker", to.Worker().ID(), "from", old.ID())
		to.Forget(old, "session.drop", dropParams(s.number, false))
	}
	t.restoreLocked(s, to)
	s.holder = to.Worker()
	s.keepsUp()
	t.trace(s, "request", "sidecar", to.Worker().ID(), len(c.pool.Params))
	meta.Session, meta.Key, meta.Version = s.id, s.number, s.version
	if !to.ReadOnly() || !s.started {
		t.lastVersion++
		meta.Next, meta.Start = t.lastVersion, !s.started
		c.change.Version = meta.Next
	}
	return nil
}

// beginLocked counts a call that goes to a worker for the first time, or says why it may not.
func (c *call) beginLocked() *wire.Error {
	c.counted, c.countedLM = store.Amounts{}, LMUse{} // where it runs again, what it used before is spent all the same
	if c.ran {
		return nil
	}
	t := c.table
	if err := t.overBudgetLocked(c.session, c.ledger, &t.settings().Budgets); err != nil {
		return err
	}
	t.countLocked(c, store.Amounts{Calls: 1})
	c.ran = true
	return nil
}

// Used counts what a call has used so far, and says whether that is more than it may.
func (c *call) Used(usage []byte) *wire.Error {
	if m, is := c.inner.(pool.Meter); is {
		if err := m.Used(usage); err != nil {
			return err
		}
	}
	t := c.table
	t.mu.Lock()
	defer t.mu.Unlock()
	c.spentLocked(usage)
	b := t.settings().Budgets
	for _, of := range [...]*store.Amounts{&b.Session, &b.SessionDay, &b.OwnerDay} {
		of.Calls = 0 // this one is counted already
	}
	return t.overBudgetLocked(c.session, c.ledger, &b)
}

// spentLocked counts, and has the store note, what a call has used by now.
func (c *call) spentLocked(usage []byte) {
	if !c.ran || usage == nil {
		return
	}
	t := c.table
	t.countLocked(c, c.uncounted(usage))
	t.keepSpentLocked(c)
	t.keepLateLocked(c)
}

// uncounted is what a call has used beyond what was counted of it before.
func (c *call) uncounted(usage []byte) store.Amounts {
	u := decodeUsage(usage)
	all, use := usageOf(u), lmUseOf(u)
	c.session.lm.add(use.since(&c.countedLM))
	c.countedLM = *use
	more := store.Amounts{Tokens: max(0, all.Tokens-c.counted.Tokens), Cost: max(0, all.Cost-c.counted.Cost)}
	c.counted = all
	return more
}

// Item passes on.
func (c *call) Item(batch *wire.Batch, payload []byte, owned bool) {
	c.inner.Item(batch, payload, owned)
}

// Ask passes on.
func (c *call) Ask(batch *wire.Batch, ask *pool.Ask) { c.inner.Ask(batch, ask) }

// Change collects what the call changes.
func (c *call) Change(payload []byte) error {
	if c.change.Version == 0 {
		return wire.Errorf(wire.CodeInvalidFrame, "a change of a call that may only read")
	}
	c.changed = true
	c.table.trace(c.session, "change", "worker", "", len(payload))
	if c.size += len(payload); c.tooLong() {
		c.change.Set, c.change.Secrets, c.change.Delete = nil, nil, nil // it will be refused
		return nil
	}
	return merge(&c.change, payload)
}

// tooLong says whether the frames of a change take more than any that is to be had, its keys and its overhead included.
func (c *call) tooLong() bool { return c.size > 4*c.table.settings().MaxState }

// Settle commits what has to be kept of a call, and passes its outcome on when that is in force: the changes of one that succeeded, its
// answer where it has an idempotency key, and what it has spent. After an error nothing is known to have changed at the worker: where its answer
// and a cancel crossed, it will say that its copy is stale.
func (c *call) Settle(batch *wire.Batch, r *pool.Result) {
	t, s := c.table, c.session
	var encoded []byte
	if c.once != nil {
		encoded = encodeOutcome(r)
	}
	t.mu.Lock()
	if c.ran {
		t.countLocked(c, c.uncounted(r.Meta.Usage))
		t.keepSpentLocked(c)
	}
	change, refused := c.outcomeLocked(r, encoded)
	if refused != nil {
		r = &pool.Result{Meta: r.Meta, Err: refused}
	}
	switch {
	case change == nil:
		t.mu.Unlock()
		c.inner.Settle(batch, r)
		return
	case s.ended:
		t.mu.Unlock()
		if r.Err == nil {
			r = &pool.Result{Meta: r.Meta, Err: notFound(s.key)}
		}
		c.inner.Settle(batch, r)
		return
	}
	c.committing, c.pending, c.began = true, change, time.Now()
	t.mu.Unlock()
	now, err := t.cfg.Store.Commit(change, c.fromStore)
	if now {
		c.committed(batch, r, err)
		return
	}
	kept := keep(r)
	t.mu.Lock()
	c.kept = &kept
	answered := c.answered
	t.mu.Unlock()
	if answered {
		c.committed(batch, &kept, c.outcome)
	}
}

// outcomeLocked is what is to be committed of an outcome, encoded where it is to be kept, and why that cannot be, in which case the error is
// the outcome; nil: nothing is to be committed.
func (c *call) outcomeLocked(r *pool.Result, encoded []byte) (change *store.Change, refused *wire.Error) {
	t, s := c.table, c.session
	change = &store.Change{Number: s.number}
	if r.Err == nil && c.changed {
		*change = c.change
	}
	if r.Err == nil && !s.started && !s.ledger {
		change.Started = true
	}
	change.Spent = t.spentLocked(c)
	if c.once != nil {
		c.once.keptLocked(change, r, encoded, c.ran)
	}
	if r.Err == nil {
		if refused = c.admitLocked(change); refused != nil {
			if c.changed {
				c.abandonedLocked()
			}
			instead := pool.Refused(refused)
			again, _ := c.outcomeLocked(instead, encodeOutcome(instead))
			return again, refused
		}
	}
	if change.Version == 0 && !change.Started && change.Spent == nil && len(change.Answers)+len(change.Forget) == 0 {
		return nil, nil
	}
	return change, nil
}

// admitLocked says why a change cannot be made, if it cannot.
func (c *call) admitLocked(change *store.Change) (refused *wire.Error) {
	if c.tooLong() {
		return tooMuch(c.session, c.size, c.table.settings().MaxState)
	}
	for _, set := range [...]map[string][]byte{change.Set, change.Secrets} {
		for k, v := range set {
			if n, most := len(k)+len(v)+entryHead, c.maxFrame-partHead; n > most {
				return wire.Errorf(wire.CodeFrameTooLarge, "the value of %q in the session's state takes %d bytes: no frame could restore it", k, len(v)).
					With("limit", most).With("length", n)
			}
		}
	}
	return c.table.admitLocked(c.session, change)
}

// abandonedLocked notes that the worker went on to a version that will not be.
func (c *call) abandonedLocked() {
	s := c.session
	s.holds, s.behind = c.change.Version, s.behind[:0]
	if c.tooLong() { // the keys were not kept
		s.holds = unknown
	}
	s.fallsBehind(&c.change)
}

// fromStore is called by a store that took its time, from a goroutine of its own. The call goes on here, or in Settle if that has
// not returned yet.
func (c *call) fromStore(err error) {
	c.table.mu.Lock()
	c.table.cfg.Metrics.Commit.UpdateDuration(c.began)
	c.answered, c.outcome = true, err
	kept := c.kept
	c.table.mu.Unlock()
	if kept == nil {
		return
	}
	var batch wire.Batch
	c.committed(&batch, kept, err)
	batch.Flush()
}

// committed ends a commit, and answers the client.
func (c *call) committed(batch *wire.Batch, r *pool.Result, err error) {
	t, s := c.table, c.session
	t.mu.Lock()
	t.countCommit(err)
	state := c.pending.Version != 0
	switch {
	case s.ended:
		err = notFound(s.key)
	case err != nil:
		err = notStored(err)
		if state {
			c.abandonedLocked()
		}
	default:
		t.bytes += s.apply(c.pending)
		if state {
			s.keepsUp()
		}
	}
	if c.once != nil {
		c.once.committedLocked(c.pending, err == nil)
	}
	t.mu.Unlock()
	if err != nil && r.Err == nil {
		r = &pool.Result{Meta: r.Meta, Err: wire.FromError(err)}
	}
	c.inner.Settle(batch, r)
	t.mu.Lock()
	c.committing = false
	finished := c.finished
	t.mu.Unlock()
	if finished {
		c.endTurn(batch)
	}
}

// Finish ends the call's turn, unless its commit is still under way. What the call has used beyond what its outcome told counts, too.
func (c *call) Finish(batch *wire.Batch, usage []byte) {
	c.table.mu.Lock()
	c.finished = true
	if usage != nil && c.ran {
		c.table.countLocked(c, c.uncounted(usage))
		c.table.keepSpentLocked(c)
		c.table.keepLateLocked(c)
	}
	committing := c.committing
	c.table.mu.Unlock()
	if !committing {
		c.endTurn(batch)
	}
}

func (c *call) endTurn(batch *wire.Batch) {
	t, s := c.table, c.session
	t.mu.Lock()
	t.leaveLocked(s)
	if c.ledger != nil && c.ledger != s {
		t.leaveLocked(c.ledger)
	}
	share := s.started && !s.shared && !s.ledger
	s.shared = s.shared || share
	large := s.active > 0 && s.bytes >= prepareFrom
	t.mu.Unlock()
	if large {
		t.prepare(s)
	}
	if share {
		s.flow.Share(true)
	}
	c.flow.EndTurn(batch, c.pool)
	c.inner.Finish(batch, nil)
}

func (t *Table) countCommit(err error) {
	if err != nil {
		t.cfg.Metrics.CommitFailed.Inc()
		return
	}
	t.cfg.Metrics.CommitsOK.Inc()
}

// keep makes a result independent of borrowed memory, for a commit that is not done at once.
func keep(r *pool.Result) pool.Result {
	out := *r
	if !r.Owned {
		out.Payload, out.Owned = bytes.Clone(r.Payload), true
	}
	out.Meta.App, out.Meta.Usage = bytes.Clone(r.Meta.App), bytes.Clone(r.Meta.Usage)
	return out
}
