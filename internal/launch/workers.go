package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/closed"
	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// forkAttempts is how many zygotes are asked in turn for one worker.
	forkAttempts = 3
	// A zygote that ends is replaced at once, unless it and the one before it ended within zygoteProven after they had been ready:
	// then after zygotePause, and ever later up to zygotePauseMost, or when a worker is wanted.
	zygoteProven    = 10 * time.Second
	zygotePause     = time.Second
	zygotePauseMost = 30 * time.Second
)

// WorkersConfig says what workers are started as.
type WorkersConfig struct {
	Python       string
	App          string // "module:attribute"; empty: the DSPy application alone
	Dir          string
	Env          []string
	Zygote       bool                 // fork them; else each is a fresh process
	StartTimeout func() time.Duration // for the application to be loaded; it may change
	Log          *slog.Logger
	Output       *slog.Logger // for what the processes print
}

// Workers is a pool.Starter. Make it with NewWorkers, end it with Close.
type Workers struct {
	cfg       WorkersConfig
	processes *Processes
	tasks     sync.WaitGroup
	life      context.Context //nolint:containedctx // its own: zygotes end with it
	end       context.CancelFunc

	mu      sync.Mutex // guards what follows
	current *zygote    // nil before the first worker is wanted
	fresh   bool       // workers cannot be forked from this application
	pause   time.Duration
}

// NewWorkers makes a starter. Where workers are to be forked, the application is loaded when the first one is wanted.
func NewWorkers(cfg WorkersConfig, p *Processes) *Workers {
	w := &Workers{cfg: cfg, processes: p}
	w.life, w.end = context.WithCancel(context.Background())
	return w
}

// Close ends the zygote; workers are the pool's to end.
func (w *Workers) Close() {
	w.mu.Lock() // a zygote that is being made is waited for
	w.end()
	w.mu.Unlock()
	w.tasks.Wait()
}

