package pool_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// TestModel drives pools of all kinds with whatever may happen to them, and holds what must be so at all times. A failure prints the
// seed: go test ./pool -run TestModel -rapid.seed=N does the same again, as far as processes and clocks let it.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt)
		defer m.end()
		rt.Repeat(map[string]func(*rapid.T){
			"submit":   m.submit,
			"submit 2": m.submit,
			"answer":   m.answer,
			"answer 2": m.answer,
			"refuse":   m.refuse,
			"item":     m.item,
			"cancel":   m.cancel,
			"local":    m.local,
			"release":  m.release,
			"kill":     m.kill,
			"through":  m.through,
			"die":      m.dieInRestore,
			"fail":     m.fail,
			"close":    m.closeFlow,
			"drain":    m.drain,
			"weigh":    m.weigh,
			"resize":   m.resize,
			"apply":    m.apply,
			"move":     m.move,
			"recycle":  m.recycle,
			"renew":    m.generation,
			"wait":     m.wait,
			"":         m.check,
		})
		m.finish(rt)
	})
}

// model is a pool, and what is known of what it has done.
type model struct {
	pool     *pool.Pool
	starter  *pooltest.Starter
	settings pool.Settings

	queue int // the longest QueueLimit so far
	slots int // of a worker

	mu       sync.Mutex // guards what follows
	flows    []*mflow
	calls    []*mcall
	jobs     []mjob // at workers that live, and not answered
	aheads   []mjob // what was sent ahead of calls, likewise
	load     map[string]int
	kills    int
	mayFail  bool
	failing  bool // starts fail
	draining bool
	auto     bool // everything is answered at once
	faults   []string
}

type mflow struct {
	*pool.Flow
	serial, shared bool
	submitted      int
	sent           int // number of the call that was sent last for the first time
	running        []*mcall
	closed         bool
}

type mjob struct {
	w *pooltest.Worker
	m wiretest.Message
}

// mcall is a call, and its handler.
type mcall struct {
	pool.Call
	model    *model
	flow     *mflow
	number   int
	refuses  int // the send that it refuses; 0: none
	reads    bool
	sends    int
	stales   int
	wants    int
	items    int
	safe     bool
	ahead    bool // each send has a request ahead of it
	local    bool
	ran      bool // a local one has begun
	settled  bool
	finished bool
}

func newModel(t *testing.T, rt *rapid.T) *model {
	t.Helper()
	times := func(name string, d ...time.Duration) time.Duration { return rapid.SampledFrom(d).Draw(rt, name) }
	m := &model{load: map[string]int{}, settings: pool.Settings{
		Size: rapid.IntRange(1, 3).Draw(rt, "size"), MaxOverflow: rapid.IntRange(0, 2).Draw(rt, "overflow"),
		Concurrency: rapid.IntRange(1, 3).Draw(rt, "concurrency"), QueueLimit: rapid.IntRange(0, 12).Draw(rt, "queue limit"),
		Lazy:            rapid.Bool().Draw(rt, "lazy"),
		CheckoutTimeout: times("checkout", long, 10*time.Millisecond), CancelGrace: times("grace", long, 5*time.Millisecond, 0),
		SoftWait: times("soft wait", 0, 5*time.Millisecond), OverflowIdle: times("overflow idle", long, time.Millisecond),
		Pinning:        rapid.SampledFrom([]pool.Pinning{pool.PinStrict, pool.PinFailFast, pool.PinSoft}).Draw(rt, "pinning"),
		HealthInterval: long, HealthTimeout: long, StartTimeout: long,
	}}
	m.queue, m.slots = m.settings.QueueLimit, m.settings.Concurrency
	m.mayFail = rapid.IntRange(0, 4).Draw(rt, "starts may fail") == 0
	m.starter = &pooltest.Starter{TB: t, Methods: methods(), Handle: m.handle, Fail: func(string) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.failing {
			return wire.Errorf(wire.CodeInternal, "not now")
		}
		return nil
	}}
	var err error
	m.pool, err = pool.New(pool.Config{
		Name: "model", Settings: m.settings, Starter: m.starter, Hello: func(string) ([]byte, error) { return wire.Marshal(map[string]any{}) },
	})
	if err != nil {
		rt.Fatal(err)
	}
	for i := range 6 {
		m.flows = append(m.flows, m.newFlow(i))
	}
	return m
}

