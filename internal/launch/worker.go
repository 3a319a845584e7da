package launch

import (
	"net"

	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/pool"
)

var _ pool.Loser = (*worker)(nil)

// worker is a pool.Process.
type worker struct {
	process *keeper.Process
	channel *net.UnixConn
	out     *Output
	done    chan struct{}
}

func newWorker(process *keeper.Process, channel *net.UnixConn, out *Output) *worker {
	w := &worker{process: process, channel: channel, out: out, done: make(chan struct{})}
	go w.wait() // ends with the process
	return w
}

// wait lets the output be complete before the process counts as done.
func (w *worker) wait() {
	<-w.process.Done()
	w.out.Finish()
	close(w.done)
}

func (w *worker) PID() int               { return w.process.PID() }
func (w *worker) Channel() *net.UnixConn { return w.channel }
func (w *worker) Done() <-chan struct{}  { return w.done }
func (w *worker) Exit() string           { return w.process.Exit().String() }
func (w *worker) Lost() bool             { return w.process.Exit().Lost }
func (w *worker) Output() []string       { return w.out.Last() }

func (w *worker) Kill() {
	_ = w.process.Kill() // one that has ended needs none
}
