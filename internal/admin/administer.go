package admin

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// registerForAdmins adds the methods that administrators alone may call.
func (a *Admin) registerForAdmins(s *proxy.Server) {
	s.Handle("admin.pause", forAdmins(a.pause))
	s.Handle("admin.resume", forAdmins(a.resume))
	s.Handle("admin.worker.recycle", forAdmins(a.recycle))
	s.Handle("admin.worker.kill", forAdmins(a.kill))
	s.Handle("admin.call.cancel", forAdmins(a.cancelCall))
	s.Handle("admin.pool.resize", forAdmins(a.resize))
	s.Handle("admin.log_level", forAdmins(a.logLevel))
	s.Handle("admin.shutdown", forAdmins(a.shutdown))
	s.Handle("admin.drain", later(a, true, a.drain))
	s.Handle("admin.stacks", later(a, true, a.stacks))
	s.HandleFeed("admin.trace", a.trace)
}

// forAdmins makes a Method of a function that reads its params as P and answers at once.
func forAdmins[P any](f func(who *proxy.Caller, p P) (any, error)) proxy.Method {
	return proxy.Plain(func(who *proxy.Caller, params []byte) (any, error) {
		p, err := read[P](who, true, params)
		if err != nil {
			return nil, err
		}
		return f(who, p)
	})
}

// later makes a Method of a function that takes its time, as long as the call has.
func later[P any](a *Admin, admins bool, f func(ctx context.Context, who *proxy.Caller, p P) (any, error)) proxy.Method {
	return func(batch *wire.Batch, who *proxy.Caller, params []byte, reply proxy.Reply) {
		p, err := read[P](who, admins, params)
		if err != nil {
			reply(batch, nil, err)
			return
		}
		deadline := who.Deadline
		a.tasks.Go(func() {
			ctx, cancel := context.WithCancelCause(a.life)
			defer cancel(nil)
			if !deadline.IsZero() {
				late := wire.Errorf(wire.CodeDeadlineExceeded, "the deadline passed while the call was running").With("ended_by", "task")
				var end context.CancelFunc
				ctx, end = context.WithDeadlineCause(ctx, deadline, late)
				defer end()
			}
			result, err := f(ctx, who, p)
			var b wire.Batch
			reply(&b, result, err)
			b.Flush()
		})
	}
}

// read reads params, for whom they may come from.
func read[P any](who *proxy.Caller, admins bool, params []byte) (p P, err error) {
	if admins && !who.Admin {
		return p, wire.Errorf(wire.CodePermissionDenied, "uid %d is no administrator: see listen.admin_uids", who.UID)
	}
	return p, wire.Unmarshal(params, &p)
}

type none struct{}

func (a *Admin) pause(who *proxy.Caller, _ none) (any, error) {
	changed := false
	for _, p := range a.all() {
		changed = p.Pause() || changed
	}
	if changed {
		a.cfg.Log.Warn("dispatch paused", "uid", who.UID)
	}
	return map[string]any{"paused": a.cfg.Pool.Snapshot().Paused, "changed": changed}, nil
}

func (a *Admin) resume(who *proxy.Caller, _ none) (any, error) {
	if a.cfg.Pool.Draining() {
		return nil, wire.Errorf(wire.CodeDraining, "a drain is not taken back: start the sidecar anew")
	}
	changed := false
	for _, p := range a.all() {
		changed = p.Resume() || changed
	}
	if changed {
		a.cfg.Log.Info("dispatch resumed", "uid", who.UID)
	}
	return map[string]any{"paused": false, "changed": changed}, nil
}

type workerParam struct {
	Worker string `msgpack:"worker"`
}

func (p workerParam) missing() error {
	return wire.Errorf(wire.CodeInvalidParams, "no worker %q is there that this can be done to: see sidecar.workers", p.Worker)
}

func (a *Admin) recycle(_ *proxy.Caller, p workerParam) (any, error) {
	if !a.cfg.Pool.RecycleWorker(p.Worker, "an administrator wants it") {
		return nil, p.missing()
	}
	return map[string]any{"worker": p.Worker}, nil
}

func (a *Admin) kill(_ *proxy.Caller, p workerParam) (any, error) {
	if !slices.ContainsFunc(a.all(), func(of *pool.Pool) bool { return of.KillWorker(p.Worker, "an administrator killed it") }) {
		return nil, p.missing()
	}
	return map[string]any{"worker": p.Worker}, nil
}

func (a *Admin) cancelCall(_ *proxy.Caller, p struct {
	Connection string `msgpack:"connection"`
	ID         uint64 `msgpack:"id"`
},
) (any, error) {
	if !a.cfg.Server.Cancel(p.Connection, p.ID, "an administrator cancelled the call") {
		return nil, wire.Errorf(wire.CodeInvalidParams, "no call %d of the connection %q is in flight: see sidecar.calls", p.ID, p.Connection)
	}
	return map[string]any{"connection": p.Connection, "id": p.ID}, nil
}

// mostWorkers is what the configuration allows, too.
const mostWorkers = 1024

