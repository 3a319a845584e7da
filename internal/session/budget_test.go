package session_test

import (
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

func budgets(b session.Budgets) option {
	return func(_ *pool.Settings, c *session.Config) { c.Budgets = b }
}

// free makes a call without a session.
func (b *rig) free(params doc) *asked {
	b.t.Helper()
	a := &asked{t: b.t, settled: make(chan pool.Result, 1), ended: make(chan struct{})}
	a.Call = pool.Call{Method: []byte("do"), Params: b.encode(orEmpty(params)), Owned: true, Handler: a}
	flow := b.pool.NewFlow(me, false)
	var batch wire.Batch
	if err := b.table.SubmitFree(&batch, me, flow, &a.Call); err != nil {
		a.settled <- pool.Result{Err: wire.FromError(err)}
		close(a.ended)
	}
	batch.Flush()
	return a
}

func TestBudgetOfCalls(t *testing.T) {
	b := start(t, budgets(session.Budgets{Session: store.Amounts{Calls: 2}}))
	b.create("a", nil)
	b.create("b", nil)
	b.ask("a", "do", doc{"fail": true}).refused(wire.CodeProgramError) // a call, too
	b.put("a", doc{"x": 1})
	e := b.ask("a", "do", nil).failure(wire.CodeBudgetExceeded)
	left, _ := e.Details["left"].(map[string]any)
	if e.Details["scope"] != "session" || e.Details["resource"] != "calls" || left["calls"] != int64(0) || e.Details["renews_in_ms"] != nil {
		t.Errorf("%+v", e)
	}
	b.put("b", nil) // has its own
	b.free(nil).ok()
	b.again()
	b.ask("a", "do", nil).refused(wire.CodeBudgetExceeded)
	if info, _ := b.get("a"); info.Spent.Life.Calls != 2 {
		t.Errorf("%+v", info.Spent)
	}
	if n := b.calls.Load(); n != 0 {
		t.Errorf("%d calls ran that had no budget", n)
	}
}

func TestBudgetOfTokensAndCost(t *testing.T) {
	for resource, limit := range map[string]store.Amounts{"tokens": {Tokens: 100}, "cost": {Cost: 0.5}} {
		b := start(t, budgets(session.Budgets{SessionDay: limit}))
		b.create("a", nil)
		b.ask("a", "do", doc{"usage": doc{"prompt_tokens": 60, "completion_tokens": 39, "cost": 0.4}}).ok()
		b.ask("a", "do", doc{"fail": true, "usage": doc{"total_tokens": 1, "cost": 0.1}}).refused(wire.CodeProgramError)
		e := b.ask("a", "do", nil).failure(wire.CodeBudgetExceeded)
		renews, _ := e.Details["renews_in_ms"].(int64)
		if e.Details["resource"] != resource || e.Details["scope"] != "session_day" || renews < 1 || renews > 24*time.Hour.Milliseconds() {
			t.Errorf("%+v", e)
		}
		b.again()
		b.ask("a", "do", nil).refused(wire.CodeBudgetExceeded)
	}
}

// An owner's budget counts calls in all sessions and in none.
func TestBudgetOfAnOwner(t *testing.T) {
	b := start(t, budgets(session.Budgets{OwnerDay: store.Amounts{Calls: 3}}))
	b.create("a", nil)
	b.create("b", nil)
	b.put("a", nil)
	b.put("b", nil)
	b.free(nil).ok()
	b.free(nil).refused(wire.CodeBudgetExceeded)
	b.once("", "do", "k", nil).refused(wire.CodeBudgetExceeded)
	b.again()
	if e := b.ask("a", "do", nil).failure(wire.CodeBudgetExceeded); e.Details["scope"] != "owner_day" {
		t.Errorf("%+v", e)
	}
	if n := b.table.Len(); n != 2 {
		t.Errorf("the owner's ledger counts as a session: %d", n)
	}
	if list, _ := b.table.List(session.Query{All: true, Limit: 10}); len(list) != 2 {
		t.Errorf("the owner's ledger is listed: %+v", list)
	}
}

// A refused call does not hold up those behind it, and the budget is checked when the turn comes, not when the call does.
func TestBudgetIsCheckedAtTheDispatch(t *testing.T) {
	b := start(t, budgets(session.Budgets{Session: store.Amounts{Tokens: 10}}))
	b.create("a", nil)
	first := b.ask("a", "do", doc{"hold": true, "usage": doc{"total_tokens": 10}})
	h := b.arrival()
	waiting := []*asked{b.ask("a", "do", nil), b.ask("a", "do", nil), b.ask("a", "do", nil)}
	close(h.goOn)
	first.ok()
	for _, w := range waiting {
		w.refused(wire.CodeBudgetExceeded)
	}
}

// What a call used is counted when its worker tells it, though its client had its answer before: at its deadline, say, or when the session ended.
func TestLateUsageCounts(t *testing.T) {
	for _, ends := range []bool{false, true} {
		b := start(t, budgets(session.Budgets{SessionDay: store.Amounts{Tokens: 100}, OwnerDay: store.Amounts{Tokens: 100}}),
			func(s *pool.Settings, _ *session.Config) { s.StopReport = time.Nanosecond })
		b.create("a", nil)
		c := b.ask("a", "do", doc{"hold": true, "usage": doc{"total_tokens": 100}})
		h := b.arrival()
		if ends {
			b.end("a")
			c.refused(wire.CodeSessionNotFound)
		} else {
			var batch wire.Batch
			b.pool.Cancel(&batch, &c.Call, wire.Errorf(wire.CodeCancelled, "enough"))
			batch.Flush()
			c.refused(wire.CodeCancelled)
		}
		close(h.goOn)
		<-c.ended
		b.create("b", nil)
		b.ask("b", "do", nil).refused(wire.CodeBudgetExceeded)
		b.again()
		b.ask("b", "do", nil).refused(wire.CodeBudgetExceeded)
	}
}
