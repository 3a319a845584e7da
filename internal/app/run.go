package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/admin"
	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/internal/launch"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/permits"
	"github.com/dspex/dspex-sidecar/internal/runs"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/shared"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// Options are what the command line gives.
type Options struct {
	ConfigPath string // empty: the defaults
	Profile    string
	Version    string
	Environ    []string
	Dev        bool            // while an application is written: a new generation when its files change, tracebacks, a log for people
	Stderr     io.Writer       // the log
	Force      <-chan struct{} // closed: end at once
	Reload     <-chan os.Signal
}

// configuration says which one is meant.
func (o *Options) configuration() config.Options {
	return config.Options{Path: o.ConfigPath, Profile: o.Profile, Environ: o.Environ, Dev: o.Dev}
}

// ballastSize is heap that is never touched, and so takes no memory. The collector runs when the heap has doubled, and the sidecar's own
// is 4 MiB: every second call of 1 MiB each way would be a collection, and takes a fifth longer for it.
const ballastSize = 8 << 20

// Run serves until ctx is cancelled, then drains and ends within the configured time. Errors: config.Errors, or what kept the
// sidecar from starting.
func Run(ctx context.Context, o Options) error {
	known := o.digests() // before it is read: what changes meanwhile shows as a change
	cfg, err := config.Load(o.configuration())
	if err != nil {
		return err
	}
	ballast := make([]byte, ballastSize)
	defer runtime.KeepAlive(ballast)
	s := newSidecar(o, cfg, known)
	defer s.logs.close()
	if err := s.start(); err != nil {
		soon, cancel := context.WithTimeout(context.Background(), lastWait)
		defer cancel()
		s.stop(soon)
		return err
	}
	s.log.Info("listening", "socket", cfg.Listen.Socket, "version", o.Version, "pid", os.Getpid())
	s.watch()
	select {
	case <-ctx.Done():
	case <-o.Force:
	case <-s.ending.asked:
	}
	s.drain(ctx, o.Force)
	return nil
}

// lastWait is how long the end may take beyond the limit of the drain, for what is small: answers to be written, workers' stop
// hooks.
const lastWait = time.Second

// sidecar is what runs. Its parts are ended in the reverse order of ends.
type sidecar struct {
	options    Options
	logs       *logs
	log        *slog.Logger // that of the logs for the sidecar itself
	level      slog.LevelVar
	cfg        atomic.Pointer[config.Config] // in force; reloads replace it, and the generation
	generation atomic.Pointer[generation]
	older      atomic.Int32 // generations that were replaced and still have workers
	maker      maker
	metrics    *metrics.Metrics
	permits    *permits.Table
	events     events.Hub
	notifier   *notifier
	ending     *ending
	server     *proxy.Server
	pool       *pool.Pool
	apartPool  *pool.Pool // for methods that have a process for each call
	runs       *runs.Table
	sessions   *session.Table
	shared     *shared.Values // programs
	datasets   *shared.Values
	telling    sync.Mutex // workers are told of the newest last
	reloads    *reloads
	tasks      sync.WaitGroup // what watches, and the ends of generations that were replaced
	ends       []func(context.Context)
}

func newSidecar(o Options, cfg *config.Config, known digests) *sidecar {
	s := &sidecar{
		options: o, metrics: metrics.New(wire.Codes()...), permits: permits.New(), notifier: newNotifier(o.Environ, os.Getpid()), ending: newEnding(),
	}
	s.permits.Apply(modelLimits(cfg))
	s.level.Set(cfg.Log.Level)
	s.logs = newLogs(cfg, &s.level, o.Stderr)
	s.log = s.logs.own
	s.cfg.Store(cfg)
	s.reloads = newReloads(s, known)
	return s
}

// atEnd adds what has to be ended; the last is ended first.
func (s *sidecar) atEnd(end func(context.Context)) { s.ends = append(s.ends, end) }

func (s *sidecar) stop(ctx context.Context) {
	for _, v := range slices.Backward(s.ends) {
		v(ctx)
	}
	s.ends = nil
}

