package app

import (
	"context"
	"maps"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/launch"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// generation is what workers are started from: one version of command, application, environment and model servers.
type generation struct {
	number  int
	cfg     *config.Config
	version string
	env     []string // of its workers, secrets and all
	workers *launch.Workers
	models  *models
	told    atomic.Pointer[map[string]any] // what may change while they run; replaced, not changed
	shared  func() any                     // programs for all, which may, too

	startTimeout atomic.Int64 // the time in which the application has to be loaded
}

// apply puts settings of a configuration in force that need no other generation.
func (g *generation) apply(cfg *config.Config) {
	g.startTimeout.Store(int64(cfg.Pool.StartTimeout))
	g.models.apply(cfg)
}

// maker makes generations.
type maker struct {
	options   Options
	processes *launch.Processes
	logs      *logs
	shared    func() any
}

// make begins a generation: its model servers are started, its workers are not. Those servers of the one before that are as they should be go on.
func (m *maker) make(cfg *config.Config, before *generation) (*generation, error) {
	env, err := m.environ(cfg)
	if err != nil {
		return nil, err
	}
	var old *models
	if before != nil {
		old = before.models
	}
	servers, err := newModels(cfg, m.options.Environ, m.processes, m.logs, old)
	if err != nil {
		return nil, err
	}
	told, err := tell(cfg, servers)
	if err != nil {
		servers.close()
		return nil, err
	}
	number := 1
	if before != nil {
		number = before.number + 1
	}
	g := &generation{number: number, cfg: cfg, version: m.options.Version, env: env, models: servers, shared: m.shared}
	g.apply(cfg)
	g.workers = launch.NewWorkers(launch.WorkersConfig{
		Python: cfg.Pool.Python, App: cfg.Pool.App, Dir: cfg.Dir, Env: env, Zygote: cfg.Pool.Start == "zygote",
		StartTimeout: func() time.Duration { return time.Duration(g.startTimeout.Load()) }, Log: m.logs.own, Output: m.logs.output,
	}, m.processes)
	g.told.Store(&told)
	return g, nil
}

// environ is the environment of workers. While an application is written nothing leaves bytecode: it counts as new by the second.
func (m *maker) environ(cfg *config.Config) ([]string, error) {
	env, err := cfg.Pool.Environ(m.options.Environ)
	if m.options.Dev {
		env = append(env, "PYTHONDONTWRITEBYTECODE=1")
	}
	return env, err
}

// tell is what workers are told of settings that may change while they run.
func tell(cfg *config.Config, m *models) (map[string]any, error) {
	settings, err := m.settings(cfg)
	if err != nil {
		return nil, err
	}
	embedders, err := embedderSettings(cfg, m.environ)
	if err != nil {
		return nil, err
	}
	return map[string]any{"models": settings, "embedders": embedders, "history": cfg.Sessions.History, "cancel_grace_ms": cfg.Pool.CancelGrace.Milliseconds()}, nil
}

// toldAlready says whether workers have been told so.
func (g *generation) toldAlready(told map[string]any) bool {
	return reflect.DeepEqual(*g.told.Load(), told)
}

func (g *generation) ofPool() *pool.Generation {
	return &pool.Generation{Number: g.number, Starter: g.workers, Hello: g.hello}
}

// hello is what a worker is told first.
func (g *generation) hello(worker string) ([]byte, error) {
	return g.helloFor(worker, "default", g.cfg.Pool.Concurrency)
}

func (g *generation) helloFor(worker, pool string, concurrency int) ([]byte, error) {
	params := map[string]any{
		"protocols": []int{wire.Protocol}, "features": []string{}, "server": map[string]any{"name": "dspex-sidecar", "version": g.version},
		"worker": worker, "pool": pool, "generation": g.number, "max_frame": g.cfg.Listen.MaxFrame + wire.MaxHead,
		"concurrency": concurrency, "tracebacks": g.cfg.Pool.Tracebacks,
		"dspy": dspySettings(g.cfg),
	}
	maps.Copy(params, g.mayChange())
	return wire.Marshal(params)
}

// close ends what is left of a generation, whose workers have ended.
func (g *generation) close() {
	g.workers.Close()
	g.models.close()
}

// ready waits until the model servers answer, or one of them does not.
func (g *generation) ready(ctx context.Context) error { return g.models.ready(ctx) }
