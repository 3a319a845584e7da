package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 30 * time.Second
	// provenAfter is how long a worker has to live to count as one that works.
	provenAfter = 10 * time.Second
	// exitWait is how long a worker whose channel ended is waited for, so that its own exit status can be told.
	exitWait = 100 * time.Millisecond
)

// growLocked starts an overflow worker when calls wait and every worker is busy.
func (p *Pool) growLocked() {
	s := &p.cfg.Settings
	if p.closing || !p.lazyLocked() && len(p.workers) >= s.Size+s.MaxOverflow {
		return
	}
	for _, w := range p.workers {
		if w.state == workerStarting {
			return
		}
	}
	p.woken = true
	if len(p.workers) < s.Size {
		p.ensureLocked()
		return
	}
	if len(p.workers) < s.Size+s.MaxOverflow && p.failures == 0 {
		p.startLocked(true)
	}
}

// lazyLocked says whether the pool has not been needed yet.
func (p *Pool) lazyLocked() bool { return p.cfg.Settings.Lazy && !p.woken }

// ensureLocked starts workers until there are as many as wanted.
func (p *Pool) ensureLocked() {
	if p.closing || p.lazyLocked() || p.backingOff {
		return
	}
	steady := 0
	for _, w := range p.workers {
		if w.state != workerDraining {
			steady++
		}
	}
	want := p.cfg.Settings.Size
	if p.failures > 0 {
		want = min(want, steady+1) // one at a time until one works again
		for _, w := range p.workers {
			if w.state == workerStarting {
				return
			}
		}
	}
	for ; steady < want; steady++ {
		p.startLocked(false)
	}
}

func (p *Pool) startLocked(overflow bool) {
	p.lastWorker++
	id := fmt.Sprintf("worker_%d", p.lastWorker)
	w := &Worker{
		pool: p, id: id, log: p.cfg.Log.With("worker_id", id), overflow: overflow, started: time.Now(), idle: time.Now(),
		calls: make(map[uint64]*Call), requests: make(map[uint64]func(*wire.Frame, error)), asks: make(map[uint64]*Ask),
		gone: make(chan struct{}),
	}
	p.workers = append(p.workers, w)
	p.starts++
	p.tasks.Go(func() { p.run(w) })
}

// run is a worker's life.
func (p *Pool) run(w *Worker) {
	defer close(w.gone)
	ctx, cancel := context.WithTimeout(p.life, p.cfg.Settings.StartTimeout)
	defer cancel()
	proc, err := p.cfg.Starter.Start(ctx, w.id)
	if err != nil {
		p.ended(w, nil, fmt.Errorf("it could not be started: %w", err))
		return
	}
	reason := p.serve(ctx, w, proc)
	p.ended(w, proc, reason)
	_ = proc.Channel().Close()
	w.outbox.Wait()
}

// serve shakes hands with a worker and then reads from it until its channel ends.
func (p *Pool) serve(ctx context.Context, w *Worker, proc Process) error {
	reader, err := wire.NewReader(proc.Channel(), p.cfg.Settings.MaxFrame, 0)
	if err != nil {
		return err
	}
	defer reader.Release()
	outbox, err := wire.NewOutbox(proc.Channel(), 0, 0, nil)
	if err != nil {
		return err
	}
	hello, err := p.cfg.Hello(w.id)
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
		starting := w.state == workerStarting
		p.mu.Unlock()
		if starting {
			outbox.Fail(errStartTimeout)
		}
	})
	err = w.read(reader)
	late()
	switch {
	case refused != nil:
		return refused
	case outbox.Err() != nil && !errors.Is(outbox.Err(), io.EOF):
		return outbox.Err()
	}
	return err
}

var errStartTimeout = errors.New("it was not ready within start_timeout")

