package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// namedLocked is the worker of that id, of any generation; nil where there is none.
func (p *Pool) namedLocked(id string) *Worker {
	of := func(workers []*Worker) *Worker {
		if i := slices.IndexFunc(workers, func(w *Worker) bool { return w.id == id }); i >= 0 {
			return workers[i]
		}
		return nil
	}
	if w := of(p.workers); w != nil || p.next == nil {
		return w
	}
	return of(p.next.workers)
}

// KillWorker kills a worker at once; another takes its place, but for one of a generation that gets ready, which fails then. Its calls are run again where that is safe, else answered worker_lost. It returns false where
// there is no such worker.
func (p *Pool) KillWorker(id, why string) bool {
	var batch wire.Batch
	p.mu.Lock()
	w := p.namedLocked(id)
	if w == nil {
		p.mu.Unlock()
		return false
	}
	if w.why == "" {
		w.why, w.end = why, endKilled
	}
	if w.state == workerReady {
		w.setStateLocked(workerDraining)
	}
	proc := w.proc
	p.moveWaitingLocked(w, &batch)
	p.ensureLocked()
	p.unlock(&batch)
	batch.Flush()
	w.log.Warn("killing worker", "reason", why)
	if proc != nil {
		proc.Kill()
	} else {
		w.stop(errors.New(why))
	}
	return true
}

// Ping asks all workers that take calls for an answer, at once, and returns how long each took; below zero where one did not answer before ctx was done. No
// worker is ended for it.
func (p *Pool) Ping(ctx context.Context) map[string]time.Duration {
	p.mu.Lock()
	var asked []*Worker
	for _, w := range p.workers {
		if w.state == workerReady {
			asked = append(asked, w)
		}
	}
	p.mu.Unlock()
	out := make(map[string]time.Duration, len(asked))
	var mu sync.Mutex // guards out
	var all sync.WaitGroup
	for _, w := range asked {
		all.Go(func() {
			began := time.Now()
			took := time.Duration(-1)
			if answered, ok := p.ping(w); ok {
				select {
				case <-answered:
					took = time.Since(began)
				case <-ctx.Done():
				}
			}
			mu.Lock()
			out[w.id] = took
			mu.Unlock()
		})
	}
	all.Wait()
	return out
}

// CallStacks is where one call of a worker is.
type CallStacks struct {
	Connection string // whose call it is, and its id there
	Request    uint64
	Method     string
	Since      time.Duration // that it has been at the worker
	Stacks     string        // "" where the worker does not say
}

// WorkerStacks is where a worker is.
type WorkerStacks struct {
	Threads []string // lines; none where the worker cannot say
	Calls   []CallStacks
}

// Stacks asks a worker where it is, which goes on meanwhile. It returns false where there is no such worker with a process.
func (p *Pool) Stacks(ctx context.Context, id string) (*WorkerStacks, bool) {
	p.mu.Lock()
	w := p.namedLocked(id)
	if w == nil || w.proc == nil {
		p.mu.Unlock()
		return nil, false
	}
	proc := w.proc
	now := time.Now()
	out := &WorkerStacks{}
	var ids []uint64
	for id, c := range w.calls {
		ids = append(ids, id)
		out.Calls = append(out.Calls, CallStacks{Connection: c.Connection, Request: c.Request, Method: c.method.Name, Since: now.Sub(c.sent)})
	}
	p.mu.Unlock()
	q := &inquiry{answered: make(chan struct{})}
	if len(ids) > 0 && p.askWhere(w, ids, q) {
		select {
		case <-q.answered:
			for i, id := range ids {
				out.Calls[i].Stacks = q.stacks[id]
			}
		case <-ctx.Done():
		case <-time.After(liveWait):
		}
	}
	if dumper, ok := proc.(Dumper); ok {
		limit, cancel := context.WithTimeout(ctx, liveWait)
		defer cancel()
		out.Threads = dumper.LiveStacks(limit)
	}
	return out, true
}

// liveWait is how long a worker is waited for that is asked by people: longer than where a client waits for it.
const liveWait = time.Second
