package admin

import (
	"context"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// waitingEvents is how many events wait for a reader of sidecar.events.
	waitingEvents = 1024
	// poolEvery is how often a reader gets a pool event that does not say otherwise.
	poolEvery  = 10 * time.Second
	leastEvery = 100 * time.Millisecond
	// mostReaders is how many streams of events, traces included, one uid has at a time: each holds what waits for it.
	mostReaders = 32
)

// kinds are the events that sidecar.events tells.
func kinds() []string { return []string{"worker", "session", "reload", "health", "pool", "run"} }

// events is sidecar.events.
func (a *Admin) events(ctx context.Context, who *proxy.Caller, params []byte, send func(any) error) (any, error) {
	p, err := read[struct {
		Kinds      []string `msgpack:"kinds"`
		IntervalMS *int64   `msgpack:"interval_ms"`
	}](who, false, params)
	if err != nil {
		return nil, err
	}
	for _, kind := range p.Kinds {
		if !slices.Contains(kinds(), kind) {
			return nil, wire.Errorf(wire.CodeInvalidParams, "there are no events %q; there are %q", kind, kinds())
		}
	}
	every := poolEvery
	if p.IntervalMS != nil {
		every = time.Duration(*p.IntervalMS) * time.Millisecond
	}
	if every < leastEvery || every > 24*time.Hour {
		return nil, wire.Errorf(wire.CodeInvalidParams, "interval_ms is %d to a day", leastEvery.Milliseconds())
	}
	wanted := func(kind string) bool { return len(p.Kinds) == 0 || slices.Contains(p.Kinds, kind) }
	wants := func(e *events.Event) bool {
		mine := e.Owner == "" || who.Admin || e.Owner == who.Owner
		return e.Kind != "frame" && wanted(e.Kind) && mine
	}
	leave, err := a.join(who)
	if err != nil {
		return nil, err
	}
	defer leave()
	r := a.cfg.Events.Read(waitingEvents, false, wants, a.cfg.Metrics.EventsLost.Inc)
	defer r.Close()
	if !wanted("pool") {
		return nil, forward(ctx, who, r, nil, nil, send)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	if err := send(a.poolEvent()); err != nil {
		return nil, err
	}
	return nil, forward(ctx, who, r, tick.C, a.poolEvent, send)
}

// join notes a reader, or says that its uid has too many. Leave ends that.
func (a *Admin) join(who *proxy.Caller) (leave func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.readers[who.UID] >= mostReaders {
		return nil, wire.Errorf(wire.CodeQueueFull, "uid %d reads %d streams of events already, the most that it may", who.UID, mostReaders).
			With("limit", mostReaders).With("retry_after_ms", 1000)
	}
	a.readers[who.UID]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.readers[who.UID]--; a.readers[who.UID] == 0 {
			delete(a.readers, who.UID)
		}
	}, nil
}

// forward sends what a reader gets, and at each tick what is made then, until ctx is done. A reader that has lost events is told how many, with the next.
func forward(ctx context.Context, who *proxy.Caller, r *events.Reader, tick <-chan time.Time, atTick func() map[string]any, send func(any) error) error {
	for {
		var item map[string]any
		select {
		case e := <-r.Events():
			item = e.For(who.Admin)
		case <-tick:
			item = atTick()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if lost := r.Lost(); lost > 0 {
			if err := send(map[string]any{"event": "lost", "at": time.Now(), "lost": lost}); err != nil {
				return err
			}
		}
		if err := send(item); err != nil {
			return err
		}
	}
}

// poolEvent is the five measurements, and what they are of.
func (a *Admin) poolEvent() map[string]any {
	s := a.cfg.Pool.Snapshot()
	return map[string]any{
		"event": "pool", "at": time.Now(), "pool": s.Name, "generation": s.Generation,
		"active_sessions": a.cfg.Sessions.Len(), "pool_size": s.Size, "healthy_workers": s.Ready(),
		"total_commands": s.Commands, "total_errors": s.Errors,
	}
}

// watchHealth tells of each change of the status, until the end.
func (a *Admin) watchHealth() {
	tick := time.NewTicker(a.cfg.Look)
	defer tick.Stop()
	last := ""
	for {
		s := a.cfg.Pool.Snapshot()
		status, reasons := a.judge(&s, true)
		if status != last {
			_, public := a.judge(&s, false)
			a.healthChanged(last, status, reasons, public)
			last = status
		}
		if s.Lazy || s.Ready() > 0 {
			a.up.Store(true)
		}
		if a.cfg.Looked != nil {
			a.cfg.Looked(status, a.up.Load())
		}
		a.looked.Store(int64(time.Since(a.since)))
		select {
		case <-tick.C:
		case <-a.life.Done():
			return
		}
	}
}

func (a *Admin) healthChanged(from, to string, reasons, public []string) {
	if from != "" && to == healthy {
		a.cfg.Log.Info("healthy again", "was", from)
	} else if from != "" {
		a.cfg.Log.Warn("health has changed", "status", to, "was", from, "reasons", reasons)
	}
	fields := func(reasons []string) map[string]any {
		return map[string]any{"status": to, "was": wire.OrNil(from), "reasons": reasons}
	}
	a.cfg.Events.Publish(events.Event{Kind: "health", Fields: fields(reasons), Public: fields(public)})
}
