package pool

import (
	"cmp"
	"slices"
	"time"
)

// Snapshot is a consistent copy of a pool's figures.
type Snapshot struct {
	Name        string
	Size        int
	MaxOverflow int
	Concurrency int
	Waiting     int
	InFlight    int // at workers
	Commands    uint64
	Errors      uint64
	Restarts    int // workers started beyond the largest Size that the pool had
	Lazy        bool
	LastFailure string
	FailedFor   time.Duration // since LastFailure
	NoWorkers   string        // why no worker can be started; empty where one can
	StartFailed string        // why the last start failed, until one is ready
	Printed     string        // the last lines of that worker
	QueueFull   bool
	Paused      bool
	Generation  int
	Workers     []WorkerSnapshot // those of a generation that is getting ready included
}

// WorkerSnapshot is one worker's part of it.
type WorkerSnapshot struct {
	ID         string
	State      string
	Generation int
	Overflow   bool
	PID        int
	InFlight   int
	Slots      int // calls that it takes at once
	Pins       int
	Calls      uint64
	Errors     uint64
	Age        time.Duration
	Leaving    string // why it is to be replaced, or made to end
	Place      int    // from 1; a worker that takes another's place has that one's
	Failure    string // how the last worker failed that did at its place
	Memory     int64  // when it was last looked at; 0: it was not
	Versions   map[string]any
}

// Ready counts the workers that take calls.
func (s *Snapshot) Ready() int {
	n := 0
	for i := range s.Workers {
		if s.Workers[i].State == workerReady.String() {
			n++
		}
	}
	return n
}

// Slots is how many calls the ready workers take at once.
func (s *Snapshot) Slots() int {
	n := 0
	for i := range s.Workers {
		if s.Workers[i].State == workerReady.String() {
			n += s.Workers[i].Slots
		}
	}
	return n
}

// Busy is how many of those slots calls take.
func (s *Snapshot) Busy() int {
	n := 0
	for i := range s.Workers {
		if s.Workers[i].State == workerReady.String() {
			n += s.Workers[i].InFlight
		}
	}
	return n
}

// Name is the pool's.
func (p *Pool) Name() string { return p.cfg.Name }

// Snapshot copies the pool's figures.
func (p *Pool) Snapshot() Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := &p.cfg.Settings
	s := Snapshot{
		Name: p.cfg.Name, Size: set.Size, MaxOverflow: set.MaxOverflow, Concurrency: set.Concurrency, Waiting: p.waiting,
		Commands: p.commands, Errors: p.errors, Restarts: max(0, p.starts-p.mostSize), Lazy: p.lazyLocked(), Paused: p.paused,
		Generation: p.current.number, LastFailure: p.lastFailure, QueueFull: set.QueueLimit > 0 && p.waiting >= set.QueueLimit,
	}
	if p.lastFailure != "" {
		s.FailedFor = time.Since(p.lastFailureAt)
	}
	if e := p.noWorkersLocked(); e != nil {
		s.NoWorkers = e.Message
	}
	if p.startFailure != nil {
		s.StartFailed = p.startFailure.Message
		s.Printed, _ = p.startFailure.Details["output"].(string)
	}
	for _, w := range p.workers {
		s.Workers = append(s.Workers, w.snapshotLocked())
		s.InFlight += len(w.calls)
	}
	if p.next != nil {
		for _, w := range p.next.workers {
			s.Workers = append(s.Workers, w.snapshotLocked())
		}
	}
	return s
}

func (w *Worker) snapshotLocked() WorkerSnapshot {
	s := WorkerSnapshot{
		ID: w.id, State: w.state.String(), Generation: w.gen.number, Overflow: w.overflow, InFlight: len(w.calls), Slots: w.slots, Pins: w.pins,
		Calls: w.total, Errors: w.errors, Age: time.Since(w.started), Leaving: cmp.Or(w.why, w.recycle), Place: w.place, Failure: w.gen.failures[w.place],
		Memory: w.memory, Versions: w.versions,
	}
	if w.proc != nil {
		s.PID = w.proc.PID()
	}
	return s
}

// Memory is what the workers at each place take now, as far as the kernel says: one that leaves counts until it has.
func (p *Pool) Memory() map[int]int64 {
	p.mu.Lock()
	workers := slices.Clone(p.workers)
	workers = slices.DeleteFunc(workers, func(w *Worker) bool { return w.proc == nil })
	p.mu.Unlock()
	out := make(map[int]int64, len(workers))
	for _, w := range workers {
		if m := w.vitals().Memory; m > 0 {
			out[w.place] += m
		}
	}
	return out
}
