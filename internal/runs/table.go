package runs

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// Config is what New takes. Metrics, Events and Log may be left out.
type Config struct {
	Settings
	Pool     *pool.Pool // whose workers take one call each
	Sessions *session.Table
	Metrics  *metrics.Metrics
	Events   *events.Hub
	Log      *slog.Logger
}

// Settings are what an operator chooses.
type Settings struct {
	Timeout time.Duration // of a run whose caller says nothing
	Keep    time.Duration // what became of it
}

const (
	// maxKept is how many runs are kept that have ended, and maxKeptBytes what their results may take.
	maxKept      = 100
	maxKeptBytes = 32 << 20
	// maxDetachedBytes bounds the requests of runs that go on for nobody: no connection's limits hold them.
	maxDetachedBytes = 256 << 20
	// maxProgress is how long an item may be for it to be kept as the last one.
	maxProgress = 64 << 10
)

// Table holds the runs. Make it with New.
type Table struct {
	cfg Config
	now atomic.Pointer[Settings]

	mu       sync.Mutex // guards what follows, and the runs
	runs     map[string]*Run
	ended    []*Run // of those, in the order in which they ended
	kept     int    // bytes of their results
	detached int    // bytes of the requests of those that have not
	last     int
}

// New makes a table without runs.
func New(cfg Config) *Table {
	t := &Table{cfg: cfg, runs: make(map[string]*Run)}
	if t.cfg.Metrics == nil {
		t.cfg.Metrics = metrics.New()
	}
	if t.cfg.Log == nil {
		t.cfg.Log = slog.New(slog.DiscardHandler)
	}
	t.now.Store(&cfg.Settings)
	for _, state := range []State{Succeeded, Failed, Cancelled, Lost} {
		t.cfg.Metrics.RunEnds(string(state)) // begins at 0
	}
	return t
}

// Apply puts other settings in force.
func (t *Table) Apply(s Settings) { t.now.Store(&s) }

// Timeout is the deadline of a run whose caller says nothing, from now.
func (t *Table) Timeout() time.Duration { return t.now.Load().Timeout }

// Pool is what runs the calls.
func (t *Table) Pool() *pool.Pool { return t.cfg.Pool }

// By is who makes a run.
type By struct {
	Key        session.Key // of its session; no ID: none. The owner may see the run
	Payer      string      // such as "uid:1000"
	Connection string      // where its request came, and with which id
	Request    uint64
}

// Begin hands in a run for a client that waits for it: its handler is told what becomes of the call, and the run ends when that is cancelled.
func (t *Table) Begin(batch *wire.Batch, by By, c *pool.Call) (*Run, error) {
	r := t.enter(by, c, c.Handler, 0)
	return r, t.submit(batch, r)
}

// Detach hands in a run that goes on whether or not somebody follows it.
func (t *Table) Detach(batch *wire.Batch, by By, c *pool.Call) (*Run, error) {
	n := len(c.Params)
	t.mu.Lock()
	full := t.detached+n > maxDetachedBytes
	if !full {
		t.detached += n
	}
	t.mu.Unlock()
	if full {
		return nil, wire.Errorf(wire.CodeQueueFull, "the requests of runs that go on for nobody would take more than %d bytes", maxDetachedBytes).
			With("limit", maxDetachedBytes).With("retry_after_ms", 10_000)
	}
	own := &pool.Call{
		Method: bytes.Clone(c.Method), Params: bytes.Clone(c.Params), Owned: true, Deadline: c.Deadline,
		Meta: wire.RequestMeta{Traceparent: bytes.Clone(c.Meta.Traceparent), App: bytes.Clone(c.Meta.App), RetrySafe: c.Meta.RetrySafe},
	}
	if c.Meta.Stream > 0 {
		own.Meta.Stream = wire.MaxCredit // nobody's reading holds it up
	}
	r := t.enter(by, own, nil, n)
	return r, t.submit(batch, r)
}

// enter puts a run into the table.
func (t *Table) enter(by By, c *pool.Call, inner pool.Handler, detached int) *Run {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	r := &Run{
		table: t, number: t.last, id: fmt.Sprintf("run_%d", t.last), by: by, method: string(c.Method),
		asked: time.Now(), state: Queued, call: c, inner: inner, detached: detached, changed: make(chan struct{}),
	}
	t.runs[r.id] = r
	r.flow = t.cfg.Pool.NewFlow(by.Payer, false)
	return r
}

// submit lets a run come to the pool. An error means that it did not.
func (t *Table) submit(batch *wire.Batch, r *Run) error {
	c, by := r.call, &r.by
	c.Handler = r
	r.tell()
	var err error
	if by.Key.ID == "" {
		err = t.cfg.Sessions.SubmitFree(batch, by.Payer, r.flow, c)
	} else {
		err = t.cfg.Sessions.SubmitApart(batch, by.Key, by.Payer, r.flow, c)
	}
	if err == nil {
		return nil
	}
	c.Handler = r.inner // who is told by who called
	r.conclude(pool.Refused(wire.FromError(err)))
	r.flow.Close(batch, errOver)
	return err
}

// Find is the run of that id, if it is there and the caller may see it.
func (t *Table) Find(id string, sees func(owner string) bool) (*Run, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(time.Now())
	if r := t.runs[id]; r != nil && sees(r.by.Key.Owner) {
		return r, nil
	}
	return nil, wire.Errorf(wire.CodeInvalidParams, "no run %q: it is not yours, or what became of it is not kept any more (runs.keep), or the sidecar was started again", id)
}

// List is what is known of the runs that the caller may see, in the order in which they were asked for.
func (t *Table) List(sees func(owner string) bool) []Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(time.Now())
	out := []Info{}
	for _, r := range t.runs {
		if sees(r.by.Key.Owner) {
			out = append(out, r.infoLocked())
		}
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.number, b.number) })
	return out
}

// Count is how many runs are queued, and how many run.
func (t *Table) Count() (queued, running int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.runs {
		switch r.state {
		case Queued:
			queued++
		case Running:
			running++
		case Succeeded, Failed, Cancelled, Lost:
		}
	}
	return queued, running
}

// keepLocked keeps a run that has ended, as long as there is room.
func (t *Table) keepLocked(r *Run) {
	t.ended = append(t.ended, r)
	t.kept += r.bytes()
	t.forgetLocked(time.Now())
}

// forgetLocked drops the runs that have ended and are kept no longer.
func (t *Table) forgetLocked(now time.Time) {
	keep := t.now.Load().Keep
	for len(t.ended) > 0 {
		r := t.ended[0]
		if len(t.ended) <= maxKept && t.kept <= maxKeptBytes && now.Sub(r.ended) < keep {
			return
		}
		t.ended = t.ended[1:]
		t.kept -= r.bytes()
		delete(t.runs, r.id)
	}
}
