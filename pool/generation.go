package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// generation is the workers that were started from one Generation. Pool.mu guards what may change.
type generation struct {
	number  int
	starter Starter
	hello   func(workerID string) ([]byte, error)

	workers  []*Worker // those that are not dead, until they are taken into Pool.workers
	alive    int       // of which something is left
	methods  map[string]*Method
	failure  *wire.Error    // why it does not get ready
	failures map[int]string // how the last worker failed that did, by its place
	replaced bool           // no worker of it is started any more
	gone     chan struct{}  // closed when it is replaced and nothing is left of it
}

func newGeneration(g *Generation) *generation {
	return &generation{number: g.Number, starter: g.Starter, hello: g.Hello, failures: make(map[int]string), gone: make(chan struct{})}
}

// Next is a change of a pool that is ready to be made: settings, and workers of another generation where there is one. It is committed or given up, once.
type Next struct {
	pool     *Pool
	settings Settings
	gen      *generation // nil: only the settings change
}

// Prepare gets a change ready, and touches nothing that serves calls. Where there is another generation, Size workers of it are started beside those
// that there are, the first one alone; a pool that is lazy and was not needed yet starts none. Once they are ready the change can no longer fail.
// An error leaves nothing of the new generation. One change is prepared at a time.
func (p *Pool) Prepare(ctx context.Context, s Settings, g *Generation) (*Next, error) {
	p.mu.Lock()
	cfg := p.cfg
	cfg.Settings = s
	err := cfg.check()
	switch {
	case err != nil:
	case p.closing:
		err = errEnding
	case p.next != nil:
		err = fmt.Errorf("pool %s: another change is being prepared", p.cfg.Name)
	}
	n := &Next{pool: p, settings: cfg.Settings}
	if err != nil || g == nil {
		p.mu.Unlock()
		return n, err
	}
	n.gen = newGeneration(g)
	p.next = n.gen
	needed := (!p.lazyLocked() || !n.settings.Lazy) && n.settings.Size > 0
	p.mu.Unlock()
	if !needed {
		return n, nil
	}
	if err = n.await(ctx); err != nil {
		<-n.GiveUp()
		return nil, err
	}
	return n, nil
}

// await waits until the new workers are ready.
func (n *Next) await(ctx context.Context) error {
	p, g := n.pool, n.gen
	var failure *wire.Error
	err := p.until(ctx, func() bool {
		ready := 0
		for _, w := range g.workers {
			if w.state == workerPrepared {
				ready++
			}
		}
		failure = g.failure
		for want := n.wantedLocked(ready); failure == nil && !p.closing && len(g.workers) < want; {
			p.startLocked(g, &n.settings, false)
		}
		return failure != nil || p.closing || ready >= p.meantLocked(&n.settings).Size
	})
	switch {
	case err != nil:
		return err
	case failure != nil:
		return failure
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return errEnding
	}
	return nil
}

// wantedLocked is how many workers are to be there, or starting: one until that has shown that they can.
func (n *Next) wantedLocked(ready int) int {
	if ready == 0 {
		return 1
	}
	return n.pool.meantLocked(&n.settings).Size
}

