package launch

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/pool"
)

// niced starts workers that leave the processors to others.
type niced struct {
	workers *Workers
	nice    func() int
}

// Niced is a starter of the same workers, with a nice value: what runs beside them comes first. It is set before the worker has a second thread, each
// of which would keep its own.
func (w *Workers) Niced(nice func() int) pool.Starter { return niced{w, nice} }

// Start starts a worker.
func (n niced) Start(ctx context.Context, workerID string) (pool.Process, error) {
	p, err := n.workers.Start(ctx, workerID)
	if err != nil {
		return nil, err
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, p.PID(), n.nice()); err != nil {
		n.workers.cfg.Log.Warn("nice value not set", "worker_id", workerID, "error", err.Error())
	}
	return p, nil
}
