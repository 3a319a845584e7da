package pool_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/internal/closed"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// long is a time limit that no test reaches; patience is when a test gives up.
const (
	long     = time.Minute
	patience = 30 * time.Second
)

// rig is a pool over workers that do what the test says: they hand each request to the test, which answers it.
type rig struct {
	tb       testing.TB
	pool     *pool.Pool
	starter  *pooltest.Starter
	flow     *pool.Flow // of an owner "main"
	settings pool.Settings
	metrics  *metrics.Metrics
	jobs     chan *job // requests that arrived at workers and are not answered
	closing  sync.Once

	mu      sync.Mutex // guards what follows
	open    map[jobKey]*job
	cancels int
}

type jobKey struct {
	worker string
	id     uint64
}

// job is a request at a worker.
type job struct {
	rig *rig
	w   *pooltest.Worker
	m   wiretest.Message
}

// setup is what a test may change before the pool is made.
type setup struct {
	pool.Settings
	starter *pooltest.Starter
	hello   func(string) ([]byte, error)
}

func methods() []pooltest.Method {
	return []pooltest.Method{
		pooltest.Plain("run"),                        // waits for the test
		pooltest.Plain("stubborn"),                   // likewise, and ignores cancels
		pooltest.Plain("echo"),                       // answers at once
		pooltest.Plain("safe").With("retry", "safe"), // waits, and may be run again
		pooltest.Plain("look").With("read_only", true),
		pooltest.Plain("items").With("stream", "required").With("retry", "safe"),
		pooltest.Plain("inside").With("session", "required"),
	}
}

func start(tb testing.TB, options ...func(*setup)) *rig {
	tb.Helper()
	r := &rig{tb: tb, metrics: metrics.New(), jobs: make(chan *job, 1<<16), open: map[jobKey]*job{}}
	r.starter = &pooltest.Starter{TB: tb, Methods: methods(), Handle: r.handle}
	s := &setup{
		Settings: pool.Settings{
			Size: 1, Concurrency: 1, CheckoutTimeout: long, QueueLimit: 1000, HealthInterval: long, HealthTimeout: long,
			StartTimeout: long, CancelGrace: long, Pinning: pool.PinStrict, SoftWait: long, OverflowIdle: long,
		},
		starter: r.starter,
		hello:   func(string) ([]byte, error) { return wire.Marshal(map[string]any{}) },
	}
	for _, o := range options {
		o(s)
	}
	var err error
	r.settings = s.Settings
	r.pool, err = pool.New(pool.Config{Name: "test", Settings: s.Settings, Starter: r.starter, Hello: s.hello, Metrics: r.metrics})
	if err != nil {
		tb.Fatal(err)
	}
	r.flow = r.pool.NewFlow("main", false)
	tb.Cleanup(func() { r.close(0) })
	return r
}

// ready is start, and waits for the workers.
func ready(tb testing.TB, options ...func(*setup)) *rig {
	tb.Helper()
	r := start(tb, options...)
	if err := r.pool.Ready(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return r
}

// close closes the pool within a limit. Only the first time counts.
func (r *rig) close(limit time.Duration) {
	r.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.tb.Context()), limit)
		defer cancel()
		r.pool.Close(ctx)
		r.starter.Close()
	})
}

// handle is what the workers do with a frame.
func (r *rig) handle(w *pooltest.Worker, m wiretest.Message) {
	j := &job{rig: r, w: w, m: m}
	switch {
	case m.Kind == wire.KindRequest && m.Method == "echo":
		w.Answer(m, m.Payload)
	case m.Kind == wire.KindRequest:
		r.mu.Lock()
		r.open[j.key()] = j
		r.mu.Unlock()
		r.jobs <- j
	case m.Kind == wire.KindCancel:
		r.mu.Lock()
		r.cancels++
		open := r.open[j.key()]
		r.mu.Unlock()
		if open != nil && open.m.Method != "stubborn" {
			open.refuse(wire.Errorf(wire.CodeCancelled, "stopped").With("ended_by", "task"))
		}
	}
}

func (j *job) key() jobKey { return jobKey{j.w.Name, j.m.ID} }

// take says whether the job is still to be answered, and that it will be.
func (j *job) take() bool {
	j.rig.mu.Lock()
	defer j.rig.mu.Unlock()
	_, open := j.rig.open[j.key()]
	delete(j.rig.open, j.key())
	return open
}

func (j *job) answer(result any) {
	if j.take() {
		j.w.Answer(j.m, result)
	}
}

func (j *job) refuse(e *wire.Error) {
	if j.take() {
		j.w.Refuse(j.m, e)
	}
}

// value is the parameter that tells calls apart.
func (j *job) value() any {
	params, _ := j.m.Payload.(map[string]any)
	return params["value"]
}

// next is the next request that arrives at a worker.
func (r *rig) next() *job {
	r.tb.Helper()
	select {
	case j := <-r.jobs:
		return j
	case <-time.After(patience):
		r.tb.Fatal("no request arrived at a worker")
	}
	return nil
}

// idle fails the test where a request arrives at a worker that should not have. It waits for nothing: who calls it has seen
// the pool do something later.
func (r *rig) idle() {
	r.tb.Helper()
	select {
	case j := <-r.jobs:
		r.tb.Fatalf("%s came to %s", j.m.Method, j.w.Name)
	default:
	}
}

func (r *rig) cancelled() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cancels
}

// await polls a condition that nothing announces.
func await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			tb.Fatalf("it never came: %s", what)
		}
	}
}

