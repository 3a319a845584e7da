package session

import (
	"math"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/wire"
)

// Budgets limit what calls take; zero: no limit. A day is one of UTC.
type Budgets struct {
	Session    store.Amounts // of one session, as long as it lives
	SessionDay store.Amounts // of one session in a day
	OwnerDay   store.Amounts // of all that one owner calls in a day
}

func (b *Budgets) ofSessions() bool {
	return b.Session != (store.Amounts{}) || b.SessionDay != (store.Amounts{})
}
func (b *Budgets) ofOwners() bool { return b.OwnerDay != (store.Amounts{}) }

const daySeconds = 24 * 60 * 60

// roll lets a new day begin.
func roll(s *store.Spent, now time.Time) {
	if day := now.Unix() / daySeconds; s.Day != day {
		s.Day, s.Today = day, store.Amounts{}
	}
}

func spend(s *store.Spent, a store.Amounts, now time.Time) {
	roll(s, now)
	for _, to := range [...]*store.Amounts{&s.Life, &s.Today} {
		to.Calls += a.Calls
		to.Tokens += a.Tokens
		to.Cost += a.Cost
	}
}

// overBudgetLocked says why a call must not run: what a session, or its owner's ledger, may spend is spent.
func (t *Table) overBudgetLocked(s, ledger *session, b *Budgets) *wire.Error {
	now := time.Now()
	if s != nil && !s.ledger {
		roll(&s.spent, now)
		if err := exceeded("session", &b.Session, &s.spent.Life, time.Time{}); err != nil {
			return err
		}
		if err := exceeded("session_day", &b.SessionDay, &s.spent.Today, now); err != nil {
			return err
		}
	}
	if ledger == nil {
		return nil
	}
	roll(&ledger.spent, now)
	return exceeded("owner_day", &b.OwnerDay, &ledger.spent.Today, now)
}

// countLocked adds to what a call's session and its owner have spent, where that is limited.
func (t *Table) countLocked(c *call, a store.Amounts) {
	now := time.Now()
	if !c.session.ledger && t.settings().Budgets.ofSessions() {
		spend(&c.session.spent, a, now)
	}
	if c.ledger != nil {
		spend(&c.ledger.spent, a, now)
	}
}

// spentLocked is what is to be stored, with a call's own change, of what its session has spent; nil: nothing.
func (t *Table) spentLocked(c *call) *store.Spent {
	if s := c.session; c.ran && (s == c.ledger || !s.ledger && t.settings().Budgets.ofSessions()) {
		spent := s.spent
		return &spent
	}
	return nil
}

// keepSpentLocked has the store note what the owner of a session's call has spent. That is done before the call's own change: operations are
// done in order.
func (t *Table) keepSpentLocked(c *call) {
	if c.ledger == nil || c.ledger == c.session {
		return
	}
	t.commitSpentLocked(c.ledger)
}

// keepLateLocked has the store note what a call took that had its outcome before.
func (t *Table) keepLateLocked(c *call) {
	if t.spentLocked(c) != nil && !c.session.ended {
		t.commitSpentLocked(c.session)
	}
}

func (t *Table) commitSpentLocked(s *session) {
	spent := s.spent
	t.commitAside(&store.Change{Number: s.number, Spent: &spent}, func(err error) {
		t.cfg.Log.Error("what calls have spent was not stored", "owner", s.key.Owner, "error", err.Error())
	})
}

// exceeded holds what was spent against a budget, which renews at the end of now's day, or never.
func exceeded(scope string, limit, spent *store.Amounts, now time.Time) *wire.Error {
	which := ""
	switch {
	case limit.Calls > 0 && spent.Calls >= limit.Calls:
		which = "calls"
	case limit.Tokens > 0 && spent.Tokens >= limit.Tokens:
		which = "tokens"
	case limit.Cost > 0 && spent.Cost >= limit.Cost:
		which = "cost"
	default:
		return nil
	}
	left := map[string]any{}
	if limit.Calls > 0 {
		left["calls"] = max(0, limit.Calls-spent.Calls)
	}
	if limit.Tokens > 0 {
		left["tokens"] = max(0, limit.Tokens-spent.Tokens)
	}
	if limit.Cost > 0 {
		left["cost"] = max(0, limit.Cost-spent.Cost)
	}
	err := wire.Errorf(wire.CodeBudgetExceeded, "the budget of %s is spent (budgets.%s.%s)", which, scope, which).
		With("scope", scope).With("resource", which).With("left", left)
	if now.IsZero() {
		err.Message += "; it does not renew: end the session, and begin another one"
		return err.With("renews_in_ms", nil)
	}
	renews := time.Unix((now.Unix()/daySeconds+1)*daySeconds, 0)
	err.Message += "; it renews at " + renews.UTC().Format(time.RFC3339)
	return err.With("renews_in_ms", renews.Sub(now).Milliseconds())
}

// usageOf reads what a response says that the call's language models took.
func usageOf(u map[string]any) (a store.Amounts) {
	a.Tokens = count(u["total_tokens"])
	if a.Tokens == 0 {
		a.Tokens = count(u["prompt_tokens"]) + count(u["completion_tokens"])
	}
	switch cost := u["cost"].(type) {
	case float64:
		if cost > 0 && !math.IsInf(cost, 1) {
			a.Cost = cost
		}
	case int64:
		a.Cost = max(0, float64(cost))
	}
	return a
}

func count(v any) int64 {
	n, _ := v.(int64)
	return max(0, n)
}
