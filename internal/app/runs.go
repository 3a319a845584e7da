package app

import (
	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/runs"
	"github.com/dspex/dspex-sidecar/pool"
)

// runsPool is the name of the pool whose workers take one call each.
const runsPool = "runs"

// apartSettings are those of the pool for methods that have a process for each call: no worker is kept, and each ends with its call.
func apartSettings(cfg *config.Config) pool.Settings {
	r := &cfg.Runs
	s := poolSettings(cfg)
	s.Size, s.MaxOverflow, s.Concurrency, s.Once, s.Lazy = 0, r.Max, 1, true, false
	s.CheckoutTimeout, s.QueueLimit, s.CancelGrace, s.MemoryLimit = r.Queue, r.QueueLimit, r.CancelGrace, int64(r.MemoryLimit)
	s.RecycleCalls, s.RecycleAge, s.RecycleMemory, s.MaxInFlight, s.Pinning = 0, 0, 0, 0, pool.PinStrict
	return s
}

func runSettings(cfg *config.Config) runs.Settings {
	return runs.Settings{Timeout: cfg.Runs.Timeout, Keep: cfg.Runs.Keep}
}

// apart is the generation of the pool for those methods: the same workers, told of that pool, and with less of the processors.
func (s *sidecar) apart(g *generation) *pool.Generation {
	return &pool.Generation{
		Number:  g.number,
		Starter: g.workers.Niced(func() int { return s.cfg.Load().Runs.Nice }),
		Hello:   func(worker string) ([]byte, error) { return g.helloFor(worker, runsPool, 1) },
	}
}