// call is a call, and its handler, that writes down what it is told.
type call struct {
	pool.Call
	tb      testing.TB
	in      *pool.Flow
	refusal *wire.Error // what Dispatch returns, after it has let so many sends pass
	sends   int
	ahead   bool          // each send has a request ahead of it
	keep    bool          // the turn does not end with Finish
	settled chan struct{} // closed when there is an outcome
	ended   chan struct{} // closed when no worker works on it
	during  func()        // called in Settle; nil: nothing is

	mu       sync.Mutex // guards what follows
	err      *wire.Error
	meta     wire.ResponseMeta
	result   []byte
	items    int
	workers  []*pool.Worker // that it was sent to
	again    []bool
	reads    []bool
	asks     []*pool.Ask
	settles  int
	at       time.Time // settled
	finishes int
	late     []byte // usage
}

func newCall(tb testing.TB, method string, value any) *call {
	tb.Helper()
	params, err := wire.Marshal(map[string]any{"value": value})
	if err != nil {
		tb.Fatal(err)
	}
	c := &call{tb: tb, settled: make(chan struct{}), ended: make(chan struct{})}
	c.Method, c.Params, c.Owned, c.Handler = []byte(method), params, true, c
	return c
}

// submit makes a call of a flow.
func (r *rig) submit(f *pool.Flow, method string, value any, change ...func(*call)) *call {
	r.tb.Helper()
	c := newCall(r.tb, method, value)
	for _, do := range change {
		do(c)
	}
	c.in = f
	var batch wire.Batch
	f.Submit(&batch, &c.Call)
	batch.Flush()
	return c
}

// run makes a call of the rig's own flow.
func (r *rig) run(method string, value any, change ...func(*call)) *call {
	r.tb.Helper()
	return r.submit(r.flow, method, value, change...)
}

// within gives a call a deadline.
func within(d time.Duration) func(*call) {
	return func(c *call) { c.Deadline = time.Now().Add(d) }
}

func (c *call) Dispatch(to *pool.Target, _ *wire.RequestMeta) *wire.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusal != nil && len(c.workers) == c.sends {
		return c.refusal
	}
	if c.ahead {
		to.Request("restore", c.Params)
	}
	c.workers, c.again, c.reads = append(c.workers, to.Worker()), append(c.again, to.Again), append(c.reads, to.ReadOnly())
	return nil
}

func (c *call) Item(*wire.Batch, []byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items++
}

func (c *call) Change([]byte) error { return nil }

func (c *call) Ask(_ *wire.Batch, ask *pool.Ask) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asks = append(c.asks, ask)
}

func (c *call) Settle(_ *wire.Batch, r *pool.Result) {
	if c.during != nil {
		c.during()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.settles++; c.settles > 1 {
		c.tb.Errorf("%s settled again, with %v", c.Method, r.Err)
		return
	}
	c.at = time.Now()
	c.err, c.meta, c.result = r.Err, r.Meta, append([]byte(nil), r.Payload...)
	c.meta.Usage = bytes.Clone(r.Meta.Usage)
	close(c.settled)
}

func (c *call) Finish(batch *wire.Batch, usage []byte) {
	c.mu.Lock()
	c.finishes++
	c.late = bytes.Clone(usage)
	again := c.finishes > 1
	c.mu.Unlock()
	if again {
		c.tb.Errorf("%s finished again", c.Method)
		return
	}
	if !c.isSettled() {
		c.tb.Errorf("%s finished, and Settle has not returned", c.Method)
	}
	close(c.ended)
	if !c.keep {
		c.endTurn(batch)
	}
}

// endTurn ends the turn; where the call's flow has no turns that means nothing.
func (c *call) endTurn(batch *wire.Batch) { c.in.EndTurn(batch, &c.Call) }

func (c *call) wait(done chan struct{}, what string) {
	c.tb.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		c.tb.Fatalf("%s was never %s", c.Method, what)
	}
}

// ok waits for a result.
func (c *call) ok() {
	c.tb.Helper()
	c.wait(c.settled, "settled")
	if c.err != nil {
		c.tb.Fatalf("%s: %v (%v)", c.Method, c.err, c.err.Details)
	}
	c.wait(c.ended, "finished")
}

// fails waits for an error of that code.
func (c *call) fails(code wire.Code) {
	c.tb.Helper()
	_ = c.failed(code)
}

// failed is fails, and returns the error.
func (c *call) failed(code wire.Code) *wire.Error {
	c.tb.Helper()
	c.wait(c.settled, "settled")
	if c.err == nil || c.err.Code != code {
		c.tb.Fatalf("%s: got %v, want %s", c.Method, c.err, code)
	}
	return c.err
}

// isSettled looks without waiting.
func (c *call) isSettled() bool { return closed.Is(c.settled) }

func (c *call) isEnded() bool { return closed.Is(c.ended) }

func (r *rig) cancel(c *call) {
	var batch wire.Batch
	r.pool.Cancel(&batch, &c.Call, wire.Errorf(wire.CodeCancelled, "enough"))
	batch.Flush()
}

func (r *rig) closeFlow(f *pool.Flow) {
	var batch wire.Batch
	f.Close(&batch, wire.Errorf(wire.CodeSessionNotFound, "it has ended"))
	batch.Flush()
}

func (r *rig) state(c *call) string {
	_, state, _ := r.pool.State(&c.Call)
	return state
}

func (r *rig) waiting(n int) {
	r.tb.Helper()
	await(r.tb, fmt.Sprint(n, " calls wait"), func() bool { s := r.pool.Snapshot(); return s.Waiting == n })
}

func (r *rig) readyWorkers(n int) {
	r.tb.Helper()
	await(r.tb, fmt.Sprint(n, " workers are ready"), func() bool { s := r.pool.Snapshot(); return s.Ready() == n })
}
