package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/packet"
)

// Config is for Start. Its zero value is useful.
type Config struct {
	// Path is the program that becomes the keeper; "" is the running one.
	Path string
	// Args are the arguments that make it call Main; nil is Subcommand alone.
	Args []string
	// Logger gets what the keeper has to say; nil drops it.
	Logger *slog.Logger
}

// ErrLost means that the keeper has died, or its client was closed. No process that it had is left.
var ErrLost = errors.New("the keeper has ended")

const (
	readyTimeout = 10 * time.Second // for the keeper to begin
	// A keeper that takes no request for writeTimeout, or answers none for answerTimeout, is killed: everything
	// begins anew then, which is better than a sidecar that can neither start nor end a process.
	writeTimeout  = 5 * time.Second
	answerTimeout = 30 * time.Second
	closeTimeout  = 5 * time.Second // for the keeper to kill all its descendants
	clearTimeout  = 5 * time.Second // for this process to do the same after the keeper's death
)

// Client is the sidecar's side of a keeper. A process has one at a time: if the keeper dies, the client kills all
// children of this process outside its session (ClearChildren). Its methods may be called by any goroutine.
type Client struct {
	log     *slog.Logger
	channel *packet.Socket
	keeper  *os.Process
	ready   chan struct{} // closed when the keeper has said that it is
	lost    chan struct{}
	ended   chan struct{} // closed when the keeper is gone and everything settled

	// mu guards what follows. Nothing is sent or waited for under it.
	mu        sync.Mutex
	closing   bool
	over      bool // no process or request is added any more
	lastID    uint64
	waiting   map[uint64]*waiter
	processes map[int]*Process
}

// waiter is a request that waits for its answer.
type waiter struct {
	settled   chan outcome // has room for the one outcome
	abandoned bool         // nobody waits any more
	limit     *time.Timer  // ends a keeper that does not answer
}

type outcome struct {
	process *Process
	err     error
}

// Start starts a keeper and waits until it takes requests. It makes this process a sub-reaper.
func Start(config Config) (*Client, error) {
	if config.Path == "" {
		config.Path = "/proc/self/exe" // also when the file was replaced or removed
	}
	if config.Args == nil {
		config.Args = []string{Subcommand}
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if err := BecomeSubreaper(); err != nil {
		return nil, err
	}
	own, process, err := startKeeper(config)
	if err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	c := &Client{
		log:       config.Logger,
		channel:   own,
		keeper:    process,
		ready:     make(chan struct{}),
		lost:      make(chan struct{}),
		ended:     make(chan struct{}),
		waiting:   make(map[uint64]*waiter),
		processes: make(map[int]*Process),
	}
	go c.receive() // ends with the keeper; Close waits for it
	limit := time.NewTimer(readyTimeout)
	defer limit.Stop()
	select {
	case <-c.ready:
		return c, nil
	case <-c.lost:
		err = errors.New("start keeper: it ended at once; its reason is on standard error")
	case <-limit.C:
		err = fmt.Errorf("start keeper: not ready within %s", readyTimeout)
	}
	return nil, errors.Join(err, c.Close())
}

// startKeeper starts the process with its end of a new control channel and returns the other end. It is given no
// environment: nothing of it is needed, and secrets may be in it.
func startKeeper(config Config) (*packet.Socket, *os.Process, error) {
	own, theirs, err := packet.Pair(writeTimeout)
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, errors.Join(err, own.Close())
	}
	defer null.Close()
	process, err := os.StartProcess(config.Path, append([]string{os.Args[0]}, config.Args...), &os.ProcAttr{
		Env:   []string{},
		Files: []*os.File{null, null, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, nil, errors.Join(err, own.Close())
	}
	return own, process, nil
}

// PID returns the number of the keeper's process.
func (c *Client) PID() int { return c.keeper.Pid }

// Lost is closed when the keeper ended without Close. Every process is settled then and none of them is left, unless
// the log says otherwise.
func (c *Client) Lost() <-chan struct{} { return c.lost }

// StartProcess starts a program and returns when it runs, or a *StartError that says why it does not. The files of
// the spec stay the caller's, who closes them. When ctx ends first, StartProcess returns its error at once, and a
// process that started all the same is killed as soon as the keeper tells of it: nobody else knows it.
func (c *Client) StartProcess(ctx context.Context, spec Spec) (*Process, error) {
	dir, err := filepath.Abs(spec.Dir) // "" becomes the working directory
	if err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	}
	given := make([]*os.File, 0, 2+len(spec.Files))
	for _, standard := range []*os.File{spec.Stdout, spec.Stderr} {
		if standard != nil {
			given = append(given, standard)
		}
	}
	files, err := duplicate(append(given, spec.Files...))
	if err != nil {
		return nil, err
	}
	defer packet.CloseFiles(files)
	return c.ask(ctx, &message{Start: &startRequest{
		Argv:   spec.Argv,
		Env:    spec.Env,
		Dir:    dir,
		Stdout: spec.Stdout != nil,
		Stderr: spec.Stderr != nil,
	}}, files)
}

// Adopt claims a process that a process of this keeper forked, so that it is one of its own from now on: reported
// when it ends, also if it has by now, and not part of the one that forked it. Its parent must have ended or end
// without waiting for it. ctx is as in StartProcess.
func (c *Client) Adopt(ctx context.Context, pid int) (*Process, error) {
	return c.ask(ctx, &message{Adopt: &adoptRequest{PID: pid}}, nil)
}

// Expect says that a process is about to be forked that will be adopted: until done is called, the keeper leaves it the time for that,
// whatever ends meanwhile.
func (c *Client) Expect() (done func()) {
	say := func(more int) { _ = c.send(&message{Expect: &expectRequest{More: more}}, nil) } // a keeper that is lost expects nothing
	say(1)
	return func() { say(-1) }
}

// Close has the keeper kill all its descendants and end, and waits for it. Every process is settled afterwards. The
// error says that the keeper did not manage in time, and what was left.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closing = true
	for _, p := range c.processes {
		p.killed.Store(true)
	}
	c.mu.Unlock()
	_ = c.channel.CloseWrite() // end of file for the keeper; an error means that it is gone
	limit := time.NewTimer(closeTimeout)
	defer limit.Stop()
	var err error
	select {
	case <-c.ended:
	case <-limit.C:
		err = fmt.Errorf("the keeper did not end within %s", closeTimeout)
		_ = c.keeper.Kill() // an error means that it has ended after all
		<-c.ended
	}
	return err
}

