package session_test

import (
	"testing"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
)

// A session has turns by its label, after a restart too.
func TestWeightsByLabel(t *testing.T) {
	b := start(t, func(s *pool.Settings, c *session.Config) {
		s.Size, s.Concurrency = 1, 1
		c.WeightLabel, c.Weights = "tier", map[string]int{"gold": 3}
	})
	for id, tier := range map[string]string{"gold": "gold", "plain": "lead", "busy": ""} {
		if err := b.await(b.creating(id, session.Options{Labels: map[string]string{"tier": tier}})); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		blocker := b.ask("busy", "do", doc{"hold": true})
		h := b.arrival()
		const each = 9
		waiting := map[string][]*asked{}
		for range each {
			for _, id := range []string{"plain", "gold"} {
				waiting[id] = append(waiting[id], b.ask(id, "do", nil))
			}
		}
		close(h.goOn)
		blocker.ok()
		last := 0
		for _, c := range waiting["gold"] {
			last = max(last, c.ok().Call)
		}
		before := 0
		for _, c := range waiting["plain"] {
			if c.ok().Call < last {
				before++
			}
		}
		if before < each/3-1 || before > each/3+1 {
			t.Errorf("%d of %d calls of the plain session came before the last of the other's", before, each)
		}
		b.again()
	}
}
