package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"

	"github.com/dspex/dspex-sidecar/internal/keeper"
)

// processes starts all processes of the sidecar by way of the keeper, and starts a new keeper where the last one died.
type processes struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	client *keeper.Client
	closed bool
}

func newProcesses(log *slog.Logger) (*processes, error) {
	client, err := keeper.Start(keeper.Config{Logger: log})
	if err != nil {
		return nil, err
	}
	return &processes{log: log, client: client}, nil
}

// start starts a process. What it prints becomes log lines; name says whose.
func (p *processes) start(ctx context.Context, spec keeper.Spec, out *output) (*keeper.Process, error) {
	client, err := p.keeper()
	if err != nil {
		out.close()
		return nil, err
	}
	stdout, stderr, err := out.pipes()
	if err != nil {
		out.close()
		return nil, err
	}
	spec.Stdout, spec.Stderr = stdout, stderr
	process, err := client.StartProcess(ctx, spec)
	_, _ = stdout.Close(), stderr.Close() // the process has its own
	if err != nil {
		out.close()
	}
	return process, err
}

// keeper returns the keeper, a new one where the last has died.
func (p *processes) keeper() (*keeper.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("the sidecar is ending")
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

func (p *processes) close() {
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
