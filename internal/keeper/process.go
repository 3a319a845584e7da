package keeper

import (
	"os"
	"sync/atomic"
	"syscall"
)

// Spec says what to start.
type Spec struct {
	// Argv is the program and its arguments. A program without a slash is looked up in the PATH of Env; a relative
	// path is taken from Dir.
	Argv []string
	// Env is the whole environment, as KEY=VALUE; nothing of the sidecar's is added.
	Env []string
	// Dir is the working directory; "" is the sidecar's.
	Dir string
	// Stdout and Stderr are the process's standard output and error; nil is /dev/null, which its standard input
	// always is.
	Stdout, Stderr *os.File
	// Files are its descriptors from 3 on. It has no others.
	Files []*os.File
}

// Process is a process that the keeper started or adopted. Its methods may be called by any goroutine.
type Process struct {
	client *Client
	pid    int
	killed atomic.Bool // Kill was called
	done   chan struct{}
	exit   ExitStatus // written before done is closed
}

// PID returns the process's number. After Done it may belong to another process.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended and was reaped, or ended with the keeper. What it left behind is being
// killed by then.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit waits for Done and returns how the process ended.
func (p *Process) Exit() ExitStatus {
	<-p.done
	return p.exit
}

// Signal sends a signal to the process alone. It returns os.ErrProcessDone when the process has ended, and does not
// wait for the signal to arrive.
func (p *Process) Signal(signal syscall.Signal) error {
	return p.request(&message{Signal: &signalRequest{PID: p.pid, Signal: int(signal)}})
}

// Kill ends the process and all that belongs to it by SIGKILL, stopped first so that nothing is forked away. It
// returns os.ErrProcessDone when the process has ended, and does not wait: Done tells.
func (p *Process) Kill() error {
	p.killed.Store(true)
	return p.request(&message{Kill: &killRequest{PID: p.pid}})
}

func (p *Process) request(m *message) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		return p.client.send(m, nil)
	}
}

func (p *Process) settle(status ExitStatus) {
	status.Killed = p.killed.Load()
	p.exit = status
	close(p.done)
}
