package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/heap"
	"github.com/dspex/dspex-sidecar/wire"
)

// Pool keeps workers and gives calls to them. Make it with New, end it with Close.
type Pool struct {
	cfg     Config          // of which mu guards Settings: Apply and Resize change them
	life    context.Context //nolint:containedctx // the pool's own life: starts of workers end with it
	kill    context.CancelFunc
	tasks   sync.WaitGroup
	wake    chan struct{} // the clock has something sooner to do
	stopped chan struct{} // ends the clock

	apart    atomic.Pointer[map[string]struct{}] // the methods that want a process for each call; set under mu
	draining atomic.Bool                         // refuses new calls; set under mu
	open     atomic.Int64                        // what a drain waits for: calls whose handler does not know their end, and turns

	mu         sync.Mutex // guards what follows, and what flows, calls and workers say it does
	said       Settings   // as they were last applied, before any Resize
	workers    []*Worker  // those that are not dead, but for those of next
	current    *generation
	next       *generation // nil: none is getting ready
	notice     notice      // the last thing that all workers were told
	lastWorker int
	methods    map[string]*Method
	owners     map[string]*owner
	lastTurn   uint64
	waitingAny turns   // flows that wait for a slot of any worker
	suspects   turns   // flows that wait for a worker that is empty
	held       *Worker // the one that is kept empty for a suspect; nil: none
	waiting    int     // calls that wait, for a turn or for a slot
	shares     shares[*owner]
	pins       int // of all flows, those of workers that have gone included
	pinShare   int // of a worker, if all had as many, when the last one got ready
	invites    int // of all workers
	timers     heap.Heap[*Call]
	clockAt    time.Time
	paused     bool                // no call goes to a worker
	pausedAt   time.Time           // since then
	todo       []func(*wire.Batch) // to be done when mu is released
	applied    chan struct{}       // closed, and made anew, when the settings change
	changed    chan struct{}       // closed, and made anew, when workers or calls in flight change

	woken      bool // a lazy pool has been needed
	closing    bool // starts no worker any more
	backingOff bool
	failures   int // times in a row that starts failed
	crashes    int // workers in a row that ended soon after they were ready

	startFailure  *wire.Error
	lastFailure   string
	lastFailureAt time.Time
	starts        int
	mostSize      int // the largest Size so far
	commands      uint64
	errors        uint64
	runTime       time.Duration // moving average of a call at a worker
}

// New makes a pool and, unless it is lazy, starts its workers.
func New(cfg Config) (*Pool, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p := &Pool{
		cfg: cfg, wake: make(chan struct{}, 1), stopped: make(chan struct{}), applied: make(chan struct{}), changed: make(chan struct{}),
		owners: make(map[string]*owner), waitingAny: newTurns(), suspects: newTurns(), timers: newTimers(), mostSize: cfg.Settings.Size,
	}
	p.said = p.cfg.Settings
	p.suspects.left = p.suspectLeftLocked
	cfg.Metrics.WorkerStarts(cfg.Name)
	for _, end := range endReasons() { // at 0: what increases is seen from there on alone
		cfg.Metrics.WorkerEnds(cfg.Name, string(end))
	}
	p.current = newGeneration(&Generation{Number: 1, Starter: cfg.Starter, Hello: cfg.Hello})
	p.life, p.kill = context.WithCancel(context.Background())
	p.tasks.Go(p.runClock)
	p.mu.Lock()
	p.ensureLocked()
	p.mu.Unlock()
	return p, nil
}

// unlock releases the lock and then does what was left for after it.
func (p *Pool) unlock(batch *wire.Batch) {
	todo := p.todo
	p.todo = nil
	p.mu.Unlock()
	for _, do := range todo {
		do(batch)
	}
}

// changedLocked wakes those that wait for workers or for calls in flight.
func (p *Pool) changedLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// until waits for a condition on the guarded state.
func (p *Pool) until(ctx context.Context, holds func() bool) error {
	for {
		p.mu.Lock()
		ok, changed := holds(), p.changed
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Ready waits until all workers that are wanted are ready, or until one could not be started.
func (p *Pool) Ready(ctx context.Context) error {
	var failure *wire.Error
	err := p.until(ctx, func() bool {
		if p.closing || p.lazyLocked() || p.readyLocked() >= p.cfg.Settings.Size {
			return true
		}
		failure = p.startFailure
		return failure != nil
	})
	if err == nil && failure != nil {
		return failure
	}
	return err
}

func (p *Pool) readyLocked() int { return p.inStateLocked(workerReady) }

func (p *Pool) inStateLocked(state workerState) int {
	n := 0
	for _, w := range p.workers {
		if w.state == state {
			n++
		}
	}
	return n
}

// Draining says whether new calls are refused.
func (p *Pool) Draining() bool {
	return p.draining.Load()
}

// Drain refuses new calls and waits until every call has settled and finished and every turn has ended. It may be called before
// Close, with a context of its own.
func (p *Pool) Drain(ctx context.Context) error {
	var batch wire.Batch
	p.mu.Lock()
	p.draining.Store(true)
	p.resumeLocked(&batch)
	p.unlock(&batch)
	batch.Flush()
	return p.until(ctx, p.idle)
}

func (p *Pool) idle() bool { return p.open.Load() == 0 }

// Close settles what is left, lets the workers end by themselves until ctx is done, kills them, and returns when all
// is gone.
func (p *Pool) Close(ctx context.Context) {
	var batch wire.Batch
	p.mu.Lock()
	p.draining.Store(true)
	p.closing = true
	ending := wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	p.failWaitingLocked(ending)
	stop := wire.Errorf(wire.CodeCancelled, "the sidecar is ending")
	for _, w := range p.workers {
		for _, c := range w.calls {
			p.stopLocked(c, stop, false, &batch)
		}
	}
	workers := append([]*Worker(nil), p.workers...)
	if p.next != nil {
		workers = append(workers, p.next.workers...)
	}
	p.changedLocked() // who prepares a generation gives it up
	p.unlock(&batch)
	batch.Flush()
	p.kill()                 // starts and waits; calls at workers go on
	_ = p.until(ctx, p.idle) // what goes on after that is killed
	for _, w := range workers {
		p.dismiss(w)
	}
	for _, w := range workers {
		select {
		case <-w.gone:
		case <-ctx.Done():
			p.killNow(w)
			<-w.gone
		}
	}
	close(p.stopped)
	p.tasks.Wait()
}

// dismiss asks a worker to end by closing the sidecar's half of its channel.
func (p *Pool) dismiss(w *Worker) {
	p.mu.Lock()
	proc, outbox := w.proc, w.outbox
	w.told = true
	if w.state == workerReady {
		w.setStateLocked(workerDraining)
	}
	p.mu.Unlock()
	if proc != nil {
		outbox.Flush()                  // whoever appended last may not have got to it
		_ = proc.Channel().CloseWrite() // one that is gone already needs no asking
	}
}

func (p *Pool) killNow(w *Worker) {
	p.mu.Lock()
	proc := w.proc
	p.mu.Unlock()
	if proc != nil {
		proc.Kill()
	}
}
