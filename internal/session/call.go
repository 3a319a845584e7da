package session

import (
	"bytes"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// call is a call in a session, between the pool and the call's own handler: it restores the worker's copy, collects
// changes, and commits them before the outcome goes on.
type call struct {
	table   *Table
	session *session
	pool    *pool.Call
	inner   pool.Handler

	change   store.Change // collected since the last dispatch; used by the worker's reader alone
	changed  bool
	size     int // of its frames
	maxFrame int // the worker's
	bytes    int // of the state with the change

	// Guarded by Table.mu: the turn ends when the worker is done with the call and its commit is, too.
	committing bool
	finished   bool
	kept       *pool.Result // the outcome, where the store takes its time
	answered   bool         // the store has answered, with outcome
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
	c.maxFrame = to.MaxFrame()
	t.maxFrame = c.maxFrame
	c.change, c.changed, c.size = store.Change{Number: s.number, Expected: s.version}, false, 0
	if old := s.holder; old != nil && old != to.Worker() {
		to.Forget(old, "session.drop", dropParams(s.number, false))
	}
	t.restoreLocked(s, to)
	s.holder = to.Worker()
	s.keepsUp()
	meta.Session, meta.Key, meta.Version = s.id, s.number, s.version
	if !to.ReadOnly() || !s.started {
		t.lastVersion++
		meta.Next, meta.Start = t.lastVersion, !s.started
		c.change.Version = meta.Next
	}
	return nil
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
	if c.size += len(payload); c.tooLong() {
		c.change.Set, c.change.Secrets, c.change.Delete = nil, nil, nil // it will be refused
		return nil
	}
	return merge(&c.change, payload)
}

// tooLong says whether the frames of a change take more than any that is to be had, its keys and its overhead included.
func (c *call) tooLong() bool { return c.size > 4*c.table.cfg.MaxState }

// Settle commits the changes of a call that succeeded, and passes its outcome on when they are in force. After an error nothing
// is known to have changed at the worker: where its answer and a cancel crossed, it will say that its copy is stale.
func (c *call) Settle(batch *wire.Batch, r *pool.Result) {
	if r.Err != nil {
		c.inner.Settle(batch, r)
		return
	}
	t, s := c.table, c.session
	t.mu.Lock()
	if !c.changed {
		s.started = true
		t.mu.Unlock()
		c.inner.Settle(batch, r)
		return
	}
	refused := c.admitLocked()
	if refused != nil {
		c.abandonedLocked()
	} else {
		c.committing, s.storing = true, true
	}
	t.mu.Unlock()
	if refused != nil {
		c.inner.Settle(batch, &pool.Result{Meta: r.Meta, Err: refused})
		return
	}
	now, err := t.cfg.Store.Commit(&c.change, c.fromStore)
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
		c.committed(batch, r, c.outcome)
	}
}

// admitLocked says why the change cannot be made, if it cannot.
func (c *call) admitLocked() (refused *wire.Error) {
	if c.tooLong() {
		return tooMuch(c.session, c.size, c.table.cfg.MaxState)
	}
	for _, set := range [...]map[string][]byte{c.change.Set, c.change.Secrets} {
		for k, v := range set {
			if n, most := len(k)+len(v)+entryHead, c.maxFrame-partHead; n > most {
				return wire.Errorf(wire.CodeFrameTooLarge, "the value of %q in the session's state takes %d bytes: no frame could restore it", k, len(v)).
					With("limit", most).With("length", n)
			}
		}
	}
	c.bytes, refused = c.table.admitLocked(c.session, &c.change)
	return refused
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
	switch {
	case s.ended:
		r = &pool.Result{Meta: r.Meta, Err: notFound(s.key)}
	case err != nil:
		c.abandonedLocked()
		r = &pool.Result{Meta: r.Meta, Err: notStored(err)}
	default:
		s.apply(&c.change, c.bytes)
		s.keepsUp()
		s.started = true
	}
	after := s.storeEndedLocked()
	t.mu.Unlock()
	c.inner.Settle(batch, r)
	t.mu.Lock()
	c.committing = false
	finished := c.finished
	t.mu.Unlock()
	if finished {
		c.endTurn(batch)
	}
	if after != nil {
		after(batch)
	}
}

// Finish ends the call's turn, unless its commit is still under way.
func (c *call) Finish(batch *wire.Batch) {
	c.table.mu.Lock()
	c.finished = true
	committing := c.committing
	c.table.mu.Unlock()
	if !committing {
		c.endTurn(batch)
	}
}

func (c *call) endTurn(batch *wire.Batch) {
	t, s := c.table, c.session
	t.mu.Lock()
	s.active--
	s.used = time.Now()
	share := s.started && !s.shared
	s.shared = s.shared || share
	large := s.active > 0 && s.bytes >= prepareFrom
	t.mu.Unlock()
	if large {
		t.prepare(s)
	}
	if share {
		s.flow.Share()
	}
	s.flow.EndTurn(batch, c.pool)
	c.inner.Finish(batch)
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
