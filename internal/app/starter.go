package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/pool"
)

// channelFD is where a worker finds its channel: the first descriptor after the standard ones.
const channelFD = 3

// channelBuffer is asked for on both ends of a worker's channel.
const channelBuffer = 2 << 20

// outputWait is how long output is read on after its process ended, for what is still in the pipe.
const outputWait = 200 * time.Millisecond

// starter starts workers as fresh Python processes.
type starter struct {
	cfg       *config.Config
	env       []string
	processes *processes
	log       *slog.Logger
}

func newStarter(cfg *config.Config, environ []string, p *processes, log *slog.Logger) (*starter, error) {
	env, err := cfg.Pool.Environ(environ)
	if err != nil {
		return nil, err
	}
	env = append(env, fmt.Sprintf("DSPEX_WORKER_FD=%d", channelFD), "PYTHONUNBUFFERED=1")
	return &starter{cfg: cfg, env: env, processes: p, log: log}, nil
}

// Start starts the worker with one end of a socketpair.
func (s *starter) Start(ctx context.Context, workerID string) (pool.Process, error) {
	channel, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer closeFiles(theirs)
	argv := []string{s.cfg.Pool.Python, "-m", "dspex_worker"}
	if s.cfg.Pool.App != "" {
		argv = append(argv, s.cfg.Pool.App)
	}
	argv = append(argv, "--mode", "pool-worker", "--worker-id", workerID)
	out := newOutput(s.log.With("worker_id", workerID))
	process, err := s.processes.start(ctx, keeper.Spec{Argv: argv, Env: s.env, Dir: s.cfg.Dir, Files: []*os.File{theirs}}, out)
	if err != nil {
		return nil, errors.Join(err, channel.Close())
	}
	p := &workerProcess{process: process, channel: channel, out: out, done: make(chan struct{})}
	go p.wait() // ends with the process
	return p, nil
}

// workerProcess is a pool.Process.
type workerProcess struct {
	process *keeper.Process
	channel *net.UnixConn
	out     *output
	done    chan struct{}
}

// wait lets the output be complete before the process counts as done.
func (p *workerProcess) wait() {
	<-p.process.Done()
	read := make(chan struct{})
	go func() { // ends with the pipes
		p.out.readers.Wait()
		close(read)
	}()
	select {
	case <-read:
	case <-time.After(outputWait):
		p.out.close() // something that the worker left behind holds them
		<-read
	}
	close(p.done)
}

func (p *workerProcess) PID() int               { return p.process.PID() }
func (p *workerProcess) Channel() *net.UnixConn { return p.channel }
func (p *workerProcess) Done() <-chan struct{}  { return p.done }
func (p *workerProcess) Exit() string           { return p.process.Exit().String() }
func (p *workerProcess) Output() []string       { return p.out.last() }

func (p *workerProcess) Kill() {
	_ = p.process.Kill() // one that has ended needs none
}

// socketpair makes a worker's channel: the sidecar's end, and the file that the worker inherits.
func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a worker's channel: %w", err)
	}
	for _, fd := range fds {
		for _, o := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], channelBuffer) != nil {
				_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], channelBuffer)
			}
		}
	}
	theirs := os.NewFile(uintptr(fds[1]), "channel")
	ours := os.NewFile(uintptr(fds[0]), "channel")
	defer closeFiles(ours) // FileConn has its own copy
	conn, err := net.FileConn(ours)
	if err != nil {
		closeFiles(theirs)
		return nil, nil, fmt.Errorf("making a worker's channel: %w", err)
	}
	channel, ok := conn.(*net.UnixConn)
	if !ok {
		closeFiles(theirs)
		return nil, nil, errors.Join(fmt.Errorf("making a worker's channel: a %T", conn), conn.Close())
	}
	return channel, theirs, nil
}
