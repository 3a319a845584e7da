package launch

import (
	"context"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/pool"
)

const (
	// stacksPause without a line means that a dump is complete: it is written at one go. On a machine that is busy more than that may pass.
	stacksPause = 50 * time.Millisecond
	// stacksLines is how many lines of a dump are taken.
	stacksLines = 1000
)

var _ pool.Dumper = (*worker)(nil)

// Stacks asks the worker where it is. Its faulthandler answers on standard error, even while C code holds the interpreter's lock.
func (w *worker) Stacks(ctx context.Context) []string {
	return w.out.stacks(ctx, func() error { return w.process.Signal(unix.SIGUSR1) })
}

// stacks returns what faulthandler prints after ask. All else that is printed meanwhile may be another client's affair.
func (o *Output) stacks(ctx context.Context, ask func() error) []string {
	lines := make(chan string, stacksLines)
	o.listen(lines)
	defer o.listen(nil)
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
				complete = time.After(stacksPause)
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

// listen passes on each line that is printed on standard error from now on, as far as there is room; nil ends it.
func (o *Output) listen(to chan<- string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.listener = to
}
