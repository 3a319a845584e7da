package load

import (
	"math"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what was measured, in the form that `bench --json` prints.
type Report struct {
	Method          string    `json:"method"`
	Sessions        int       `json:"sessions"`
	CallsPerSession int       `json:"calls_per_session"`
	Loop            string    `json:"loop"` // "closed" or "open"
	InFlight        int       `json:"in_flight,omitempty"`
	Rate            float64   `json:"rate,omitempty"`
	TimeoutMS       int64     `json:"timeout_ms"`
	Began           time.Time `json:"began"`
	TookMS          float64   `json:"took_ms"`
	Interrupted     bool      `json:"interrupted"`

	Calls     int       `json:"calls"` // that were sent
	Succeeded int       `json:"succeeded"`
	Failed    int       `json:"failed"`
	PerSecond float64   `json:"per_second"` // that succeeded, from the first one sent to the last one answered
	Errors    []Failure `json:"errors"`

	Call       Summary `json:"call"`        // those that succeeded, from when they were due
	FailedCall Summary `json:"failed_call"` // those that failed
	Waited     Summary `json:"waited"`      // for a worker, as the sidecar says
	Ran        Summary `json:"ran"`         // in a worker, as it says
	Create     Summary `json:"create"`      // of sessions
	End        Summary `json:"end"`

	Histogram []Bucket   `json:"histogram"` // of Call
	Quantiles []Quantile `json:"quantiles"`
}

// Failure is a kind of error and how often it was met.
type Failure struct {
	Step    string `json:"step"` // "connect", "create", "call" or "end"
	Code    string `json:"code"`
	Count   int    `json:"count"`
	Message string `json:"message"` // of the first
}

// Summary is a distribution in a few figures: microseconds, to three digits. All are 0 where Count is.
type Summary struct {
	Count  int64 `json:"count"`
	MeanUS int64 `json:"mean_us"`
	MinUS  int64 `json:"min_us"`
	P50US  int64 `json:"p50_us"`
	P90US  int64 `json:"p90_us"`
	P99US  int64 `json:"p99_us"`
	P999US int64 `json:"p99_9_us"`
	MaxUS  int64 `json:"max_us"`
}

// Bucket counts what took at least FromUS and less than ToUS.
type Bucket struct {
	FromUS int64 `json:"from_us"`
	ToUS   int64 `json:"to_us"`
	Count  int64 `json:"count"`
}

// Quantile says that so many percent took no longer.
type Quantile struct {
	Percent float64 `json:"percent"`
	US      int64   `json:"us"`
}

// OK says whether all that was planned was done.
func (r *Report) OK() bool { return len(r.Errors) == 0 && !r.Interrupted }

func millis(d time.Duration) float64 { return float64(max(d, 0).Microseconds()) / 1000 }

func summarize(h *hdr.Histogram) Summary {
	if h.TotalCount() == 0 {
		return Summary{}
	}
	return Summary{
		Count: h.TotalCount(), MeanUS: int64(math.Round(h.Mean())), MinUS: h.Min(), MaxUS: h.Max(),
		P50US: h.ValueAtPercentile(50), P90US: h.ValueAtPercentile(90), P99US: h.ValueAtPercentile(99), P999US: h.ValueAtPercentile(99.9),
	}
}

// buckets sorts into steps, from the first to the last that is not empty: of 1, 2, 5, 10, … where the times are far apart, else of
// about a fifth.
func buckets(h *hdr.Histogram) []Bucket {
	out := []Bucket{}
	if h.TotalCount() == 0 {
		return out
	}
	leads := []float64{1, 2, 5}
	if h.Max() < 100*h.Min() {
		leads = []float64{1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8}
	}
	bars := h.Distribution()
	next, from := 0, int64(0)
	for decade := 1.0; from <= h.Max(); decade *= 10 {
		for _, lead := range leads {
			b := Bucket{FromUS: from, ToUS: int64(lead * decade)}
			// A value counts at its mean: one of three digits may straddle the edge.
			for ; next < len(bars) && (bars[next].From+bars[next].To)/2 < b.ToUS; next++ {
				b.Count += bars[next].Count
			}
			if b.ToUS > from && (b.Count > 0 || len(out) > 0) {
				out = append(out, b)
			}
			from = b.ToUS
		}
	}
	for out[len(out)-1].Count == 0 {
		out = out[:len(out)-1]
	}
	return out
}

// quantiles are those for a curve, closer together the rarer it gets, as far as there were calls for it.
func quantiles(h *hdr.Histogram) []Quantile {
	out := []Quantile{}
	if h.TotalCount() == 0 {
		return out
	}
	for rest := 100.0; ; rest /= 1.2589254117941673 { // ten steps for each nine
		percent := 100 - rest
		if rest/100*float64(h.TotalCount()) < 1 {
			return append(out, Quantile{100, h.Max()})
		}
		out = append(out, Quantile{percent, h.ValueAtPercentile(percent)})
	}
}