// Start starts a worker.
func (w *Workers) Start(ctx context.Context, workerID string) (pool.Process, error) {
	for attempt := 1; ; attempt++ {
		z, err := w.zygote(ctx)
		if err == nil && z == nil {
			return w.spawn(ctx, workerID)
		}
		var p pool.Process
		if err == nil {
			p, err = w.fork(ctx, z, workerID)
		}
		if err == nil || attempt == forkAttempts || !errors.Is(err, errZygoteEnded) {
			return p, err
		}
		w.cfg.Log.Warn("zygote lost; asking another one", "worker_id", workerID, "error", err.Error())
		select {
		case <-z.ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// zygote returns one that forks workers, waiting until it has loaded the application; nil where workers cannot be forked. With
// errZygoteEnded comes the one that has ended.
func (w *Workers) zygote(ctx context.Context) (*zygote, error) {
	w.mu.Lock()
	if !w.cfg.Zygote || w.fresh {
		w.mu.Unlock()
		return nil, nil //nolint:nilnil // there is none, and that is no error
	}
	if w.life.Err() != nil {
		w.mu.Unlock()
		return nil, errEnding
	}
	if w.current == nil || closed.Is(w.current.ended) {
		w.makeLocked()
	}
	z := w.current
	w.mu.Unlock()
	select {
	case <-z.known:
	case <-ctx.Done():
		return nil, &startError{reason: "the application is still being loaded: " + context.Cause(ctx).Error(), output: z.out.Last()}
	}
	if z.failure != nil {
		return z, z.failure
	}
	if len(z.unfit) == 0 {
		return z, nil
	}
	w.mu.Lock()
	first := !w.fresh
	w.fresh = true
	w.mu.Unlock()
	if first {
		w.cfg.Log.Warn("workers cannot be forked from this application: each is started as a fresh process, which is slower and takes more memory",
			"reasons", strings.Join(z.unfit, "; "))
	}
	return nil, nil //nolint:nilnil // as above
}

// makeLocked starts a zygote. When it ends by itself after it had been ready, another one takes its place, to be there when a
// worker is wanted.
func (w *Workers) makeLocked() {
	z := newZygote(NewOutput(w.cfg.Output.With("process", "zygote")))
	w.current = z
	argv := append(w.argv(), "--mode", "zygote")
	env := append(w.environ(), fmt.Sprintf("DSPEX_ZYGOTE_FD=%d", controlFD))
	w.tasks.Go(func() {
		z.run(w.life, w.processes, keeper.Spec{Argv: argv, Env: env, Dir: w.cfg.Dir}, w.cfg.StartTimeout())
		if z.failure != nil || len(z.unfit) > 0 || w.life.Err() != nil {
			return
		}
		pause := w.pauseAfter(z)
		w.cfg.Log.Error("zygote ended; making another one", "reason", z.process.Exit().String(), "after", pause.String())
		select {
		case <-time.After(pause):
		case <-w.life.Done():
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.current == z && w.life.Err() == nil {
			w.makeLocked()
		}
	})
}

// pauseAfter is how long to wait before a zygote that has ended is made anew.
func (w *Workers) pauseAfter(z *zygote) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(z.ready) >= zygoteProven {
		w.pause = 0
		return 0
	}
	pause := w.pause
	w.pause = min(max(2*pause, zygotePause), zygotePauseMost)
	return pause
}

// fork has a zygote fork a worker, and the keeper take it over.
func (w *Workers) fork(ctx context.Context, z *zygote, workerID string) (pool.Process, error) {
	channel, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	out := NewOutput(w.cfg.Output.With("worker_id", workerID))
	stdout, stderr, err := out.pipes()
	if err != nil {
		closeFiles(theirs)
		out.Close()
		return nil, errors.Join(err, channel.Close())
	}
	defer w.processes.expect()() //nolint:contextcheck // a keeper outlives the start of one process
	pid, err := z.fork(ctx, workerID, theirs, stdout, stderr)
	closeFiles(theirs, stdout, stderr) // the worker has its own
	var process *keeper.Process
	if err == nil {
		process, err = w.processes.adopt(ctx, pid)
		switch zygoteEnded := closed.Is(z.process.Done()); {
		case err != nil && (errors.Is(err, keeper.ErrLost) || zygoteEnded):
			err = fmt.Errorf("%w, and the worker with it: %w", errZygoteEnded, err) // as when their keeper died
		case err == nil && zygoteEnded: // before the adoption: the keeper may have taken the worker for the zygote's, and killed it
			_ = process.Kill() // it may have ended
			err = fmt.Errorf("%w before its worker was the keeper's", errZygoteEnded)
		}
	}
	if err != nil {
		out.Close()
		return nil, errors.Join(err, channel.Close())
	}
	return newWorker(process, channel, out), nil
}

// spawn starts a worker as a fresh process.
func (w *Workers) spawn(ctx context.Context, workerID string) (pool.Process, error) {
	channel, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer closeFiles(theirs)
	argv := append(w.argv(), "--mode", "pool-worker", "--worker-id", workerID)
	env := append(w.environ(), fmt.Sprintf("DSPEX_WORKER_FD=%d", controlFD))
	out := NewOutput(w.cfg.Output.With("worker_id", workerID))
	process, err := w.processes.Start(ctx, keeper.Spec{Argv: argv, Env: env, Dir: w.cfg.Dir, Files: []*os.File{theirs}}, out)
	if err != nil {
		return nil, errors.Join(err, channel.Close())
	}
	return newWorker(process, channel, out), nil
}

func (w *Workers) argv() []string {
	argv := []string{w.cfg.Python, "-m", "dspex_worker"}
	if w.cfg.App != "" {
		argv = append(argv, w.cfg.App)
	}
	return argv
}

func (w *Workers) environ() []string {
	return append([]string{"PYTHONUNBUFFERED=1"}, w.cfg.Env...)
}

// socketpair makes a worker's channel: the sidecar's end, and the file that the worker inherits.
func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a worker's channel: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel")
	defer closeFiles(ours) // FileConn has its own copy
	if err = errors.Join(wire.WidenBuffers(ours), wire.WidenBuffers(theirs)); err == nil {
		var conn net.Conn
		if conn, err = net.FileConn(ours); err == nil {
			return conn.(*net.UnixConn), theirs, nil //nolint:forcetypeassert // what a Unix socket's is
		}
	}
	closeFiles(theirs)
	return nil, nil, fmt.Errorf("making a worker's channel: %w", err)
}
