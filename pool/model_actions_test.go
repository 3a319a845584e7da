package pool_test

import (
	"context"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// What the model test may do at any time.

func (m *model) submit(t *rapid.T) {
	c := m.newCall(rapid.SampledFrom(m.flows).Draw(t, "flow"), rapid.SampledFrom([]string{"run", "safe", "look", "stubborn", "echo"}).Draw(t, "method"))
	if d := rapid.SampledFrom([]time.Duration{0, 0, long, time.Millisecond, 20 * time.Millisecond, -1}).Draw(t, "deadline"); d != 0 {
		c.Deadline = time.Now().Add(d)
	}
	c.Nested = rapid.Bool().Draw(t, "nested")
	c.refuses = rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2}).Draw(t, "refused when sent")
	c.ahead = c.flow.serial && rapid.IntRange(0, 2).Draw(t, "ahead") == 0
	m.put(c)
}

func (m *model) put(c *mcall) {
	var batch wire.Batch
	c.flow.Submit(&batch, &c.Call)
	batch.Flush()
}

// through has a worker live after what was sent ahead of a call.
func (m *model) through(t *rapid.T) {
	if j, ok := m.restore(t); ok {
		j.w.Answer(j.m, nil)
	}
}

// dieInRestore ends a worker in what was sent ahead of a call, which may be the last thing that its session's flow is good for.
func (m *model) dieInRestore(t *rapid.T) {
	m.mu.Lock()
	m.kills++
	enough := m.kills > 6
	m.mu.Unlock()
	if enough {
		return
	}
	if j, ok := m.restore(t); ok {
		j.w.Die()
	}
}

// restore is something that was sent ahead of a call.
func (m *model) restore(t *rapid.T) (j mjob, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.aheads) == 0 {
		return j, false
	}
	i := rapid.IntRange(0, len(m.aheads)-1).Draw(t, "restore")
	j = m.aheads[i]
	m.aheads = slices.Delete(m.aheads, i, i+1)
	return j, true
}

// local makes a call that the sidecar runs by itself, in a serial flow.
func (m *model) local(t *rapid.T) {
	c := m.newCall(rapid.SampledFrom([]*mflow{m.flows[1], m.flows[2], m.flows[4], m.flows[5]}).Draw(t, "flow"), "local")
	c.local = true
	c.Local = func(batch *wire.Batch) {
		m.mu.Lock()
		c.began()
		c.ran = true
		auto := m.auto
		m.mu.Unlock()
		if auto {
			c.endLocal(batch)
		}
	}
	if rapid.Bool().Draw(t, "deadline") {
		c.Deadline = time.Now().Add(2 * time.Millisecond)
	}
	m.put(c)
}

// release ends a local call that runs.
func (m *model) release(t *rapid.T) {
	m.mu.Lock()
	var run []*mcall
	for _, c := range m.calls {
		if c.ran && !c.finished {
			run = append(run, c)
		}
	}
	m.mu.Unlock()
	if len(run) > 0 {
		var batch wire.Batch
		rapid.SampledFrom(run).Draw(t, "local call").endLocal(&batch)
		batch.Flush()
	}
}

// endLocal is for one goroutine only at a time: a local call ends in the test's, or where it began.
func (c *mcall) endLocal(batch *wire.Batch) {
	c.model.mu.Lock()
	if c.finished {
		c.model.mu.Unlock()
		return
	}
	c.settled, c.finished = true, true
	c.stoppedLocked()
	c.model.mu.Unlock()
	c.flow.EndTurn(batch, &c.Call)
}

func (m *model) answer(t *rapid.T) {
	if j, ok := m.job(t); ok {
		j.w.Answer(j.m, nil)
	}
}

func (m *model) refuse(t *rapid.T) {
	j, ok := m.job(t)
	if !ok {
		return
	}
	code := rapid.SampledFrom([]wire.Code{wire.CodeProgramError, wire.CodeStaleSession, wire.CodeTurnWanted}).Draw(t, "code")
	if code != wire.CodeProgramError {
		params, _ := j.m.Payload.(map[string]any)
		n, _ := params["call"].(int64)
		m.mu.Lock()
		c := m.calls[n]
		if code == wire.CodeStaleSession {
			c.stales++
		} else if c.items == 0 {
			c.wants, c.reads = 1, false
		}
		c.stoppedLocked()
		m.mu.Unlock()
	}
	j.w.Refuse(j.m, &wire.Error{Code: code, Message: "as drawn"})
}

func (m *model) item(t *rapid.T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.jobs) > 0 {
		j := rapid.SampledFrom(m.jobs).Draw(t, "job")
		j.w.Send(wire.KindItem, j.m.ID, nil, 1)
	}
}

func (m *model) cancel(t *rapid.T) {
	if c := m.some(t); c != nil {
		var batch wire.Batch
		m.pool.Cancel(&batch, &c.Call, wire.Errorf(wire.CodeCancelled, "drawn"))
		batch.Flush()
	}
}