// newFlow makes two flows of each kind, of two owners.
func (m *model) newFlow(i int) *mflow {
	f := &mflow{serial: i%3 > 0, shared: i%3 == 2}
	f.Flow = m.pool.NewFlow(fmt.Sprint("owner ", i/3), f.serial)
	if f.shared {
		f.Share(true)
	}
	return f
}

// fault notes what must not be.
func (m *model) faultLocked(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

// handle is what the workers do.
func (m *model) handle(w *pooltest.Worker, msg wiretest.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case msg.Method == "restore":
		m.aheads = append(m.aheads, mjob{w, msg})
	case msg.Kind == wire.KindRequest:
		if m.load[w.Name]++; m.load[w.Name] > m.slots {
			m.faultLocked("%d calls at %s", m.load[w.Name], w.Name)
		}
		m.jobs = append(m.jobs, mjob{w, msg})
	case msg.Kind == wire.KindCancel:
		for i, j := range m.jobs {
			if j.w == w && j.m.ID == msg.ID && j.m.Method != "stubborn" {
				m.takeLocked(i)
				w.Refuse(j.m, wire.Errorf(wire.CodeCancelled, "stopped"))
				return
			}
		}
	default:
	}
	if m.auto {
		m.answerAllLocked()
	}
}

func (m *model) takeLocked(i int) mjob {
	j := m.jobs[i]
	m.jobs = slices.Delete(m.jobs, i, i+1)
	m.load[j.w.Name]--
	return j
}

func (m *model) answerAllLocked() {
	for len(m.jobs) > 0 {
		j := m.takeLocked(0)
		j.w.Answer(j.m, nil)
	}
	for _, j := range m.aheads {
		j.w.Answer(j.m, nil)
	}
	m.aheads = nil
}

// job takes one of those that are to be answered.
func (m *model) job(t *rapid.T) (mjob, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.jobs) == 0 {
		return mjob{}, false
	}
	return m.takeLocked(rapid.IntRange(0, len(m.jobs)-1).Draw(t, "job")), true
}

func (m *model) newCall(f *mflow, method string) *mcall {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.submitted++
	c := &mcall{model: m, flow: f, number: f.submitted, reads: method == "look" && f.shared, safe: method == "safe"}
	c.Method, c.Handler = []byte(method), c
	c.Params, _ = wire.Marshal(map[string]any{"call": len(m.calls)}) // an integer can be encoded
	m.calls = append(m.calls, c)
	return c
}

func (m *model) check(t *rapid.T) {
	s := m.pool.Snapshot()
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.Waiting > m.queue+m.kills*m.slots+16 { // calls that are run again are not shed
		m.faultLocked("%d calls wait", s.Waiting)
	}
	for i := range s.Workers {
		if w := &s.Workers[i]; w.InFlight > m.slots {
			m.faultLocked("%d calls in flight at %s", w.InFlight, w.ID)
		}
	}
	if len(m.faults) > 0 {
		t.Fatalf("%s", m.faults)
	}
}

// finish answers everything, drains, and looks whether anything is left.
func (m *model) finish(t *rapid.T) {
	m.mu.Lock()
	m.failing, m.auto = false, true
	m.answerAllLocked()
	var running []*mcall
	for _, c := range m.calls {
		if c.ran && !c.finished {
			running = append(running, c)
		}
	}
	m.mu.Unlock()
	var batch wire.Batch
	for _, c := range running {
		c.endLocal(&batch)
	}
	batch.Flush()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := m.pool.Drain(ctx)
	if !m.mayFail && !m.settings.Lazy && err == nil {
		err = m.sized(ctx)
	}
	for _, f := range m.flows {
		f.Close(&batch, wire.Errorf(wire.CodeSessionNotFound, "the end"))
	}
	books := m.pool.Books()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, c := range m.calls {
		switch reruns := c.sends - 1 - c.stales - c.wants; {
		case !c.settled || !c.finished:
			m.faultLocked("call %d, %s, number %d of a flow (serial: %v): settled %v, finished %v", i, c.Method, c.number, c.flow.serial, c.settled, c.finished)
		case reruns > 1 || reruns > 0 && !c.safe:
			m.faultLocked("call %d, %s: sent %d times, %d items", i, c.Method, c.sends, c.items)
		}
	}
	if err != nil || books != "" || len(m.faults) > 0 {
		t.Fatalf("drain: %v; left in the books: %q; %q", err, books, m.faults)
	}
}