// GiveUp ends the workers of the new generation. The channel is closed when nothing is left of them.
func (n *Next) GiveUp() (gone <-chan struct{}) {
	p, g := n.pool, n.gen
	if g == nil {
		nothing := make(chan struct{})
		close(nothing)
		return nothing
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == g {
		p.next = nil
	}
	for _, w := range g.workers {
		p.dropLocked(w)
	}
	g.replaceLocked()
	return g.gone
}

// Commit makes the change. Calls that have not been sent go to the new workers; the old ones finish what they have, and end. The channel is closed when nothing is
// left of those; nil where the workers stay.
func (n *Next) Commit() (gone <-chan struct{}) {
	p, g := n.pool, n.gen
	var batch wire.Batch
	p.mu.Lock()
	if p.closing { // all of them end with the pool
		defer p.mu.Unlock()
		if g != nil {
			g.replaceLocked()
		}
		return nil
	}
	p.saidLocked(&n.settings)
	var old []*Worker
	if g != nil {
		gone = p.current.gone
		old = p.takeOverLocked(g, &batch)
	}
	p.ensureLocked()
	p.trimLocked(&batch)
	p.changedLocked()
	p.unlock(&batch)
	batch.Flush()
	for _, w := range old { // one at a time: many calls may wait for each, and the others shall not wait for all of that
		p.mu.Lock()
		if w.state == workerDraining {
			p.retireLocked(w, &batch)
		}
		p.unlock(&batch)
		batch.Flush()
	}
	return gone
}

// takeOverLocked lets the workers of a generation take all calls from now on. It returns the old ones that are to be retired: no call comes to them any more.
func (p *Pool) takeOverLocked(g *generation, batch *wire.Batch) (old []*Worker) {
	p.current.replaceLocked()
	p.current, p.next = g, nil
	p.startFailure, p.failures, p.crashes = nil, 0, 0
	if g.methods != nil || p.cfg.Settings.Size == 0 { // where no worker is kept, the next one says which it has
		p.setMethodsLocked(g.methods)
	}
	p.workers = slices.DeleteFunc(p.workers, func(w *Worker) bool {
		switch w.state {
		case workerStarting:
			p.dropLocked(w)
			return true
		case workerReady:
			w.setStateLocked(workerDraining)
			old = append(old, w)
		case workerPrepared, workerDraining, workerDead:
		}
		return false
	})
	prepared := g.workers
	g.workers = nil
	for _, w := range prepared {
		p.workers = append(p.workers, w)
		if w.state == workerPrepared {
			p.takeInLocked(w, batch)
		}
	}
	for _, w := range prepared {
		p.fillLocked(w, batch)
	}
	return old
}

// replaceLocked notes that no worker of the generation is started any more.
func (g *generation) replaceLocked() {
	g.replaced = true
	g.closeLocked()
}

func (g *generation) closeLocked() {
	if g.replaced && g.alive == 0 {
		select {
		case <-g.gone:
		default:
			close(g.gone)
		}
	}
}

// dropLocked ends a worker that takes no calls, and has none: it starts, or is prepared.
func (p *Pool) dropLocked(w *Worker) {
	w.stop(errReplaced)
	if w.state != workerPrepared {
		return
	}
	grace := min(p.cfg.Settings.CancelGrace, dropGrace)
	p.tasks.Go(func() { p.letGo(w, grace) })
}

// dropGrace is how long a worker that was never used may take to end by itself.
const dropGrace = time.Second

var errReplaced = errors.New("it is not needed any more: its generation has been replaced, or given up")

// letGo has a worker end by itself, and kills it where it does not.
func (p *Pool) letGo(w *Worker, grace time.Duration) {
	p.dismiss(w)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-w.gone:
	case <-timer.C:
		w.proc.Kill()
	}
}

// withheldLocked says whether a worker is none of those that take calls, or will by themselves: one of a generation that is getting ready, was given up, or
// was replaced before the worker was ready.
func (p *Pool) withheldLocked(w *Worker) bool {
	return w.gen != p.current && (w.state == workerStarting || w.state == workerPrepared)
}

// removeWithheldLocked takes such a worker out when it is dead.
func (p *Pool) removeWithheldLocked(w *Worker) {
	w.setStateLocked(workerDead)
	w.gen.workers = slices.DeleteFunc(w.gen.workers, func(other *Worker) bool { return other == w })
}

// endedWithheld notes why such a worker ended, and says of which kind that is.
func (p *Pool) endedWithheld(w *Worker, proc Process, cause error, reason string) (end endReason) {
	w.log.Debug("worker of no generation in force ended", "generation", w.gen.number, "reason", reason)
	end = endPlanned
	p.mu.Lock()
	if w.gen == p.next && !p.closing && !lostWithOthers(proc) {
		end = endFailedStart
		if w.gen.failure == nil {
			w.gen.failure = p.startError(w, lastOutput(proc, cause), reason)
		}
	}
	p.changedLocked()
	p.mu.Unlock()
	return end
}

// left notes that nothing is left of a worker.
func (p *Pool) left(w *Worker) {
	p.mu.Lock()
	w.gen.alive--
	w.gen.closeLocked()
	p.mu.Unlock()
	close(w.gone)
}

// notice is what all workers are told of that take calls, and those that got their hello before it.
type notice struct {
	number uint64
	method string
	params []byte
}

// Tell notifies all workers: those that take calls or finish them at once, ahead of the next call, and those that start when they are ready. What Hello says from now on has to
// hold it, too. Only the last notice is kept.
func (p *Pool) Tell(method string, params []byte) {
	var batch wire.Batch
	p.mu.Lock()
	p.notice = notice{p.notice.number + 1, method, params}
	for _, w := range p.workers {
		if w.gen == p.current {
			w.notifyLocked(&batch, method, params)
		}
	}
	p.mu.Unlock()
	batch.Flush()
}