// start starts the parts. The socket comes first: where it cannot be had, nothing has been started for nothing. Clients that
// connect meanwhile wait in it.
func (s *sidecar) start() error {
	cfg := s.cfg.Load()
	socket, err := proxy.Bind(cfg.Listen.Socket, cfg.Listen.Mode)
	if err != nil {
		return err
	}
	s.atEnd(func(context.Context) { socket.Close() })
	s.reapOrphans()
	processes, err := launch.NewProcesses(s.log)
	if err != nil {
		return err
	}
	s.atEnd(func(context.Context) { processes.Close() })

	s.maker = maker{options: s.options, processes: processes, logs: s.logs, shared: func() any { return s.shared.All() }}
	first, err := s.maker.make(cfg, nil)
	if err != nil {
		return err
	}
	s.generation.Store(first)
	s.atEnd(func(context.Context) {
		s.generation.Load().close()
		s.tasks.Wait()
	})

	kept, err := openStore(cfg, s.log)
	if err != nil {
		return err
	}
	if err := s.openShared(cfg); err != nil { // which the store's lock keeps to this process
		return errors.Join(fmt.Errorf("sessions.path: %w", err), kept.Close())
	}
	if err := s.startPool(cfg, kept); err != nil {
		return errors.Join(err, kept.Close())
	}
	s.atEnd(func(context.Context) {
		if err := s.sessions.Close(); err != nil {
			s.log.Error("session store not closed", "error", err.Error())
		}
	})
	s.server = proxy.New(proxy.Config{
		Socket: socket, Limits: limits(cfg), Version: s.options.Version, Pool: s.pool, Sessions: s.sessions, Runs: s.runs, Metrics: s.metrics,
		Events: &s.events, Log: s.log,
	})
	a := admin.New(admin.Config{
		Pool: s.pool, Runs: s.runs, Server: s.server, Sessions: s.sessions, Metrics: s.metrics, Events: &s.events, Version: s.options.Version, Log: s.log, Level: &s.level,
		DrainLimit: func() time.Duration { return s.cfg.Load().Pool.ShutdownTimeout }, Shutdown: s.ending.within,
		Look: s.notifier.look(), Looked: s.notifier.looked,
		Models: func() []string { return s.generation.Load().models.failures() }, Reloads: s.reloads.status, Scrape: s.scrapePermits,
	})
	s.atEnd(func(context.Context) { a.Close() })
	s.atEnd(s.server.Close)
	s.atEnd(func(context.Context) { s.permits.Close() })
	s.atEnd(s.pool.Close) // before the connections: what is cut off is answered
	s.atEnd(s.apartPool.Close)
	s.atEnd(func(context.Context) { a.Halt() })
	a.Register(s.server)
	s.server.HandleAsk("sidecar.share", s.share)
	if err := s.serveHTTP(a); err != nil {
		return err
	}
	s.reloads.begin()
	s.atEnd(func(context.Context) { s.reloads.close() })
	s.handle()
	s.server.Serve()
	return nil
}

// startPool starts the pool, and the table of sessions over it.
func (s *sidecar) startPool(cfg *config.Config, kept store.Store) error {
	made := make(chan struct{}) // closed when the table is made: the pool's workers may be quicker
	defer close(made)
	first := s.generation.Load()
	config := func(name, prefix string, settings pool.Settings, g *pool.Generation) pool.Config {
		return pool.Config{
			Name: name, Prefix: prefix, Settings: settings, Starter: g.Starter, Hello: g.Hello,
			Background: func(worker string, method, params []byte, answer func(*wire.Batch, []byte, error)) {
				<-made
				s.asked(worker, method, params, answer)
			},
			Notified: s.notified,
			Gone:     s.permits.Gone,
			Metrics:  s.metrics, Events: &s.events, Log: s.log.With("pool", name),
		}
	}
	var err error
	s.apartPool, err = pool.New(config(runsPool, "runner", apartSettings(cfg), s.apart(first)))
	if err != nil {
		return err
	}
	s.pool, err = pool.New(config("default", "", poolSettings(cfg), first.ofPool()))
	if err != nil {
		s.atEnd(s.apartPool.Close)
		return err
	}
	s.sessions, err = session.New(session.Config{Pool: s.pool, Store: kept, Settings: sessionSettings(cfg), Metrics: s.metrics, Events: &s.events, Log: s.log})
	if err != nil {
		s.atEnd(s.apartPool.Close)
		s.atEnd(s.pool.Close)
		return err
	}
	s.runs = runs.New(runs.Config{
		Settings: runSettings(cfg), Pool: s.apartPool, Sessions: s.sessions, Metrics: s.metrics, Events: &s.events, Log: s.log,
	})
	return nil
}

// reapOrphans reaps, until the end, what comes to the sidecar as process 1 of a container or as a sub-reaper and nobody waits
// for.
func (s *sidecar) reapOrphans() {
	ctx, cancel := context.WithCancel(context.Background())
	reaped := make(chan struct{})
	go func() { // ends with ctx
		defer close(reaped)
		if err := keeper.ReapOrphans(ctx); err != nil {
			s.log.Error("orphans are reaped no more", "error", err.Error())
		}
	}()
	s.atEnd(func(context.Context) {
		cancel()
		<-reaped
	})
}

// drain ends the sidecar: clients are told, calls in flight finish within the limit, then all is stopped. A signal that comes meanwhile brings the end forward to
// what is configured; force makes whatever is left end at once.
func (s *sidecar) drain(signal context.Context, force <-chan struct{}) {
	usual := func() time.Duration { return s.cfg.Load().Pool.ShutdownTimeout }
	defer context.AfterFunc(signal, func() { s.ending.within(usual()) })()
	if s.ending.left() <= 0 { // by a signal
		s.ending.within(usual())
	}
	limit := s.ending.left().Round(time.Millisecond)
	s.reloads.halt()
	s.notifier.stopping(limit)
	defer s.notifier.close()
	forced, cancel := untilClosed(force)
	defer cancel()
	ctx, done := s.ending.context(forced)
	defer done()
	s.log.Info("draining", "limit_ms", limit.Milliseconds())
	s.server.Drain("the sidecar is ending", limit)
	if err := s.runs.Drain(ctx, s.pool); err != nil {
		s.log.Warn("calls cut off by the end of the drain", "reason", context.Cause(ctx).Error())
	}
	if ctx.Err() != nil {
		ctx, done = context.WithTimeout(forced, lastWait)
		defer done()
	}
	s.stop(ctx)
	s.log.Info("ended")
}

// untilClosed is a context that is cancelled when the channel is closed.
func untilClosed(closed <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with ctx
		select {
		case <-closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