// greet takes a worker's answer to hello: it is ready.
func (p *Pool) greet(w *Worker, f *wire.Frame) error {
	if f.Error != nil {
		e := decodeError(f.Error)
		w.outbox.Fail(e)
		return e
	}
	var h workerHello
	if err := wire.Unmarshal(f.Payload, &h); err != nil {
		w.outbox.Fail(err)
		return fmt.Errorf("its answer to hello cannot be read: %w", err)
	}
	methods, err := h.table()
	if err != nil {
		w.outbox.Fail(err)
		return err
	}
	var batch wire.Batch
	p.mu.Lock()
	w.setStateLocked(workerReady)
	w.ready, w.idle, w.versions = time.Now(), time.Now(), h.Worker
	p.methods, p.startFailure, p.failures = methods, nil, 0
	p.tasks.Go(func() { p.watch(w) })
	p.fillLocked(w, &batch)
	p.ensureLocked()
	p.changedLocked()
	p.unlock(&batch)
	batch.Flush()
	w.log.Info("worker ready", "pid", w.proc.PID(), "took_ms", time.Since(w.started).Milliseconds())
	return nil
}

// ended clears up after a worker: its place is filled again, its calls are run again or settled, its process tree is gone.
func (p *Pool) ended(w *Worker, proc Process, cause error) {
	var batch wire.Batch
	p.mu.Lock()
	was, planned := w.state, w.state == workerDraining && w.why == ""
	w.setStateLocked(workerDead)
	for i, other := range p.workers {
		if other == w {
			p.workers = append(p.workers[:i], p.workers[i+1:]...)
			break
		}
	}
	calls := w.calls
	w.calls = map[uint64]*Call{}
	crashed := was == workerStarting || !planned && time.Since(w.ready) < provenAfter
	p.noteEndLocked(was, crashed)
	p.moveWaitingLocked(w, &batch)
	p.rerunLocked(calls, &batch)
	p.changedLocked()
	p.unlock(&batch)
	batch.Flush()

	reason := w.reap(proc, cause)
	p.mu.Lock()
	var failure *wire.Error
	if !planned && !p.closing {
		p.lastFailure, p.lastFailureAt = w.id+": "+reason, time.Now()
		if was == workerStarting {
			failure = p.startFailedLocked(w, proc, reason)
		}
	}
	for _, c := range calls {
		p.loseLocked(c, w, reason)
	}
	requests := w.requests
	w.requests = nil
	if failure != nil {
		p.failWaitingLocked(failure)
	}
	p.changedLocked()
	p.unlock(&batch)
	for _, done := range requests {
		done(nil, errors.New(reason))
	}
	batch.Flush()
	if planned || p.isClosing() {
		w.log.Info("worker ended", "reason", reason)
		return
	}
	w.log.Error("worker lost", "reason", reason, "calls", len(calls))
}

// noteEndLocked decides whether the place of a worker that ended is filled at once or after a wait.
func (p *Pool) noteEndLocked(was workerState, crashed bool) {
	switch {
	case was == workerStarting:
		p.failures++
	case crashed:
		p.crashes++
	default:
		p.crashes = 0
	}
	// A few crashes in a row are told from a worker that was killed by having nothing but crashes.
	soon := p.failures
	if soon == 0 && p.crashes > 2*p.cfg.Settings.Size+8 {
		soon = p.crashes - 2*p.cfg.Settings.Size - 8
	}
	if soon == 0 {
		p.ensureLocked()
		return
	}
	if p.backingOff || p.closing {
		return
	}
	wait := min(backoffMost, backoffFirst<<min(soon-1, 10))
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1)) //nolint:gosec // jitter needs no secrecy
	p.backingOff = true
	p.tasks.Go(func() {
		select {
		case <-time.After(wait):
		case <-p.life.Done():
		}
		p.mu.Lock()
		p.backingOff = false
		p.ensureLocked()
		p.mu.Unlock()
	})
}