func (a *Admin) resize(who *proxy.Caller, p struct {
	Size        *int `msgpack:"size"`
	MaxOverflow *int `msgpack:"max_overflow"`
},
) (any, error) {
	const stays = -1
	size, overflow := stays, stays
	if p.Size != nil {
		size = *p.Size
	}
	if p.MaxOverflow != nil {
		overflow = *p.MaxOverflow
	}
	if p.Size != nil && size < 1 || size > mostWorkers || p.MaxOverflow != nil && overflow < 0 || overflow > mostWorkers {
		return nil, wire.Errorf(wire.CodeInvalidParams, "size is 1 to %d and max_overflow 0 to %d", mostWorkers, mostWorkers)
	}
	if err := a.cfg.Pool.Resize(size, overflow); err != nil {
		return nil, wire.Errorf(wire.CodeInvalidParams, "%v", err)
	}
	s := a.cfg.Pool.Snapshot()
	a.cfg.Log.Info("pool resized", "size", s.Size, "max_overflow", s.MaxOverflow, "uid", who.UID)
	return map[string]any{"size": s.Size, "max_overflow": s.MaxOverflow}, nil
}

func (a *Admin) logLevel(who *proxy.Caller, p struct {
	Level string `msgpack:"level"`
},
) (any, error) {
	was := strings.ToLower(a.cfg.Level.Level().String())
	if p.Level == "" {
		return map[string]any{"level": was, "was": was}, nil
	}
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if name := strings.ToLower(level.String()); name == p.Level {
			a.cfg.Level.Set(level)
			a.cfg.Log.Warn("log level changed", "from", was, "to", name, "uid", who.UID)
			return map[string]any{"level": name, "was": was}, nil
		}
	}
	return nil, wire.Errorf(wire.CodeInvalidParams, "level is debug, info, warn or error, not %q", p.Level)
}

type drainParam struct {
	TimeoutMS *int64 `msgpack:"timeout_ms"`
}

func (p drainParam) limit(usual time.Duration) (time.Duration, error) {
	if p.TimeoutMS == nil {
		return usual, nil
	}
	if *p.TimeoutMS < 0 || *p.TimeoutMS > (7*24*time.Hour).Milliseconds() {
		return 0, wire.Errorf(wire.CodeInvalidParams, "timeout_ms is 0 to a week")
	}
	return time.Duration(*p.TimeoutMS) * time.Millisecond, nil
}

// drain has calls in flight finish and takes no others; the sidecar stays, and answers administrators.
func (a *Admin) drain(ctx context.Context, _ *proxy.Caller, p drainParam) (any, error) {
	limit, err := p.limit(a.cfg.DrainLimit())
	if err != nil {
		return nil, err
	}
	a.cfg.Log.Warn("draining, as an administrator wants it", "limit_ms", limit.Milliseconds())
	a.cfg.Server.Quiesce("an administrator drains the sidecar", limit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = a.drainPools(ctx)
	inFlight, queued := 0, 0
	for _, p := range a.all() {
		s := p.Snapshot()
		inFlight, queued = inFlight+s.InFlight, queued+s.Waiting
	}
	return map[string]any{"drained": err == nil, "in_flight": inFlight, "queued": queued}, nil
}

// shutdown has the sidecar end as at SIGTERM, within another limit.
func (a *Admin) shutdown(who *proxy.Caller, p drainParam) (any, error) {
	limit, err := p.limit(a.cfg.DrainLimit())
	if err != nil {
		return nil, err
	}
	counts := a.cfg.Shutdown(limit)
	a.cfg.Log.Warn("ending, as an administrator wants it", "asked_ms", limit.Milliseconds(), "limit_ms", counts.Milliseconds(), "uid", who.UID)
	return map[string]any{"drain_ms": counts.Milliseconds()}, nil
}

func (a *Admin) stacks(ctx context.Context, _ *proxy.Caller, p workerParam) (any, error) {
	var found *pool.WorkerStacks
	ok := slices.ContainsFunc(a.all(), func(of *pool.Pool) (there bool) {
		found, there = of.Stacks(ctx, p.Worker)
		return there
	})
	if !ok {
		return nil, p.missing()
	}
	calls := make([]map[string]any, 0, len(found.Calls))
	for _, c := range found.Calls {
		calls = append(calls, map[string]any{
			"connection": c.Connection, "id": c.Request, "method": c.Method, "age_ms": c.Since.Milliseconds(), "stacks": wire.OrNil(c.Stacks),
		})
	}
	return map[string]any{"worker": p.Worker, "threads": wire.OrNil(strings.Join(found.Threads, "\n")), "calls": calls}, nil
}

// traced is how many heads of frames wait for whoever reads a trace.
const traced = 1024

func (a *Admin) trace(ctx context.Context, who *proxy.Caller, params []byte, send func(any) error) (any, error) {
	p, err := read[struct {
		Session string `msgpack:"session"`
		Owner   string `msgpack:"owner"`
	}](who, true, params)
	if err != nil {
		return nil, err
	}
	if p.Session == "" {
		return nil, wire.Errorf(wire.CodeInvalidParams, "session is missing")
	}
	wants := func(e *events.Event) bool {
		return e.Kind == "frame" && e.Topic == p.Session && (p.Owner == "" || e.Owner == p.Owner)
	}
	leave, err := a.join(who)
	if err != nil {
		return nil, err
	}
	defer leave()
	r := a.cfg.Events.Read(traced, true, wants, a.cfg.Metrics.EventsLost.Inc)
	defer r.Close()
	return nil, forward(ctx, who, r, nil, nil, send)
}
