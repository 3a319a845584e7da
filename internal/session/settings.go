package session

import (
	"maps"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
)

// Settings are what an operator chooses for sessions. They are not changed once they are in force: Apply puts others in their place.
type Settings struct {
	TTL        time.Duration // since the last use
	MaxAge     time.Duration // since the creation; 0: none
	Max        int           // sessions
	MaxState   int           // bytes of one session: its state and the answers kept for it
	MaxTotal   int           // bytes of all sessions; 0: no limit
	AutoCreate bool          // a call in an unknown session makes it
	AnswerTTL  time.Duration // how long the answer to a call with an idempotency key is kept
	Budgets    Budgets

	// The weight of a session in the queue, from 1 to 100, is chosen by the value of this label; it is 1 where nothing is.
	WeightLabel string
	Weights     map[string]int
}

// settings are those in force.
func (t *Table) settings() *Settings { return t.now.Load() }

// Apply puts settings in force. Sessions that are there keep their own limits of time, and may stay over the others until they end; answers that are kept stay as long as was
// said when they were given.
func (t *Table) Apply(s Settings) {
	before := t.now.Swap(&s)
	if before.WeightLabel == s.WeightLabel && maps.Equal(before.Weights, s.Weights) {
		return
	}
	type weighed struct {
		flow   *pool.Flow
		weight int
	}
	t.mu.Lock()
	flows := make([]weighed, 0, len(t.sessions))
	for _, one := range t.sessions {
		flows = append(flows, weighed{one.flow, s.weightOf(one.labels)})
	}
	t.mu.Unlock()
	for _, f := range flows { // the pool's lock comes before the table's
		f.flow.SetWeight(f.weight)
	}
}

// weightOf is a session's weight by its labels.
func (s *Settings) weightOf(labels map[string]string) int {
	return max(1, s.Weights[labels[s.WeightLabel]])
}
