package permits

import (
	"testing"
	"time"
)

// What the sidecar spends on a permit, beside its frames.
func BenchmarkPermit(b *testing.B) {
	table := limited(Limits{Concurrency: 100, RequestsPerMinute: 1 << 30, TokensPerMinute: 1 << 40})
	answer := func(time.Duration, error) {}
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		n++
		table.Ask(Ask{ID: ID{"w", n}, Model: "m", Share: "a", Left: -1}, answer)
		table.Done(ID{"w", n}, Report{Tokens: 12})
	}
}