// sized waits until the pool has as many workers as its settings say.
func (m *model) sized(ctx context.Context) error {
	for {
		s, steady, overflow := m.pool.Snapshot(), 0, 0
		for i := range s.Workers {
			switch w := &s.Workers[i]; {
			case w.State != "ready" || w.Leaving != "":
			case w.Overflow:
				overflow++
			default:
				steady++
			}
		}
		if steady == m.settings.Size && overflow <= m.settings.MaxOverflow {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("size %d, overflow %d, and there are %+v", m.settings.Size, m.settings.MaxOverflow, s.Workers)
		case <-time.After(time.Millisecond):
		}
	}
}

// end closes the pool and its workers.
func (m *model) end() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m.mu.Lock()
	m.auto = true
	m.answerAllLocked()
	m.mu.Unlock()
	m.pool.Close(ctx)
	m.starter.Close()
}

// began notes that a call was sent, or runs, and holds that its flow's order and turns are kept. The model's lock is held.
func (c *mcall) began() {
	f := c.flow
	if c.sends++; c.sends == 1 {
		if c.number <= f.sent {
			c.model.faultLocked("call %d of a flow was sent after %d", c.number, f.sent)
		}
		f.sent = c.number
	}
	if f.closed && !c.local { // Local is called when its turn has begun, which may have been before
		c.model.faultLocked("a call of a closed flow was sent")
	}
	for _, other := range f.running {
		if f.serial && other != c && (!c.reads || !other.reads) {
			c.model.faultLocked("%s runs beside %s", c.Method, other.Method)
		}
	}
	if !slices.Contains(f.running, c) {
		f.running = append(f.running, c)
	}
}

func (c *mcall) stoppedLocked() {
	c.flow.running = slices.DeleteFunc(c.flow.running, func(other *mcall) bool { return other == c })
}

func (c *mcall) Dispatch(to *pool.Target, _ *wire.RequestMeta) *wire.Error {
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	if c.settled || c.items > 0 {
		c.model.faultLocked("%s was sent after it was settled (%v), or delivered in part (%d)", c.Method, c.settled, c.items)
	}
	if c.refuses == c.sends+1 {
		c.stoppedLocked() // where its worker died it has not been; it is finished later than the next call is sent
		return wire.Errorf(wire.CodeInternal, "refused")
	}
	if c.ahead {
		to.Request("restore", wire.Nil)
	}
	c.began()
	if c.wants == 0 && to.Again != (c.sends > 1) {
		c.model.faultLocked("%s was sent for the %dth time: again is %v", c.Method, c.sends, to.Again)
	}
	return nil
}

func (c *mcall) Item(*wire.Batch, []byte, bool) {
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	c.items++
}

func (c *mcall) Change([]byte) error { return nil }

func (c *mcall) Ask(*wire.Batch, *pool.Ask) {}

func (c *mcall) Settle(_ *wire.Batch, r *pool.Result) {
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	if c.settled {
		c.model.faultLocked("%s was settled again: %v", c.Method, r.Err)
	}
	c.settled = true
}

func (c *mcall) Finish(batch *wire.Batch, _ []byte) {
	c.model.mu.Lock()
	if c.finished || c.local && c.ran {
		c.model.faultLocked("%s was finished again", c.Method)
	}
	if !c.settled {
		c.model.faultLocked("%s was finished before it was settled", c.Method)
	}
	c.finished = true
	c.stoppedLocked()
	c.model.mu.Unlock()
	c.flow.EndTurn(batch, &c.Call)
}
