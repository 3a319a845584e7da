package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/internal/closed"
	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/internal/packet"
)

const (
	// controlFD is where a zygote finds its control socket: the first descriptor after the standard ones.
	controlFD = 3
	// forkTimeout is how long a zygote may take to fork. It does nothing else: one that takes longer is stuck and is killed.
	forkTimeout = 5 * time.Second
	// dismissWait is how long a zygote may take to end by itself, exit functions and all, when it is not needed any more.
	dismissWait = time.Second
)

// errZygoteEnded means that a zygote ended before it had forked what it was asked for: another one can be asked.
var errZygoteEnded = errors.New("the zygote ended")

// zygote is one process that has loaded, or is loading, the application, and forks workers. What is said on its control
// socket is in the worker's own text (zygote.py).
type zygote struct {
	out   *Output
	known chan struct{} // closed when it has said what it is, or has ended
	ended chan struct{}

	// Set before known is closed.
	unfit   []string // why workers cannot be forked from it; then it is not an error
	failure error    // why it forks nothing
	control *packet.Socket
	process *keeper.Process
	ready   time.Time

	mu      sync.Mutex // guards what follows
	lastID  uint64
	waiting map[uint64]forkRequest // nil when it has ended
}

type forkRequest struct {
	answered chan zygoteMessage // has room for the answer; closed when the zygote has ended
	late     *time.Timer        // ends a zygote that does not answer, whether or not somebody still waits for it
}

// zygoteMessage is a packet in either direction.
type zygoteMessage struct {
	ID     uint64   `msgpack:"id,omitempty"`
	Worker string   `msgpack:"worker,omitempty"`
	PID    int      `msgpack:"pid,omitempty"`
	Error  string   `msgpack:"error,omitempty"`
	Unfit  []string `msgpack:"unfit,omitempty"`
	Ready  *struct {
		PID int `msgpack:"pid"`
	} `msgpack:"ready,omitempty"`
	Failed *struct {
		Message string `msgpack:"message"`
	} `msgpack:"failed,omitempty"`
}

func newZygote(out *Output) *zygote {
	return &zygote{out: out, known: make(chan struct{}), ended: make(chan struct{}), waiting: make(map[uint64]forkRequest)}
}

// run is the zygote's life: it returns when the process has ended. Cancelling ctx dismisses it.
func (z *zygote) run(ctx context.Context, p *Processes, spec keeper.Spec, limit time.Duration) {
	defer close(z.ended)
	lost := false // with its keeper, which says nothing of the application
	err := z.start(ctx, p, spec)
	if err == nil {
		dismiss := context.AfterFunc(ctx, z.dismiss)
		late := time.AfterFunc(limit, z.kill)
		err = z.receive(late)
		expired := !z.isKnown() && !late.Stop()
		dismiss()
		z.leave() // one that closed its end and lives on
		<-z.process.Done()
		z.out.Finish()
		if errors.Is(err, errZygoteEnded) {
			err = fmt.Errorf("%w: %s", err, z.process.Exit())
		}
		lost = errors.Is(err, errZygoteEnded) && z.process.Exit().Lost
		if expired {
			err = fmt.Errorf("the application was not loaded within %s (start_timeout)", limit)
		}
		_ = z.control.Close() // nobody uses it any more
	}
	z.mu.Lock()
	waiting := z.waiting
	z.waiting = nil
	z.mu.Unlock()
	for _, r := range waiting {
		r.late.Stop()
		close(r.answered)
	}
	if !z.isKnown() {
		z.failure = &startError{reason: err.Error(), output: z.out.Last()}
		if lost {
			z.failure = err
		}
		close(z.known)
	}
}

func (z *zygote) start(ctx context.Context, p *Processes, spec keeper.Spec) error {
	control, theirs, err := packet.Pair(forkTimeout)
	if err != nil {
		return err
	}
	defer closeFiles(theirs)
	spec.Files = []*os.File{theirs}
	z.control = control
	if z.process, err = p.Start(ctx, spec, z.out); err != nil {
		return errors.Join(fmt.Errorf("the zygote was not started: %w", err), control.Close())
	}
	return nil
}

// receive handles what the zygote says until its end, and says why it ended. What it says of itself stops late.
func (z *zygote) receive(late *time.Timer) error {
	for {
		var m zygoteMessage
		files, err := z.control.Receive(&m)
		packet.CloseFiles(files) // a zygote sends none
		switch {
		case errors.Is(err, io.EOF):
			return errZygoteEnded
		case err != nil:
			return err
		case m.Failed != nil:
			return errors.New(m.Failed.Message)
		case m.Ready != nil, len(m.Unfit) > 0:
			late.Stop()
			if !z.isKnown() {
				z.unfit, z.ready = m.Unfit, time.Now()
				close(z.known)
			}
		default:
			z.answered(m)
		}
	}
}

func (z *zygote) answered(m zygoteMessage) {
	z.mu.Lock()
	r, asked := z.waiting[m.ID]
	delete(z.waiting, m.ID)
	z.mu.Unlock()
	if asked {
		r.late.Stop()
		r.answered <- m
	}
}

// fork asks for a worker and returns its process number. The files stay the caller's. Errors: errZygoteEnded, or why it could not
// fork.
func (z *zygote) fork(ctx context.Context, workerID string, channel, stdout, stderr *os.File) (int, error) {
	r := forkRequest{answered: make(chan zygoteMessage, 1)}
	z.mu.Lock()
	if z.waiting == nil {
		z.mu.Unlock()
		return 0, errZygoteEnded
	}
	z.lastID++
	id := z.lastID
	r.late = time.AfterFunc(forkTimeout, z.giveUp)
	z.waiting[id] = r
	z.mu.Unlock()
	// Fd puts the files into blocking mode, which is what a worker wants of its standard output.
	err := z.control.Send(&zygoteMessage{ID: id, Worker: workerID}, int(channel.Fd()), int(stdout.Fd()), int(stderr.Fd()))
	if err != nil {
		z.kill() // it reads nothing, or is gone
		return 0, fmt.Errorf("%w: %w", errZygoteEnded, err)
	}
	select {
	case m, ok := <-r.answered:
		switch {
		case !ok:
			return 0, errZygoteEnded
		case m.Error != "":
			return 0, errors.New("the zygote: " + m.Error)
		}
		return m.PID, nil
	case <-ctx.Done():
		return 0, ctx.Err() // a worker that it forks all the same finds its channel closed, and ends
	}
}

// dismiss asks the zygote to end by itself, which runs its exit functions. One that still loads the application does not hear it.
func (z *zygote) dismiss() {
	if !z.isKnown() {
		z.kill()
		return
	}
	_ = z.control.CloseWrite() // gone already, if anything
	z.leave()
}

// leave gives the zygote the time to end by itself, and kills it where it does not.
func (z *zygote) leave() {
	select {
	case <-z.process.Done():
	case <-time.After(dismissWait):
		z.kill()
	}
}

// giveUp ends a zygote that is stuck.
func (z *zygote) giveUp() {
	z.out.log.Error("zygote does not fork and is killed", "pid", z.process.PID(), "after", forkTimeout.String())
	z.kill()
}

func (z *zygote) kill() { _ = z.process.Kill() } // one that has ended needs none

func (z *zygote) isKnown() bool { return closed.Is(z.known) }

// startError is a worker that was not started, with the last lines that the zygote printed.
type startError struct {
	reason string
	output []string
}

func (e *startError) Error() string { return e.reason }

// Output is what the pool asks for.
func (e *startError) Output() []string { return e.output }
