package main

import (
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// tally is what one connection saw.
type tally struct {
	took, at       []time.Duration // of each call that was answered: how long, and when since the start
	failed         map[wire.Code]int
	failedSlowest  time.Duration
	items          int
	firstItemsTook []time.Duration
}

func (t *tally) answer(at, took time.Duration, code wire.Code) {
	if code == "" {
		t.took, t.at = append(t.took, took), append(t.at, at)
		return
	}
	if t.failed == nil {
		t.failed = make(map[wire.Code]int)
	}
	t.failed[code]++
	t.failedSlowest = max(t.failedSlowest, took)
}

func (t *tally) item(took time.Duration, first bool) {
	t.items++
	if first {
		t.firstItemsTook = append(t.firstItemsTook, took)
	}
}

const bucket = 10 * time.Millisecond

// sum is what is printed. gap_us is the longest time in which no answer came.
func sum(s *settings, tallies []tally, start time.Time, elapsed time.Duration) map[string]any {
	var all tally
	failed := make(map[wire.Code]int)
	for _, t := range tallies {
		all.took, all.at = append(all.took, t.took...), append(all.at, t.at...)
		all.firstItemsTook = append(all.firstItemsTook, t.firstItemsTook...)
		all.items += t.items
		all.failedSlowest = max(all.failedSlowest, t.failedSlowest)
		for code, n := range t.failed {
			failed[code] += n
		}
	}
	slices.Sort(all.took)
	slices.Sort(all.at)
	gap, last := time.Duration(0), time.Duration(0)
	buckets := make([]int, elapsed/bucket+1)
	for _, at := range all.at {
		gap, last = max(gap, at-last), at
		buckets[at/bucket]++
	}
	seconds, calls := elapsed.Seconds(), len(all.took)
	found := map[string]any{
		"calls": calls, "per_second": float64(calls) / seconds, "began_ns": start.UnixNano(),
		"p50_us": quantile(all.took, 0.5), "p99_us": quantile(all.took, 0.99), "max_us": quantile(all.took, 1),
		"gap_us": micros(gap), "failed": failed, "failed_max_us": micros(all.failedSlowest),
	}
	if all.items > 0 {
		slices.Sort(all.firstItemsTook)
		found["items_per_second"], found["first_us"] = float64(all.items)/seconds, quantile(all.firstItemsTook, 0.5)
	}
	if s.timeline {
		found["timeline"] = buckets
	}
	return found
}

func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return micros(sorted[int(q*float64(len(sorted)-1))])
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
