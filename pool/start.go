package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// absurdFrames is how many times the longest frame a worker's may have for its length to be believed: it is read past, and costs its call alone.
const absurdFrames = 4

// lazyLocked says whether the pool has not been needed yet.
func (p *Pool) lazyLocked() bool { return p.cfg.Settings.Lazy && !p.woken }

// ensureLocked starts the workers that are wanted and not there: Size, and beyond them one at a time while calls wait for a slot
// and every worker is busy.
func (p *Pool) ensureLocked() {
	if p.closing || p.backingOff || p.lazyLocked() {
		return
	}
	s := &p.cfg.Settings
	starting, steady := 0, 0
	for _, w := range p.workers {
		if w.state == workerStarting {
			starting++
		}
		if w.steadyLocked() && !w.overflow {
			steady++
		}
	}
	for _, w := range p.workers { // one that is there already will do
		if steady < s.Size && w.overflow && w.steadyLocked() {
			w.overflow = false
			steady++
		}
	}
	want := s.Size
	if p.failures > 0 { // one at a time until one works again
		if starting > 0 {
			return
		}
		want = min(want, steady+1)
	}
	for ; steady < want; steady++ {
		p.startLocked(p.current, s, false)
		starting++
	}
	if starting == 0 && !p.paused && (!p.waitingAny.empty() || !p.suspects.empty()) && p.countedLocked() < s.Size+s.MaxOverflow {
		p.startLocked(p.current, s, true)
	}
}

// countedLocked counts the workers that the limit on them is held against: not those of earlier generations, which only finish what they have, unless that is
// what all do.
func (p *Pool) countedLocked() int {
	n := 0
	for _, w := range p.workers {
		if w.gen == p.current || p.cfg.Settings.Once {
			n++
		}
	}
	return n
}

// steadyLocked says whether a worker takes calls, or will, and is not about to be replaced.
func (w *Worker) steadyLocked() bool { return w.state != workerDraining && !w.replaced }

// placeLocked is the lowest place that no worker of a generation has, but for those that leave: so places stay as few as workers are, whatever is started
// in the course of time.
func (p *Pool) placeLocked(g *generation) int {
	taken := map[int]bool{}
	for _, workers := range [][]*Worker{p.workers, g.workers} {
		for _, w := range workers {
			if w.gen == g && w.steadyLocked() && w.why == "" {
				taken[w.place] = true
			}
		}
	}
	place := 1
	for taken[place] {
		place++
	}
	return place
}

// startLocked starts a worker of a generation, with the settings that go with that.
func (p *Pool) startLocked(g *generation, s *Settings, overflow bool) {
	p.lastWorker++
	id := fmt.Sprintf("%s_%d", p.cfg.Prefix, p.lastWorker)
	w := &Worker{
		pool: p, id: id, log: p.cfg.Log.With("worker_id", id), gen: g, place: p.placeLocked(g), overflow: overflow, started: time.Now(), idle: time.Now(),
		slots: s.Concurrency, maxFrame: s.MaxFrame,
		calls: make(map[uint64]*Call), requests: make(map[uint64]func(*wire.Frame, error)), asks: make(map[uint64]*Ask),
		waiting: newTurns(), spread: drawSpread(), gone: make(chan struct{}),
	}
	life, stop := context.WithCancelCause(p.life)
	w.stop = stop
	g.alive++
	p.cfg.Metrics.WorkerStarts(p.cfg.Name).Inc()
	w.tell("starting", "")
	if g == p.current {
		p.workers = append(p.workers, w)
		p.starts++
	} else {
		g.workers = append(g.workers, w)
	}
	limit := s.StartTimeout
	p.tasks.Go(func() {
		p.run(life, w, limit)
		stop(nil)
		p.left(w)
	})
}