// ask sends a request for a process and waits for the answer, for ctx, or until the keeper has ended and everything is settled: after
// ErrLost the next keeper can be started at once.
func (c *Client) ask(ctx context.Context, m *message, files []int) (*Process, error) {
	process, err := c.request(ctx, m, files)
	if errors.Is(err, ErrLost) {
		select {
		case <-c.ended:
		case <-ctx.Done():
		}
	}
	return process, err
}

func (c *Client) request(ctx context.Context, m *message, files []int) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{settled: make(chan outcome, 1)}
	c.mu.Lock()
	if c.over || c.closing {
		c.mu.Unlock()
		return nil, ErrLost
	}
	c.lastID++
	m.ID = c.lastID
	c.waiting[m.ID] = w
	w.limit = time.AfterFunc(answerTimeout, func() { c.giveUp("answers no request") })
	c.mu.Unlock()
	if err := c.send(m, files); err != nil {
		if c.take(m.ID) != nil {
			return nil, err
		}
		settled := <-w.settled
		return settled.process, settled.err
	}
	select {
	case settled := <-w.settled:
		return settled.process, settled.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	w.abandoned = c.waiting[m.ID] != nil
	c.mu.Unlock()
	if w.abandoned {
		return nil, ctx.Err()
	}
	settled := <-w.settled // came at the same moment
	return settled.process, settled.err
}

// take removes a waiter, if it is still there: whoever gets it settles it.
func (c *Client) take(id uint64) *waiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.waiting[id]
	delete(c.waiting, id)
	if w != nil {
		w.limit.Stop()
	}
	return w
}

func (c *Client) send(m *message, files []int) error {
	err := c.channel.Send(m, files...)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.giveUp("takes no request")
		return fmt.Errorf("%w: it took no request for %s", ErrLost, writeTimeout)
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET), errors.Is(err, os.ErrClosed):
		return ErrLost
	}
	return err
}

// giveUp ends a keeper that is stuck; receive does the rest.
func (c *Client) giveUp(reason string) {
	c.log.Error("keeper is stuck and is killed", "keeper_pid", c.keeper.Pid, "reason", reason)
	_ = c.keeper.Kill() // an error means that it has ended
}

// duplicate returns copies of the files' descriptors, to be closed by the caller. os.File.Fd would do for most, but
// can change the file's mode.
func duplicate(files []*os.File) ([]int, error) {
	var copies []int
	for _, file := range files {
		raw, err := file.SyscallConn()
		if err == nil {
			var dupErr error
			err = raw.Control(func(fd uintptr) {
				var dup int
				if dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); dupErr == nil {
					copies = append(copies, dup)
				}
			})
			err = errors.Join(err, dupErr)
		}
		if err != nil {
			packet.CloseFiles(copies)
			return nil, fmt.Errorf("pass %s to a process: %w", file.Name(), err)
		}
	}
	return copies, nil
}
