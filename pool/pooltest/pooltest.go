// Package pooltest has workers for the tests of packages that use a pool: they live in the test's process, speak wire over
// real sockets, and do what the test says. It is no part of the sidecar.
package pooltest

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// Method describes a method in a worker's answer to hello.
type Method map[string]any

// Plain is a method that takes a session or none.
func Plain(name string) Method {
	return Method{"name": name, "doc": "", "params": Method{}, "result": Method{}, "stream": "none", "session": "optional", "read_only": false, "retry": nil}
}

// With returns the method with one property changed.
func (m Method) With(key string, value any) Method {
	out := Method{key: value}
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// Starter is a pool.Starter. Handle is called in a goroutine of each worker, for every frame but hello, ping and sidecar.stacks. Of the other functions
// any may be nil.
type Starter struct {
	TB      testing.TB
	Methods []Method
	Handle  func(w *Worker, m wiretest.Message)
	// Fail decides whether a start fails.
	Fail func(id string) error
	// Hello answers hello in place of the worker, or does not.
	Hello func(w *Worker, m wiretest.Message)
	// Ping does so with a heartbeat.
	Ping func(w *Worker, m wiretest.Message)
	// Stacks is what a worker prints when it is asked where it is.
	Stacks func(ctx context.Context, w *Worker) []string
	// Live is what it prints when it is asked and goes on.
	Live func(ctx context.Context, w *Worker) []string
	// Where answers the question where calls are, which others refuse.
	Where func(w *Worker, m wiretest.Message)
	// Vitals are what the kernel would say of a worker.
	Vitals func(w *Worker) pool.Vitals
	// Deaf workers live on when their channel ends: only Kill and Die end them.
	Deaf bool

	mu      sync.Mutex // guards what follows
	workers []*Worker
	ends    []func()
}

// Close clears up after all workers. It is called when the pool has been closed: sockets that end with the test would end before
// the pool does.
func (s *Starter) Close() {
	s.mu.Lock()
	ends := s.ends
	s.ends = nil
	s.mu.Unlock()
	for _, end := range slices.Backward(ends) {
		end()
	}
}

// atClose is a test whose clean-ups are Close's.
type atClose struct {
	testing.TB
	starter *Starter
}

func (a atClose) Cleanup(f func()) {
	a.starter.mu.Lock()
	defer a.starter.mu.Unlock()
	a.starter.ends = append(a.starter.ends, f)
}

// Worker is one of them.
type Worker struct {
	Name string
	*wiretest.Peer

	starter *Starter
	tb      testing.TB
	sending sync.Mutex // held while a frame is written
	channel *net.UnixConn
	done    chan struct{}
	once    sync.Once
	exit    string
	lost    atomic.Bool

	mu     sync.Mutex // guards what follows
	output []string
}

// Start makes a worker that answers hello at once.
func (s *Starter) Start(_ context.Context, id string) (pool.Process, error) {
	if s.Fail != nil {
		if err := s.Fail(id); err != nil {
			return nil, err
		}
	}
	tb := atClose{s.TB, s}
	ours, theirs := wiretest.Pair(tb)
	w := &Worker{Name: id, Peer: wiretest.NewPeer(tb, theirs), starter: s, tb: tb, channel: ours, done: make(chan struct{})}
	s.mu.Lock()
	s.workers = append(s.workers, w)
	s.mu.Unlock()
	served := w.Serve(func(m wiretest.Message) {
		switch {
		case m.Method == "hello" && s.Hello != nil:
			s.Hello(w, m)
		case m.Method == "hello":
			w.Answer(m, s.Greeting())
		case m.Method == "ping" && s.Ping != nil:
			s.Ping(w, m)
		case m.Method == "ping":
			w.Answer(m, map[string]any{})
		case m.Method == "sidecar.stacks" && s.Where != nil:
			s.Where(w, m)
		case m.Method == "sidecar.stacks":
			w.Refuse(m, wire.Errorf(wire.CodeUnknownMethod, "no such method"))
		default:
			s.Handle(w, m)
		}
	})
	if !s.Deaf {
		go func() { // ends with the connection
			<-served
			w.end("exit code 0")
		}()
	}
	return w, nil
}

// Greeting is what a worker answers to hello.
func (s *Starter) Greeting() map[string]any {
	return map[string]any{
		"protocol": wire.Protocol, "features": []string{}, "worker": map[string]any{"name": "test"}, "pid": 1, "max_frame": wire.DefaultFrame,
		"methods": s.Methods,
	}
}

// Workers are those started so far, dead ones included.
func (s *Starter) Workers() []*Worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Worker(nil), s.workers...)
}

// Named is the worker of that id.
func (s *Starter) Named(id string) *Worker {
	for _, w := range s.Workers() {
		if w.Name == id {
			return w
		}
	}
	s.TB.Fatalf("no worker %q", id)
	return nil
}

// Send writes one frame; a worker that is dead, or whose pool has gone, sends nothing.
func (w *Worker) Send(items ...any) {
	w.sending.Lock()
	defer w.sending.Unlock()
	_, _ = w.Conn.Write(wiretest.Frame(w.tb, items...)) // the pool has seen to it
}

// Answer sends the result of a request.
func (w *Worker) Answer(m wiretest.Message, result any) {
	w.Send(wire.KindResponse, m.ID, nil, nil, result)
}

// Refuse answers a request with an error.
func (w *Worker) Refuse(m wiretest.Message, e *wire.Error) {
	w.Send(wire.KindResponse, m.ID, nil, e, nil)
}

// Die ends the worker as kill -9 would.
func (w *Worker) Die() { w.end("killed by SIGKILL") }

// Leave ends the worker as if by itself.
func (w *Worker) Leave(exit string) { w.end(exit) }

func (w *Worker) end(exit string) {
	w.once.Do(func() {
		w.exit = exit
		_ = w.Conn.Close() // its peer may have ended it
		close(w.done)
	})
}

// PID is the same for all.
func (w *Worker) PID() int { return 1 }

// Channel is the pool's end.
func (w *Worker) Channel() *net.UnixConn { return w.channel }

// Done is closed when the worker has ended.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Exit says how.
func (w *Worker) Exit() string { return w.exit }

// Kill ends it.
func (w *Worker) Kill() { w.end("killed by the pool") }

// LeaveWithAll ends the worker as its keeper's end would.
func (w *Worker) LeaveWithAll() {
	w.lost.Store(true)
	w.end("ended with the keeper")
}

// Lost says whether it ended that way.
func (w *Worker) Lost() bool { return w.lost.Load() }

// Print adds lines to what the worker has printed.
func (w *Worker) Print(lines ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.output = append(w.output, lines...)
}

// Output is what it has printed.
func (w *Worker) Output() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.output)
}

// Stacks is what the starter's Stacks says.
func (w *Worker) Stacks(ctx context.Context) []string {
	if w.starter.Stacks == nil {
		return nil
	}
	return w.starter.Stacks(ctx, w)
}

// LiveStacks is what the starter's Live says.
func (w *Worker) LiveStacks(ctx context.Context) []string {
	if w.starter.Live == nil {
		return nil
	}
	return w.starter.Live(ctx, w)
}

// Vitals is what the starter's Vitals says.
func (w *Worker) Vitals() (pool.Vitals, error) {
	if w.starter.Vitals == nil {
		return pool.Vitals{State: 'S'}, nil
	}
	return w.starter.Vitals(w), nil
}

// CloseChannel ends the worker's half of its channel, and the worker lives on.
func (w *Worker) CloseChannel() { _ = w.Conn.CloseWrite() } // its peer may have ended it