// some is a call, settled or not.
func (m *model) some(t *rapid.T) *mcall {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.calls) == 0 {
		return nil
	}
	return m.calls[rapid.IntRange(max(0, len(m.calls)-10), len(m.calls)-1).Draw(t, "call")]
}

// kill ends a worker, though not so often that the pool takes it for a crash loop and waits for seconds.
func (m *model) kill(t *rapid.T) {
	workers := m.starter.Workers()
	m.mu.Lock()
	m.kills++
	enough := m.kills > 6
	m.mu.Unlock()
	if len(workers) > 0 && !enough {
		w := workers[rapid.IntRange(max(0, len(workers)-3), len(workers)-1).Draw(t, "worker")]
		if rapid.Bool().Draw(t, "garbage") {
			w.Send(wire.KindResponse, 1<<40, nil, nil, nil)
		} else {
			w.Die()
		}
	}
}

// fail makes starts fail, or work again, in few runs: each costs the time that the pool waits after it.
func (m *model) fail(*rapid.T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failing = m.mayFail && !m.failing
}

// closeFlow ends a flow, and puts another of its kind in its place.
func (m *model) closeFlow(t *rapid.T) {
	i := rapid.IntRange(0, len(m.flows)-1).Draw(t, "flow")
	f := m.flows[i]
	var batch wire.Batch
	f.Close(&batch, wire.Errorf(wire.CodeSessionNotFound, "drawn"))
	m.mu.Lock()
	f.closed = true
	m.mu.Unlock()
	batch.Flush()
	m.flows[i] = m.newFlow(i)
}

// drain begins to drain, in few runs.
func (m *model) drain(t *rapid.T) {
	if rapid.IntRange(0, 9).Draw(t, "drain") == 0 {
		m.draining = true
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = m.pool.Drain(ctx) // it refuses new calls from now on
	}
}

func (m *model) weigh(t *rapid.T) {
	rapid.SampledFrom(m.flows).Draw(t, "flow").SetWeight(rapid.IntRange(1, 4).Draw(t, "weight"))
}

func (m *model) resize(t *rapid.T) {
	m.settings.Size, m.settings.MaxOverflow = rapid.IntRange(1, 4).Draw(t, "size"), rapid.IntRange(0, 2).Draw(t, "overflow")
	if err := m.pool.Resize(m.settings.Size, m.settings.MaxOverflow); err != nil {
		t.Fatal(err)
	}
}

func (m *model) apply(t *rapid.T) {
	s := &m.settings
	s.QueueLimit = rapid.IntRange(0, 12).Draw(t, "queue limit")
	m.queue = max(m.queue, s.QueueLimit)
	s.MaxInFlight = rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "in flight")
	s.Pinning = rapid.SampledFrom([]pool.Pinning{pool.PinStrict, pool.PinFailFast, pool.PinSoft}).Draw(t, "pinning")
	s.CheckoutTimeout = rapid.SampledFrom([]time.Duration{long, 10 * time.Millisecond}).Draw(t, "checkout")
	if err := m.pool.Apply(*s); err != nil {
		t.Fatal(err)
	}
}

// move moves a flow to a worker that may have gone.
func (m *model) move(t *rapid.T) {
	f := rapid.SampledFrom(m.flows).Draw(t, "flow")
	to := ""
	if workers := m.starter.Workers(); len(workers) > 0 && rapid.Bool().Draw(t, "by name") {
		to = workers[rapid.IntRange(max(0, len(workers)-4), len(workers)-1).Draw(t, "worker")].Name
	}
	if err := f.Move(to); err == nil && !f.serial {
		t.Fatal("a flow without turns was moved")
	}
}

func (m *model) recycle(t *rapid.T) {
	if workers := m.starter.Workers(); len(workers) > 0 {
		m.pool.RecycleWorker(workers[rapid.IntRange(max(0, len(workers)-3), len(workers)-1).Draw(t, "worker")].Name, "drawn")
	}
}

// generation puts another generation in force, or gives it up.
func (m *model) generation(t *rapid.T) {
	m.mu.Lock()
	unsure := m.mayFail || m.kills > 0
	m.mu.Unlock()
	n, err := m.pool.Prepare(context.Background(), m.settings, &pool.Generation{
		Number: 2, Starter: m.starter, Hello: func(string) ([]byte, error) { return wire.Marshal(map[string]any{}) },
	})
	switch {
	case err != nil && !unsure:
		t.Fatal(err)
	case err != nil:
	case rapid.Bool().Draw(t, "commit"):
		n.Commit()
	default:
		n.GiveUp()
	}
}

// wait lets the pool have some time.
func (m *model) wait(t *rapid.T) {
	<-time.After(time.Duration(rapid.IntRange(0, 3).Draw(t, "ms")) * time.Millisecond)
}
