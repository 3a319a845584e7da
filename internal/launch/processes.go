package launch

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"

	"github.com/dspex/dspex-sidecar/internal/keeper"
)

// Processes starts all processes of the sidecar by way of the keeper, and starts a new keeper where the last one died.
type Processes struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	client *keeper.Client
	closed bool
}

var errEnding = errors.New("the sidecar is ending")

// NewProcesses starts a keeper.
func NewProcesses(log *slog.Logger) (*Processes, error) {
	client, err := keeper.Start(keeper.Config{Logger: log})
	if err != nil {
		return nil, err
	}
	return &Processes{log: log, client: client}, nil
}

// keeperAttempts is how many keepers are asked in turn to start one process: one that has just died is nobody's fault.
const keeperAttempts = 2

// Start starts a process, whose output goes to out.
func (p *Processes) Start(ctx context.Context, spec keeper.Spec, out *Output) (*keeper.Process, error) {
	stdout, stderr, err := out.pipes()
	if err != nil {
		out.Close()
		return nil, err
	}
	spec.Stdout, spec.Stderr = stdout, stderr
	var process *keeper.Process
	for range keeperAttempts {
		var client *keeper.Client
		if client, err = p.keeper(); err != nil { //nolint:contextcheck // a keeper outlives the start of one process
			break
		}
		if process, err = client.StartProcess(ctx, spec); !errors.Is(err, keeper.ErrLost) {
			break
		}
	}
	_, _ = stdout.Close(), stderr.Close() // the process has its own
	if err != nil {
		out.Close()
	}
	return process, err
}

// expect tells the keeper of a process that will be adopted.
func (p *Processes) expect() (done func()) {
	client, err := p.keeper()
	if err != nil {
		return func() {}
	}
	return client.Expect()
}

// adopt takes over a process that one of the keeper's has forked.
func (p *Processes) adopt(ctx context.Context, pid int) (*keeper.Process, error) {
	client, err := p.keeper() //nolint:contextcheck // a keeper outlives the start of one process
	if err != nil {
		return nil, err
	}
	return client.Adopt(ctx, pid)
}

// keeper returns the keeper, a new one where the last has died.
func (p *Processes) keeper() (*keeper.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errEnding
	}
	select {
	case <-p.client.Lost():
	default:
		return p.client, nil
	}
	p.log.Error("keeper died; starting another", "pid", p.client.PID())
	if err := p.client.Close(); err != nil {
		p.log.Warn("keeper not closed cleanly", "error", err.Error())
	}
	client, err := keeper.Start(keeper.Config{Logger: p.log})
	if err != nil {
		return nil, err
	}
	p.client = client
	return client, nil
}

// Close ends the keeper and all processes.
func (p *Processes) Close() {
	p.mu.Lock()
	p.closed = true
	client := p.client
	p.mu.Unlock()
	if err := client.Close(); err != nil && !errors.Is(err, keeper.ErrLost) {
		p.log.Warn("keeper not closed cleanly", "error", err.Error())
	}
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // handed over, or of no use
		}
	}
}
