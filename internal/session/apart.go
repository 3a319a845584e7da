package session

import (
	"bytes"
	"maps"
	"slices"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// apart is a call that takes no turn in its session while it runs: it gets the session's state as it was when it began, and what it changed is
// committed at its end, in a turn of its own. A key that others changed meanwhile is not overwritten: then nothing is committed, and the call fails.
type apart struct {
	call
	state, secrets map[string][]byte // as they were when it began; guarded by Table.mu
}

// SubmitApart hands in a call of the session that is not to hold up its others, in a flow of the caller's and of any pool. Where the session ends, the
// flow is closed.
func (t *Table) SubmitApart(batch *wire.Batch, key Key, payer string, flow *pool.Flow, c *pool.Call) error {
	s, err := t.use(batch, key, payer)
	if err != nil {
		return err
	}
	ledger, refused := t.ledgerFor(batch, payer)
	if refused != nil {
		t.leave(s)
		return refused
	}
	a := &apart{call: call{table: t, session: s, flow: flow, pool: c, inner: c.Handler, ledger: ledger}}
	c.Handler, c.Meta.Session = a, s.id
	t.mu.Lock()
	s.apart = append(s.apart, a)
	ended := s.ended
	t.mu.Unlock()
	if ended { // who ends it may have passed this one by
		flow.Close(batch, notFound(key))
	}
	flow.Submit(batch, c)
	return nil
}

// closeApart ends the calls of a session that has ended which are not in its flow.
func (t *Table) closeApart(batch *wire.Batch, s *session) {
	t.mu.Lock()
	all := slices.Clone(s.apart)
	t.mu.Unlock()
	for _, a := range all {
		a.flow.Close(batch, notFound(s.key))
	}
}

// Dispatch hands the worker, which is a new one, the whole state.
func (a *apart) Dispatch(to *pool.Target, meta *wire.RequestMeta) *wire.Error {
	t, s := a.table, a.session
	if err := a.inner.Dispatch(to, meta); err != nil {
		return err
	}
	t.mu.Lock()
	if err := a.beginLocked(); err != nil {
		t.mu.Unlock()
		return err
	}
	a.maxFrame = to.MaxFrame()
	a.state, a.secrets = maps.Clone(s.state), maps.Clone(s.secrets)
	a.change, a.changed, a.size = store.Change{Number: s.number}, false, 0
	meta.Session, meta.Key, meta.Version = s.id, s.number, s.version
	if !to.ReadOnly() {
		t.lastVersion++
		meta.Next = t.lastVersion
		a.change.Version = meta.Next // the session's is another one: see turn.run
	}
	restore := s.lacksLocked(0)
	empty := s.version == 0 && len(s.lost) == 0
	t.mu.Unlock()
	if empty {
		return nil
	}
	for _, part := range restore.parts(to.MaxFrame()) {
		to.Request("session.restore", part)
	}
	return nil
}

// Settle commits what the call changed, and passes its outcome on when that is in force.
func (a *apart) Settle(batch *wire.Batch, r *pool.Result) {
	t, s := a.table, a.session
	t.mu.Lock()
	a.spentLocked(r.Meta.Usage)
	commit := r.Err == nil && a.changed
	var refused *wire.Error
	if commit {
		refused = a.admitLocked(&a.change)
	}
	a.committing = commit && refused == nil
	t.mu.Unlock()
	if refused != nil {
		r = &pool.Result{Meta: r.Meta, Err: refused}
	}
	if !a.committing {
		a.inner.Settle(batch, r)
		return
	}
	kept := keep(r)
	u := &turn{table: t, session: s, method: "session.update", change: a.change, refuse: a.conflictLocked}
	u.call.Nested = true // a drain waits for the call that it is the end of
	u.done = func(b *wire.Batch, _ uint64, err error) { a.committed(b, &kept, err) }
	t.mu.Lock()
	s.active++
	t.mu.Unlock()
	u.submit(batch, a.pool.Deadline)
}

// conflictLocked says which of the keys that the call changed others changed meanwhile.
func (a *apart) conflictLocked() *wire.Error {
	s := a.session
	other := func(k string) bool {
		return !bytes.Equal(a.state[k], s.state[k]) || !bytes.Equal(a.secrets[k], s.secrets[k])
	}
	var keys []string
	for _, k := range slices.Concat(slices.Collect(maps.Keys(a.change.Set)), slices.Collect(maps.Keys(a.change.Secrets)), a.change.Delete) {
		if other(k) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.Sort(keys)
	err := wire.Errorf(wire.CodeSessionBusy, "other calls changed %q in the session while this one ran: nothing of what it changed is committed", keys[0]).
		With("keys", keys)
	err.Retryable = false // it has run
	return err
}

// committed passes the outcome on.
func (a *apart) committed(batch *wire.Batch, r *pool.Result, err error) {
	if err != nil {
		r = &pool.Result{Meta: r.Meta, Err: wire.FromError(err)}
	}
	a.inner.Settle(batch, r)
	a.table.mu.Lock()
	a.committing = false
	finished := a.finished
	a.table.mu.Unlock()
	if finished {
		a.end(batch)
	}
}

// Finish lets the session go, unless the commit is still under way.
func (a *apart) Finish(batch *wire.Batch, usage []byte) {
	a.table.mu.Lock()
	a.finished = true
	if usage != nil {
		a.spentLocked(usage)
	}
	committing := a.committing
	a.table.mu.Unlock()
	if !committing {
		a.end(batch)
	}
}

func (a *apart) end(batch *wire.Batch) {
	t, s := a.table, a.session
	t.mu.Lock()
	s.apart = slices.DeleteFunc(s.apart, func(other *apart) bool { return other == a })
	t.leaveLocked(s)
	if a.ledger != nil {
		t.leaveLocked(a.ledger)
	}
	t.mu.Unlock()
	a.inner.Finish(batch, nil)
}
