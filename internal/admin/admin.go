package admin

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/runs"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// Config is what New takes.
type Config struct {
	Pool     *pool.Pool
	Runs     *runs.Table // nil: no method has a process for each call
	Server   *proxy.Server
	Sessions *session.Table
	Models   func() []string // what is wrong with model servers
	Reloads  func() (done, failed uint64, failure string)
	Scrape   func() []metrics.Sample // further figures; nil: none
	Metrics  *metrics.Metrics
	Events   *events.Hub
	Version  string
	Log      *slog.Logger
	Level    *slog.LevelVar // of Log

	DrainLimit func() time.Duration                    // the usual one
	Shutdown   func(limit time.Duration) time.Duration // has the sidecar end within the limit, and returns the one that counts; does not wait
	Look       time.Duration                           // between looks at the health; 0: a second
	Looked     func(status string, up bool)            // is told of each; up: calls have been taken, or would start a worker; nil: nobody is
}

// Admin answers the methods sidecar.* and admin.*, and looks at the health. End it with Close.
type Admin struct {
	cfg   Config
	since time.Time
	up    atomic.Bool     // a worker was ready, or none was needed
	life  context.Context //nolint:containedctx // its own life: what takes time ends with it
	end   context.CancelFunc
	tasks sync.WaitGroup

	looked atomic.Int64 // when a look at the health ended last, in nanoseconds of a.since

	mu      sync.Mutex  // guards what follows
	readers map[int]int // of events, by uid
}

// New makes it; the sidecar's uptime counts from here.
func New(cfg Config) *Admin {
	cfg.Look = cmp.Or(cfg.Look, time.Second)
	a := &Admin{cfg: cfg, since: time.Now(), readers: make(map[int]int)}
	a.life, a.end = context.WithCancel(context.Background())
	a.tasks.Go(a.watchHealth)
	return a
}

// Halt ends what it has begun, and does not wait for that.
func (a *Admin) Halt() { a.end() }

// Close ends what it has begun. The server takes no calls any more: it begins nothing new.
func (a *Admin) Close() {
	a.end()
	a.tasks.Wait()
}

// Register adds its methods to the server.
func (a *Admin) Register(s *proxy.Server) {
	for name, f := range map[string]func(*proxy.Caller) (any, error){
		"sidecar.stats":   a.stats,
		"sidecar.workers": a.workers,
		"sidecar.pools":   a.pools,
		"sidecar.methods": a.methods,
		"sidecar.clients": a.clients,
		"sidecar.calls":   a.calls,
		"sidecar.metrics": a.metrics,
		"sidecar.live":    a.live,
	} {
		s.Handle(name, proxy.Plain(func(who *proxy.Caller, params []byte) (any, error) {
			if err := wire.Unmarshal(params, &struct{}{}); err != nil {
				return nil, err
			}
			return f(who)
		}))
	}
	s.Handle("sidecar.health", later(a, false, a.health))
	s.HandleFeed("sidecar.events", a.events)
	a.registerForAdmins(s)
}

// all are the pools: that of the workers, and that of the processes of single calls.
func (a *Admin) all() []*pool.Pool {
	if a.cfg.Runs == nil {
		return []*pool.Pool{a.cfg.Pool}
	}
	return []*pool.Pool{a.cfg.Pool, a.cfg.Runs.Pool()}
}

func (a *Admin) drainPools(ctx context.Context) error {
	if a.cfg.Runs == nil {
		return a.cfg.Pool.Drain(ctx)
	}
	return a.cfg.Runs.Drain(ctx, a.cfg.Pool)
}

func (a *Admin) stats(*proxy.Caller) (any, error) {
	s := a.cfg.Pool.Snapshot()
	reloads, failures, _ := a.cfg.Reloads()
	utilization := 0.0
	if slots := s.Slots(); slots > 0 {
		utilization = math.Round(1e4*float64(s.Busy())/float64(slots)) / 1e4
	}
	result := map[string]any{
		"active_sessions": a.cfg.Sessions.Len(), "pool_size": s.Size, "healthy_workers": s.Ready(), "total_commands": s.Commands,
		"total_errors": s.Errors, "utilization": utilization, "queued": s.Waiting, "in_flight": s.InFlight,
		"uptime_ms": time.Since(a.since).Milliseconds(), "clients": len(a.cfg.Server.Clients()), "version": a.cfg.Version,
		"worker_restarts": s.Restarts, "generation": s.Generation, "reloads": reloads, "reload_failures": failures, "lm": a.lm(),
	}
	addFailure(result, &s)
	return result, nil
}

func (a *Admin) workers(*proxy.Caller) (any, error) {
	list := []map[string]any{}
	for _, p := range a.all() {
		s := p.Snapshot()
		for i := range s.Workers {
			w := &s.Workers[i]
			list = append(list, map[string]any{
				"worker": w.ID, "pool": s.Name, "generation": w.Generation, "state": w.State, "pid": w.PID, "in_flight": w.InFlight,
				"slots": w.Slots, "sessions": w.Pins, "calls": w.Calls, "errors": w.Errors, "age_ms": w.Age.Milliseconds(),
				"overflow": w.Overflow, "place": w.Place, "leaving": wire.OrNil(w.Leaving), "last_failure": wire.OrNil(w.Failure),
				"versions": w.Versions,
			})
		}
	}
	return map[string]any{"workers": list}, nil
}

func (a *Admin) pools(*proxy.Caller) (any, error) {
	s := a.cfg.Pool.Snapshot()
	return map[string]any{"pools": []map[string]any{{
		"pool": s.Name, "generation": s.Generation, "size": s.Size, "max_overflow": s.MaxOverflow, "workers": len(s.Workers), "ready": s.Ready(), "queued": s.Waiting,
		"in_flight": s.InFlight, "slots": s.Slots(), "restarts": s.Restarts, "last_failure": wire.OrNil(s.LastFailure),
	}}}, nil
}

func (a *Admin) methods(*proxy.Caller) (any, error) {
	table := a.cfg.Pool.Methods()
	list := make([]*pool.Method, 0, len(table))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		list = append(list, table[name])
	}
	return map[string]any{"methods": list}, nil
}

func (a *Admin) clients(who *proxy.Caller) (any, error) {
	list := []map[string]any{}
	for _, c := range a.cfg.Server.Clients() {
		if !who.Admin && c.UID != who.UID {
			continue
		}
		list = append(list, map[string]any{
			"connection": c.Connection, "name": c.Name, "version": c.Version, "uid": c.UID, "pid": c.PID, "in_flight": c.InFlight,
			"age_ms": c.Age.Milliseconds(), "total_commands": c.Commands,
		})
	}
	return map[string]any{"clients": list}, nil
}

func (a *Admin) calls(who *proxy.Caller) (any, error) {
	list := []map[string]any{}
	for _, c := range a.cfg.Server.Calls() {
		if !who.Admin && (c.UID != who.UID || c.Session != "" && c.Owner != who.Owner) { // others of a uid hold sessions by tokens
			continue
		}
		list = append(list, map[string]any{
			"connection": c.Connection, "id": c.ID, "method": c.Method, "session": wire.OrNil(c.Session), "worker": wire.OrNil(c.Worker),
			"state": c.State, "age_ms": c.Age.Milliseconds(),
		})
	}
	return map[string]any{"calls": list}, nil
}
