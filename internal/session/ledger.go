package session

import (
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// ledgerTTL is how long a ledger is kept that nothing needs: longer than a day, whose budgets it counts.
const ledgerTTL = 25 * time.Hour

// ledgerOf is the session that keeps what the calls of a payer leave behind that are in no session, and what all its calls spend; it has been told of
// one more call.
func (t *Table) ledgerOf(batch *wire.Batch, payer string) (*session, *wire.Error) {
	t.mu.Lock()
	if s := t.ledgers[payer]; s != nil {
		s.active++
		t.mu.Unlock()
		return s, nil
	}
	t.mu.Unlock()
	s := t.blank(Key{Owner: payer})
	s.payer = payer
	s.ledger, s.stored, s.ttl, s.active = true, true, max(ledgerTTL, t.settings().AnswerTTL), 1
	s.flow = t.newFlow(s)
	in, err := t.enterLedger(s)
	if in != s {
		s.flow.Close(batch, notFound(s.key)) // it was never used
	}
	return in, err
}

// enterLedger puts a new ledger into the table and the store, and returns the one that is there: another call may have been first.
func (t *Table) enterLedger(s *session) (*session, *wire.Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.ledgers[s.payer]; other != nil {
		other.active++
		return other, nil
	}
	t.lastNumber++
	s.number = t.lastNumber
	// Under the lock, so that nothing is committed to it before.
	if now, err := t.cfg.Store.Create(s.record(), func(err error) { t.ledgerStored(s, err) }); now && err != nil {
		return nil, notStored(err)
	}
	t.addLocked(s)
	return s, nil
}

// ledgerStored takes a ledger out again that could not be stored: what is committed to it fails, and the next call makes another.
func (t *Table) ledgerStored(s *session, err error) {
	if err == nil {
		return
	}
	t.mu.Lock()
	if !s.ended {
		t.removeLocked(s)
	}
	t.mu.Unlock()
	var batch wire.Batch
	s.flow.Close(&batch, notStored(err))
	batch.Flush()
}

// newFlow is the flow of a session's calls. Turns are shared between payers first: an owner may be a token, which anybody can make up.
func (t *Table) newFlow(s *session) *pool.Flow {
	f := t.cfg.Pool.NewFlow(s.payer, !s.ledger)
	if w := t.settings().weightOf(s.labels); w > 1 {
		f.SetWeight(w)
	}
	return f
}

// SubmitFree hands in a call without a session, in a flow of the caller's.
func (t *Table) SubmitFree(batch *wire.Batch, payer string, flow *pool.Flow, c *pool.Call) error {
	if t.settings().Budgets.ofOwners() {
		l, err := t.ledgerOf(batch, payer)
		if err != nil {
			return err
		}
		c.Handler = &call{table: t, session: l, ledger: l, flow: flow, pool: c, inner: c.Handler}
	}
	flow.Submit(batch, c)
	return nil
}

// ledgerFor is the ledger that a call in a session is counted in; nil where payers have no budget.
func (t *Table) ledgerFor(batch *wire.Batch, payer string) (*session, *wire.Error) {
	if !t.settings().Budgets.ofOwners() {
		return nil, nil
	}
	return t.ledgerOf(batch, payer)
}
