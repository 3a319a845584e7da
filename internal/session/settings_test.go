package session_test

import (
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/wire"
)

// Settings that are put in force count for what comes after that, and end nothing.
func TestApply(t *testing.T) {
	b := start(t)
	b.create("a", doc{"x": make([]byte, 2000)})
	b.create("b", nil)
	s := session.Settings{
		TTL: 2 * time.Hour, Max: 1, MaxState: 1000, AnswerTTL: time.Hour, AutoCreate: true,
		Budgets: session.Budgets{Session: store.Amounts{Calls: 1}}, WeightLabel: "tier", Weights: map[string]int{"gold": 4},
	}
	b.table.Apply(s)
	b.ask("c", "do", nil).refused(wire.CodeSessionLimit) // it would have been made
	b.ask("a", "do", nil).ok()
	b.ask("a", "do", nil).refused(wire.CodeBudgetExceeded)
	if info, state := b.get("a"); info.TTL != time.Hour || len(state) != 1 {
		t.Errorf("what was there: %+v, %v", info, state)
	}
	s.Max, s.MaxState, s.Budgets = 3, maxState, session.Budgets{}
	b.table.Apply(s)
	b.ask("c", "do", nil).ok()
	b.ask("a", "do", nil).ok()
	if info, _ := b.get("c"); info.TTL != 2*time.Hour {
		t.Errorf("what is new: %+v", info)
	}
}