// reap waits until the process tree is gone and says why the worker ended.
func (w *Worker) reap(proc Process, cause error) string {
	if proc == nil {
		return cause.Error()
	}
	w.pool.mu.Lock()
	why := w.why
	w.pool.mu.Unlock()
	select {
	case <-proc.Done():
	case <-time.After(exitWait):
	}
	exited := false
	select {
	case <-proc.Done():
		exited = true
	default:
	}
	proc.Kill() // what it may have left behind goes, too
	<-proc.Done()
	var e *wire.Error
	switch {
	case why != "":
		return why
	case errors.Is(cause, errStartTimeout), errors.As(cause, &e):
		return cause.Error()
	case exited:
		return proc.Exit()
	case errors.Is(cause, io.EOF):
		return "it closed its channel but went on, and was killed"
	}
	return cause.Error()
}

// startFailedLocked is what calls are told while no worker can be started.
func (p *Pool) startFailedLocked(w *Worker, proc Process, reason string) *wire.Error {
	e := wire.Errorf(wire.CodeNoWorkers, "no worker of pool %s can be started: %s: %s", p.cfg.Name, w.id, reason).With("reason", reason)
	if proc != nil {
		e = e.With("output", strings.Join(proc.Output(), "\n"))
	}
	p.startFailure = e
	return p.noWorkersLocked()
}

// noWorkersLocked is the error of calls for which there is no worker and none is coming; nil where they may wait.
func (p *Pool) noWorkersLocked() *wire.Error {
	for _, w := range p.workers {
		if w.state == workerReady || w.state == workerStarting {
			return nil
		}
	}
	return p.startFailure
}

// failWaitingLocked settles all calls that wait.
func (p *Pool) failWaitingLocked(err *wire.Error) {
	for p.waiting > 0 {
		o, _ := p.shares.largest()
		f, _ := o.shares.largest()
		p.failLocked(f.tail, err)
	}
}

// moveWaitingLocked lets the flows that waited for a dead worker go elsewhere.
func (p *Pool) moveWaitingLocked(w *Worker, batch *wire.Batch) {
	for !w.waiting.empty() {
		f := w.waiting.pop()
		f.unpinLocked()
		p.offerLocked(f, batch)
	}
}

// rerunLocked takes the calls that may be run again out of calls and puts them back into their queues.
func (p *Pool) rerunLocked(calls map[uint64]*Call, batch *wire.Batch) {
	for id, c := range calls {
		if c.state == callRunning && c.safe && !c.touched && c.reruns == 0 && !p.closing {
			delete(calls, id)
			c.reruns++
			p.againLocked(c, batch)
		}
	}
}

// loseLocked settles a call whose worker died.
func (p *Pool) loseLocked(c *Call, w *Worker, reason string) {
	err := wire.Errorf(wire.CodeWorkerLost, "worker %s died in the call: %s", w.id, reason).
		With("worker", w.id).With("reason", reason).With("maybe_executed", true)
	if c.state == callStopping {
		err = c.why.With("ended_by", "kill")
	}
	told := c.told
	c.setStateLocked(callFinished)
	c.told = true
	p.timeLocked(c)
	if !told {
		p.errors++
	}
	meta := wire.ResponseMeta{Worker: w.id, QueueUS: c.sent.Sub(c.queued).Microseconds(), RunUS: time.Since(c.sent).Microseconds()}
	p.todo = append(p.todo, func(b *wire.Batch) {
		if !told {
			c.Handler.Settle(b, &Result{Err: err, Meta: meta})
		}
		c.Handler.Finish(b)
	})
}

// condemnLocked makes a worker end that does not stop a call: it takes no new call, and those beside the stuck one get
// a grace time.
func (p *Pool) condemnLocked(w *Worker, why string) {
	if w.state != workerReady || w.why != "" {
		return
	}
	w.setStateLocked(workerDraining)
	w.why, w.quiet = why, make(chan struct{})
	w.settleDownLocked(time.Now())
	p.ensureLocked()
	p.changedLocked()
	p.tasks.Go(func() {
		select {
		case <-w.quiet:
		case <-time.After(p.cfg.Settings.CancelGrace):
		case <-w.gone:
			return
		}
		w.log.Warn("killing worker", "reason", why)
		w.proc.Kill()
	})
}
