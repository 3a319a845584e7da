package session

import (
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// ledgerTTL is how long a ledger is kept that nothing needs: longer than a day, whose budgets it counts.
const ledgerTTL = 25 * time.Hour

// ledgerOf is the session that keeps what an owner's calls without a session leave behind, and what the owner spends; it has been told of
// one more call.
func (t *Table) ledgerOf(batch *wire.Batch, owner string) *session {
	t.mu.Lock()
	if s := t.ledgers[owner]; s != nil {
		s.active++
		t.mu.Unlock()
		return s
	}
	t.mu.Unlock()
	s := t.blank(Key{Owner: owner})
	s.ledger, s.stored, s.ttl, s.active = true, true, max(ledgerTTL, t.settings().AnswerTTL), 1
	s.flow = t.newFlow(s)
	if first := t.enterLedger(s); first != s {
		s.flow.Close(batch, notFound(s.key)) // it was never used
		return first
	}
	return s
}

// enterLedger puts a new ledger into the table and the store, and returns the one that is there: another call may have been first.
func (t *Table) enterLedger(s *session) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	owner := s.key.Owner
	if other := t.ledgers[owner]; other != nil {
		other.active++
		return other
	}
	t.lastNumber++
	s.number = t.lastNumber
	t.addLocked(s)
	failed := func(err error) {
		if err != nil {
			t.cfg.Log.Error("an owner's ledger was not stored", "owner", owner, "error", err.Error())
		}
	}
	// Under the lock, so that nothing is committed to it before. What is fails then, too.
	if now, err := t.cfg.Store.Create(s.record(), failed); now {
		failed(err)
	}
	return s
}

// newFlow is the flow of a session's calls.
func (t *Table) newFlow(s *session) *pool.Flow {
	f := t.cfg.Pool.NewFlow(s.key.Owner, !s.ledger)
	if w := t.settings().weightOf(s.labels); w > 1 {
		f.SetWeight(w)
	}
	return f
}

// SubmitFree hands in a call without a session, in a flow of the caller's.
func (t *Table) SubmitFree(batch *wire.Batch, owner string, flow *pool.Flow, c *pool.Call) {
	if t.settings().Budgets.ofOwners() {
		l := t.ledgerOf(batch, owner)
		c.Handler = &call{table: t, session: l, ledger: l, flow: flow, pool: c, inner: c.Handler}
	}
	flow.Submit(batch, c)
}

// ledgerFor is the ledger that a call in a session is counted in; nil where owners have no budget.
func (t *Table) ledgerFor(batch *wire.Batch, owner string) *session {
	if !t.settings().Budgets.ofOwners() {
		return nil
	}
	return t.ledgerOf(batch, owner)
}
