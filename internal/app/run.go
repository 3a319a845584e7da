package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/internal/admin"
	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/internal/launch"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/session"
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
	Stderr     io.Writer       // the log
	Force      <-chan struct{} // closed: end at once
}

// ballastSize is heap that is never touched, and so takes no memory. The collector runs when the heap has doubled, and the sidecar's own
// is 4 MiB: every second call of 1 MiB each way would be a collection, and takes a fifth longer for it.
const ballastSize = 8 << 20

// Run serves until ctx is cancelled, then drains and ends within the configured time. Errors: config.Errors, or what kept the
// sidecar from starting.
func Run(ctx context.Context, o Options) error {
	cfg, err := config.Load(config.Options{Path: o.ConfigPath, Profile: o.Profile, Environ: o.Environ})
	if err != nil {
		return err
	}
	ballast := make([]byte, ballastSize)
	defer runtime.KeepAlive(ballast)
	s := &sidecar{cfg: cfg, options: o, log: newLog(cfg, o.Stderr), metrics: metrics.New(wire.Codes()...)}
	if err := s.start(); err != nil {
		soon, cancel := context.WithTimeout(context.Background(), lastWait)
		defer cancel()
		s.stop(soon)
		return err
	}
	s.log.Info("listening", "socket", cfg.Listen.Socket, "version", o.Version, "pid", os.Getpid())
	select {
	case <-ctx.Done():
	case <-o.Force:
	}
	s.drain(o.Force)
	return nil
}

// lastWait is how long the end may take beyond the limit of the drain, for what is small: answers to be written, workers' stop
// hooks.
const lastWait = time.Second

func newLog(cfg *config.Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Log.Level}
	if cfg.Log.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// sidecar is what runs. Its parts are ended in the reverse order of ends.
type sidecar struct {
	cfg     *config.Config
	options Options
	log     *slog.Logger
	metrics *metrics.Metrics
	server  *proxy.Server
	pool    *pool.Pool
	ends    []func(context.Context)
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
	socket, err := proxy.Bind(s.cfg.Listen.Socket, s.cfg.Listen.Mode)
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

	workers, err := newWorkers(s.cfg, s.options.Environ, processes, s.log)
	if err != nil {
		return err
	}
	s.atEnd(func(context.Context) { workers.Close() })

	models, err := newModels(s.cfg, s.options.Environ, processes, s.log)
	if err != nil {
		return err
	}
	s.atEnd(func(context.Context) { models.close() })

	kept, err := openStore(s.cfg, s.log)
	if err != nil {
		return err
	}
	var sessions *session.Table
	made := make(chan struct{}) // closed when sessions is set: the pool's workers may be quicker
	s.pool, err = pool.New(pool.Config{
		Name:     "default",
		Settings: poolSettings(s.cfg),
		Starter:  workers,
		Hello:    func(id string) ([]byte, error) { return s.hello(id, models) },
		Background: func(method, params []byte, answer func(*wire.Batch, []byte, error)) {
			<-made
			background(sessions, method, params, answer)
		},
		Notified: func(worker string, method, params []byte) error { return notified(s.metrics, worker, method, params) },
		Metrics:  s.metrics, Log: s.log.With("pool", "default"),
	})
	if err != nil {
		return errors.Join(err, kept.Close())
	}
	sessions, err = session.New(session.Config{Pool: s.pool, Store: kept, Settings: sessionSettings(s.cfg), Metrics: s.metrics, Log: s.log})
	close(made)
	if err != nil {
		s.atEnd(s.pool.Close)
		return errors.Join(err, kept.Close())
	}
	s.atEnd(func(context.Context) {
		if err := sessions.Close(); err != nil {
			s.log.Error("session store not closed", "error", err.Error())
		}
	})
	s.server = proxy.New(proxy.Config{
		Socket: socket, Limits: limits(s.cfg), Version: s.options.Version, Pool: s.pool, Sessions: sessions, Metrics: s.metrics, Log: s.log,
	})
	s.atEnd(s.server.Close)
	s.atEnd(s.pool.Close) // before the connections: what is cut off is answered
	a := admin.New(admin.Config{
		Pool: s.pool, Server: s.server, Sessions: sessions, Models: models.failures, Metrics: s.metrics, Version: s.options.Version, Generation: 1,
	})
	a.Register(s.server)
	if err := s.serveHTTP(a); err != nil {
		return err
	}
	s.server.Serve()
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

// drain ends the sidecar: clients are told, calls in flight finish within shutdown_timeout, then all is stopped. Force makes
// whatever is left end at once.
func (s *sidecar) drain(force <-chan struct{}) {
	limit := s.cfg.Pool.ShutdownTimeout
	forced, cancel := untilClosed(force)
	defer cancel()
	ctx, done := context.WithTimeout(forced, limit)
	defer done()
	s.log.Info("draining", "limit_ms", limit.Milliseconds())
	s.server.Drain("the sidecar is ending", limit)
	if err := s.pool.Drain(ctx); err != nil {
		s.log.Warn("calls cut off by the end of the drain", "reason", err.Error())
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

// hello is what a worker is told first.
func (s *sidecar) hello(worker string, models *models) ([]byte, error) {
	settings, err := models.settings()
	if err != nil {
		return nil, err
	}
	return wire.Marshal(map[string]any{
		"protocols": []int{wire.Protocol}, "features": []string{}, "server": map[string]any{"name": "dspex-sidecar", "version": s.options.Version},
		"worker": worker, "pool": "default", "generation": 1, "max_frame": s.cfg.Listen.MaxFrame + wire.MaxHead,
		"concurrency": s.cfg.Pool.Concurrency, "cancel_grace_ms": s.cfg.Pool.CancelGrace.Milliseconds(),
		"tracebacks": s.cfg.Pool.Tracebacks, "models": settings,
	})
}

// notified handles what a worker tells the sidecar.
func notified(m *metrics.Metrics, worker string, method, params []byte) error {
	if string(method) != "sidecar.metrics" {
		return nil // of a later version
	}
	var p struct {
		Metrics []metrics.Report `msgpack:"metrics"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return err
	}
	m.App.Report(worker, p.Metrics)
	return nil
}

// background handles what a worker asks of the sidecar itself.
func background(sessions *session.Table, method, params []byte, answer func(*wire.Batch, []byte, error)) {
	var p struct {
		Key    uint64     `msgpack:"key"`
		Set    rawMessage `msgpack:"set"`
		Delete []string   `msgpack:"delete"`
	}
	var batch wire.Batch
	defer batch.Flush()
	if string(method) != "session.update" {
		answer(&batch, nil, wire.Errorf(wire.CodeUnknownMethod, "no method %q for workers", method))
		return
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		answer(&batch, nil, err)
		return
	}
	sessions.UpdateNumber(&batch, p.Key, session.Update{Set: p.Set, Delete: p.Delete}, func(b *wire.Batch, version uint64, err error) {
		if err != nil {
			answer(b, nil, err)
			return
		}
		result, err := wire.Marshal(map[string]any{"version": version})
		answer(b, result, err)
	})
}
