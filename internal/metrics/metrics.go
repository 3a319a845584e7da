package metrics

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
)

// Counter only rises.
type Counter = vm.Counter

// Histogram counts values by size.
type Histogram = vm.PrometheusHistogram

const (
	// mostMethods bounds the values of the label "method".
	mostMethods = 500
	// other stands for what has no label of its own.
	other = "other"
)

// Metrics is one set of metrics. Make it with New.
type Metrics struct {
	set   *vm.Set
	codes map[string]struct{}

	Received, Sent, Items   *Counter
	CommitsOK, CommitFailed *Counter
	EventsLost              *Counter
	Queue, Restore, Commit  *Histogram
	App                     *App

	methods atomic.Pointer[map[string]*Method]
	others  *Method

	mu sync.Mutex // guards making methods
}

// New makes a set in which nothing has been counted. codes are those that calls are answered with; others count as "other".
func New(codes ...string) *Metrics {
	s := vm.NewSet()
	m := &Metrics{
		set: s, codes: make(map[string]struct{}, len(codes)),
		Received: s.NewCounter("dspex_received_bytes_total"), Sent: s.NewCounter("dspex_sent_bytes_total"),
		Items: s.NewCounter("dspex_stream_items_total"), EventsLost: s.NewCounter("dspex_events_lost_total"),
		CommitsOK: s.NewCounter(`dspex_commits_total{result="ok"}`), CommitFailed: s.NewCounter(`dspex_commits_total{result="failed"}`),
		Queue:   s.NewPrometheusHistogramExt("dspex_call_queue_seconds", buckets()),
		Restore: s.NewPrometheusHistogramExt("dspex_restore_seconds", buckets()),
		Commit:  s.NewPrometheusHistogramExt("dspex_commit_seconds", buckets()),
	}
	m.App = newApp(s.NewCounter("dspex_app_samples_dropped_total"))
	for _, code := range codes {
		m.codes[code] = struct{}{}
	}
	for _, result := range []string{"ok", "unchanged", "refused", "failed"} { // what increases is seen from 0 on alone
		m.Reload(result)
	}
	m.methods.Store(&map[string]*Method{})
	m.others = m.newMethod(other)
	return m
}

// buckets are in seconds: from a call that does nothing to an agent that takes minutes.
func buckets() []float64 {
	return []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}
}

// Method counts the calls of one method.
type Method struct {
	metrics *Metrics
	name    string
	ok      *Counter
	run     atomic.Pointer[Histogram] // nil: none ran

	mu     sync.Mutex // guards what follows
	failed map[string]*Counter
}

func (m *Metrics) newMethod(name string) *Method {
	return &Method{
		metrics: m, name: name, ok: m.set.NewCounter(fmt.Sprintf(`dspex_calls_total{method=%q,code="ok"}`, name)),
		failed: make(map[string]*Counter),
	}
}

// Name is the method's, or "other".
func (d *Method) Name() string { return d.name }

// Find is the method of that name, if it was added. It does not hold on to name, and allocates nothing.
func (m *Metrics) Find(name []byte) *Method { return (*m.methods.Load())[string(name)] }

// Other counts the calls of methods that there are not.
func (m *Metrics) Other() *Method { return m.others }

// Add is the method of that name, made where there is none: for names that an application, or the sidecar, has. Where there are too many it is
// Other.
func (m *Metrics) Add(name string) *Method {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := *m.methods.Load()
	if found := now[name]; found != nil {
		return found
	}
	if len(now) >= mostMethods || name == other {
		return m.others
	}
	next := maps.Clone(now)
	next[name] = m.newMethod(name)
	m.methods.Store(&next)
	return next[name]
}

// ran is made when the first call ran: the sidecar's own never do.
func (d *Method) ran() *Histogram {
	if h := d.run.Load(); h != nil {
		return h
	}
	d.run.Store(d.metrics.set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf("dspex_call_run_seconds{method=%q}", d.name), buckets()))
	return d.run.Load()
}

// Done counts a call that was answered, with an error's code or with none. Times below zero are not known.
func (d *Method) Done(code string, queue, run time.Duration) {
	if queue >= 0 {
		d.metrics.Queue.Update(queue.Seconds())
	}
	if run >= 0 {
		d.ran().Update(run.Seconds())
	}
	if code == "" {
		d.ok.Inc()
		return
	}
	if _, known := d.metrics.codes[code]; !known {
		code = other
	}
	d.mu.Lock()
	c := d.failed[code]
	if c == nil {
		c = d.metrics.set.NewCounter(fmt.Sprintf("dspex_calls_total{method=%q,code=%q}", d.name, code))
		d.failed[code] = c
	}
	d.mu.Unlock()
	c.Inc()
}

// WorkerStarts counts the workers of a pool that were started.
func (m *Metrics) WorkerStarts(pool string) *Counter {
	return m.set.GetOrCreateCounter(fmt.Sprintf("dspex_worker_starts_total{pool=%q}", pool))
}

// WorkerEnds counts those that ended for a reason: one of those of dspex_worker_ends_total.
func (m *Metrics) WorkerEnds(pool, reason string) *Counter {
	return m.set.GetOrCreateCounter(fmt.Sprintf("dspex_worker_ends_total{pool=%q,reason=%q}", pool, reason))
}

// RunEnds counts the runs that ended in a state: one of those of dspex_runs_ended_total.
func (m *Metrics) RunEnds(state string) *Counter {
	return m.set.GetOrCreateCounter(fmt.Sprintf("dspex_runs_ended_total{state=%q}", state))
}

// Reload counts the reloads of a result: one of those of dspex_reloads_total.
func (m *Metrics) Reload(result string) *Counter {
	return m.set.GetOrCreateCounter(fmt.Sprintf("dspex_reloads_total{result=%q}", result))
}

// PermitWaited counts a request to a limited model that has been let through after so long.
func (m *Metrics) PermitWaited(model string, waited time.Duration) {
	m.set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf("dspex_lm_wait_seconds{model=%q}", model), buckets()).Update(waited.Seconds())
}
