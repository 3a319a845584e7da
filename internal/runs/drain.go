package runs

import (
	"context"
	"sync"

	"github.com/dspex/dspex-sidecar/pool"
)

// Drain has the pool of runs, and the other one, refuse new calls, and waits until those that there are have ended. What a run changed in its session is
// committed in a turn of the other pool's, so that that one is waited for once more.
func (t *Table) Drain(ctx context.Context, other *pool.Pool) error {
	var both sync.WaitGroup
	var failed error
	both.Go(func() { failed = t.cfg.Pool.Drain(ctx) })
	err := other.Drain(ctx)
	both.Wait()
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	}
	return other.Drain(ctx)
}
