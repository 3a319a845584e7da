package load

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/wire"
)

// What is timed, and what can fail.
const (
	stepConnect = "connect"
	stepCreate  = "create"
	stepCall    = "call"
	stepEnd     = "end"

	stepFailed = "failed" // calls that failed: how long that took
	stepWaited = "waited" // of calls: in the queue
	stepRan    = "ran"    // of calls: in a worker
)

// tally counts what happens, while it does.
type tally struct {
	mu      *sync.Mutex // guards what follows
	began   time.Time
	over    time.Time // zero while it goes on
	first   time.Time // the first call was sent
	last    time.Time // the last call ended
	cut     bool
	started int
	times   map[string]*hdr.Histogram
	errors  map[failure]*seen
}

// failure is a kind of error: what failed, and with which code.
type failure struct{ step, code string }

type seen struct {
	count   int
	message string // the first one's
}

func newTally() tally {
	t := tally{mu: &sync.Mutex{}, times: map[string]*hdr.Histogram{}, errors: map[failure]*seen{}}
	for _, step := range []string{stepCreate, stepCall, stepEnd, stepFailed, stepWaited, stepRan} {
		t.times[step] = newHistogram()
	}
	return t
}

// newHistogram counts microseconds, to three digits.
func newHistogram() *hdr.Histogram { return hdr.New(1, longest.Microseconds(), 3) }

func (t *tally) begin(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began = now
}

func (t *tally) end(now time.Time, cut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over, t.cut = now, cut
}

func (t *tally) sent(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started++; t.started == 1 {
		t.first = now
	}
}

func (t *tally) took(step string, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tookLocked(step, d)
}

func (t *tally) tookLocked(step string, d time.Duration) {
	h := t.times[step]
	_ = h.RecordValue(min(max(d.Microseconds(), 0), h.HighestTrackableValue())) // in its range: cannot fail
}

func (t *tally) failed(step string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failedLocked(step, err)
}

func (t *tally) failedLocked(step string, err error) {
	e := wire.FromError(err)
	kind := failure{step, string(e.Code)}
	if t.errors[kind] == nil {
		t.errors[kind] = &seen{message: err.Error()}
	}
	t.errors[kind].count++
}

func (t *tally) ended(now time.Time, took time.Duration, meta client.Meta, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = now
	if err != nil {
		t.failedLocked(stepCall, err)
		t.tookLocked(stepFailed, took)
		return
	}
	t.tookLocked(stepCall, took)
	if meta.Queue >= 0 {
		t.tookLocked(stepWaited, meta.Queue)
	}
	if meta.Run >= 0 {
		t.tookLocked(stepRan, meta.Run)
	}
}

// Progress is how far a run is.
type Progress struct {
	Calls, Done, Failed int // planned, and answered so far
	Elapsed             time.Duration
}

// Progress says how far the run is.
func (r *Run) Progress(now time.Time) Progress {
	t := &r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	return Progress{
		Calls: r.plan.total(), Done: int(t.times[stepCall].TotalCount()), Failed: int(t.times[stepFailed].TotalCount()),
		Elapsed: now.Sub(t.began),
	}
}

// Report says what was measured so far.
func (r *Run) Report() *Report {
	t := &r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	out := &Report{
		Method: r.plan.Method, Sessions: r.plan.Sessions, CallsPerSession: r.plan.Calls, Loop: "closed", Rate: r.plan.Rate,
		TimeoutMS: r.plan.Timeout.Milliseconds(), Began: t.began.UTC(), TookMS: millis(t.over.Sub(t.began)), Interrupted: t.cut,
		Calls: t.started, Succeeded: int(t.times[stepCall].TotalCount()), Failed: int(t.times[stepFailed].TotalCount()),
		Errors: []Failure{},
		Call:   summarize(t.times[stepCall]), FailedCall: summarize(t.times[stepFailed]),
		Waited: summarize(t.times[stepWaited]), Ran: summarize(t.times[stepRan]),
		Create: summarize(t.times[stepCreate]), End: summarize(t.times[stepEnd]),
		Histogram: buckets(t.times[stepCall]), Quantiles: quantiles(t.times[stepCall]),
	}
	if r.plan.Rate > 0 {
		out.Loop = "open"
	} else {
		out.InFlight = r.plan.inFlight()
	}
	if busy := t.last.Sub(t.first); busy > 0 {
		out.PerSecond = float64(out.Succeeded) / busy.Seconds()
	}
	for _, kind := range slices.SortedFunc(maps.Keys(t.errors), func(a, b failure) int {
		return strings.Compare(a.step+" "+a.code, b.step+" "+b.code)
	}) {
		out.Errors = append(out.Errors, Failure{kind.step, kind.code, t.errors[kind].count, t.errors[kind].message})
	}
	return out
}
