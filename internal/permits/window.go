package permits

import "time"

// What is counted by the minute is kept by the second: the sum is at least that of the last 60 s, and at most that of 61.
const (
	step  = time.Second
	steps = 61
)

// window counts what happened in the last minute.
type window struct {
	counts [steps]int
	last   int64 // the step that was counted last, since base
	base   time.Time
	sum    int
}

// advance drops what is older than a minute, and returns the present step.
func (w *window) advance(now time.Time) int64 {
	if w.base.IsZero() {
		w.base = now
	}
	at := int64(now.Sub(w.base) / step)
	for ; w.last < at && w.sum > 0; w.last++ {
		i := (w.last + 1) % steps
		w.sum -= w.counts[i]
		w.counts[i] = 0
	}
	w.last = max(w.last, at)
	return at
}

func (w *window) add(now time.Time, n int) {
	at := w.advance(now)
	w.counts[at%steps] += n
	w.sum += n
}

// untilBelow is how long until less than most are in it.
func (w *window) untilBelow(now time.Time, most int) time.Duration {
	at := w.advance(now)
	sum := w.sum
	for i := at + 1; sum >= most; i++ { // the oldest first
		sum -= w.counts[i%steps]
		if sum < most {
			return w.base.Add(time.Duration(i) * step).Sub(now)
		}
	}
	return 0
}
