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

	change  store.Change // collected since the last dispatch; used by the worker's reader alone
	changed bool

	// Guarded by Table.mu: the turn ends when the worker is done with the call and its commit is, too.
	committing bool
	finished   bool
}

// Dispatch makes sure that the worker holds the session's state, and says what the state will be called after the call.
func (c *call) Dispatch(to *pool.Target, meta *wire.RequestMeta) {
	t, s := c.table, c.session
	c.inner.Dispatch(to, meta)
	t.mu.Lock()
	defer t.mu.Unlock()
	c.change, c.changed = store.Change{Number: s.number, Expected: s.version}, false
	if old := s.holder; old != nil && old != to.Worker() {
		to.Forget(old, "session.drop", dropParams(s.number, false))
		s.holds = 0
	}
	fresh := s.holder != to.Worker() && s.version == 0
	if to.Again || s.holds != s.version && !fresh || s.holder != to.Worker() && !fresh {
		for _, part := range restoreParts(s, to.MaxFrame()) {
			to.Request("session.restore", part)
		}
	}
	s.holder, s.holds = to.Worker(), s.version
	meta.Session, meta.Key, meta.Version = []byte(s.key.ID), s.number, s.version
	if !to.ReadOnly() || !s.started {
		t.lastVersion++
		meta.Next, meta.Start = t.lastVersion, !s.started
		c.change.Version = meta.Next
	}
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
	return merge(&c.change, payload)
}

// Settle commits the changes of a call that succeeded, and passes its outcome on when they are in force.
func (c *call) Settle(batch *wire.Batch, r *pool.Result) {
	t, s := c.table, c.session
	t.mu.Lock()
	if r.Err != nil || !c.changed {
		c.settledLocked(r.Err)
		t.mu.Unlock()
		c.inner.Settle(batch, r)
		return
	}
	if err := t.admitLocked(s, &c.change); err != nil {
		s.holds = unknown
		t.mu.Unlock()
		c.inner.Settle(batch, &pool.Result{Meta: r.Meta, Err: err})
		return
	}
	c.committing = true
	t.mu.Unlock()
	kept := keep(r)
	committed := func(b *wire.Batch, err error) { c.committed(b, &kept, err) }
	if now, err := t.cfg.Store.Commit(&c.change, later(committed)); now {
		committed(batch, err)
	}
}

// settledLocked notes what an outcome without changes means for the worker's copy.
func (c *call) settledLocked(err *wire.Error) {
	s := c.session
	switch {
	case err == nil:
		s.started = true
	case err.Code == wire.CodeDeadlineExceeded || err.Code == wire.CodeCancelled || err.Code == wire.CodeWorkerLost:
		// The call may have gone on to its end there: what the worker holds is not known.
		s.holds = unknown
	}
}

// committed ends a commit, and answers the client.
func (c *call) committed(batch *wire.Batch, r *pool.Result, err error) {
	t, s := c.table, c.session
	t.mu.Lock()
	c.committing = false
	switch {
	case s.ended:
		r = &pool.Result{Meta: r.Meta, Err: notFound(s.key)}
	case err != nil:
		s.holds = unknown
		e := wire.FromError(err)
		r = &pool.Result{Meta: r.Meta, Err: wire.Errorf(wire.CodeStorageUnavailable, "the session's change could not be stored: %s", e.Message)}
	default:
		s.apply(&c.change)
		s.holds, s.started = s.version, true
	}
	finished := c.finished
	t.mu.Unlock()
	c.inner.Settle(batch, r)
	if finished {
		c.endTurn(batch)
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
	share := s.started
	t.mu.Unlock()
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
