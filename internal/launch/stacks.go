package launch

import (
	"context"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/procs"
	"github.com/dspex/dspex-sidecar/pool"
)

const (
	// liveStacksSignal is one that no application uses; stacks.py has its number, too.
	liveStacksSignal = unix.Signal(50)
	// stacksPause without a line means that a dump is complete: it is written at one go. On a machine that is busy more than that may pass.
	// Where there is less time, a third of it does.
	stacksPause = 50 * time.Millisecond
	// stacksLines is how many lines of a dump are taken.
	stacksLines = 1000
)

var _ pool.Dumper = (*worker)(nil)

// Stacks asks the worker where it is. Its faulthandler answers on standard error, even while C code holds the interpreter's lock.
func (w *worker) Stacks(ctx context.Context) []string {
	return w.out.stacks(ctx, func() error { return w.process.Signal(unix.SIGUSR1) })
}

// LiveStacks asks a worker that goes on. A thread of its own waits for the signal, and reads the stacks while it holds the interpreter's lock
// (stacks.py): faulthandler reads those of threads that run, too, and crashes every thousandth time or so.
func (w *worker) LiveStacks(ctx context.Context) []string {
	if prepared, err := procs.Blocks(w.process.PID(), liveStacksSignal); err != nil || !prepared {
		return nil // the signal would end it
	}
	return w.out.stacks(ctx, func() error { return w.process.Signal(liveStacksSignal) })
}

// stacks returns what faulthandler prints after ask. All else that is printed meanwhile may be another client's affair.
func (o *Output) stacks(ctx context.Context, ask func() error) []string {
	pause := stacksPause
	if limit, ok := ctx.Deadline(); ok {
		pause = min(pause, time.Until(limit)/3)
	}
	lines := make(chan string, stacksLines)
	defer o.listen(lines)()
	if ask() != nil {
		return nil // it has ended
	}
	var found []string
	var complete <-chan time.Time
	for len(found) < stacksLines {
		select {
		case line := <-lines:
			if stackLine.MatchString(line) {
				found = append(found, line)
				complete = time.After(pause)
			}
		case <-complete:
			return found
		case <-ctx.Done():
			return found
		}
	}
	return found
}

// stackLine is a line as faulthandler prints it, whole: what else is printed at that moment may come between its parts.
var stackLine = regexp.MustCompile(`^(Current thread|Thread) 0x[0-9a-f]+( \[[^\]]*\])? \(most recent call first\):$` +
	`|^  File "[/<][^"]*", line ([0-9]+|\?\?\?) in \S+$|^  <no Python frame>$|^  \.\.\.$`)

// listen passes on each line that is printed on standard error from now on, as far as there is room.
func (o *Output) listen(to chan<- string) (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.listeners = append(o.listeners, to)
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.listeners = slices.DeleteFunc(o.listeners, func(other chan<- string) bool { return other == to })
	}
}