// run is a worker's life.
func (p *Pool) run(life context.Context, w *Worker, limit time.Duration) {
	late := fmt.Errorf("%w of %s", errStartTimeout, limit)
	ctx, cancel := context.WithTimeoutCause(life, limit, late)
	defer cancel()
	proc, err := w.gen.starter.Start(ctx, w.id)
	if err != nil {
		p.ended(w, nil, fmt.Errorf("it could not be started: %w", err))
		return
	}
	reason := p.serve(ctx, w, proc)
	p.ended(w, proc, reason)
	_ = proc.Channel().Close() // it may be closed
	if w.outbox != nil {
		w.outbox.Wait()
	}
}

// serve shakes hands with a worker and then reads from it until its channel ends.
func (p *Pool) serve(ctx context.Context, w *Worker, proc Process) error {
	reader, err := wire.NewReader(proc.Channel(), w.maxFrame, 0)
	if err != nil {
		return err
	}
	defer reader.Release()
	reader.Refuse(absurdFrames * w.maxFrame)
	outbox, err := wire.NewOutbox(proc.Channel(), 0, 0, nil)
	if err != nil {
		return err
	}
	outbox.ReadOn() // it may have said that a call is not safe any more
	p.mu.Lock()
	w.heard = p.notice.number
	p.mu.Unlock()
	hello, err := w.gen.hello(w.id)
	if err != nil {
		return err
	}
	var batch wire.Batch
	p.mu.Lock()
	w.proc, w.outbox = proc, outbox
	var refused error
	w.requestLocked(&batch, "hello", hello, func(f *wire.Frame, err error) {
		if err == nil {
			refused = p.greet(w, f)
		}
	})
	p.mu.Unlock()
	batch.Flush()
	late := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case w.state != workerStarting:
		case p.life.Err() != nil:
			outbox.Fail(errEnding)
		default:
			outbox.Fail(context.Cause(ctx))
		}
	})
	err = w.read(reader)
	late()
	switch {
	case refused != nil:
		return refused
	case outbox.Err() != nil && (err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, wire.ErrFrameTimeout)):
		return outbox.Err()
	}
	return err
}

var (
	errStartTimeout = errors.New("it was not ready within the start_timeout")
	errEnding       = errors.New("the sidecar is ending")
)

// greet takes a worker's answer to hello: it is ready.
func (p *Pool) greet(w *Worker, f *wire.Frame) error {
	if f.Error != nil {
		e := decodeError(f.Error)
		w.outbox.Fail(e)
		return e
	}
	h, methods, err := readHello(f.Payload)
	if err != nil {
		w.outbox.Fail(err)
		return err
	}
	var batch wire.Batch
	p.mu.Lock()
	if p.closing { // Close may have passed it by, when it had no process yet
		p.mu.Unlock()
		w.outbox.Fail(errEnding)
		return errEnding
	}
	w.ready, w.idle, w.versions = time.Now(), time.Now(), h.Worker
	w.maxFrame = min(w.maxFrame, h.MaxFrame)
	w.gen.methods = methods
	switch {
	case p.withheldLocked(w) && w.gen != p.next:
		p.mu.Unlock()
		w.outbox.Fail(errReplaced)
		return errReplaced
	case w.gen == p.current:
		p.takeInLocked(w, &batch)
		p.startFailure, p.failures = nil, 0
		p.setMethodsLocked(methods)
		p.inviteLocked(w)
		p.fillLocked(w, &batch)
		p.ensureLocked()
		p.replaceLocked(&batch)
	default:
		w.setStateLocked(workerPrepared)
	}
	p.changedLocked()
	p.unlock(&batch)
	batch.Flush()
	w.log.Info("worker ready", "pid", w.proc.PID(), "took_ms", time.Since(w.started).Milliseconds())
	return nil
}

// takeInLocked lets a worker take calls from now on.
func (p *Pool) takeInLocked(w *Worker, batch *wire.Batch) {
	w.setStateLocked(workerReady)
	if w.heard != p.notice.number {
		w.notifyLocked(batch, p.notice.method, p.notice.params)
	}
	overflow := w.overflow // or not any more, later
	p.tasks.Go(func() { p.watch(w, overflow) })
	p.tasks.Go(func() { p.sample(w) })
}
