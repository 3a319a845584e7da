package app

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/wire"
)

// reloads makes reloads, one at a time. What is asked for during one is served by the next, and ends what that one prepares where it is out of date.
type reloads struct {
	sidecar *sidecar
	end     context.CancelCauseFunc
	ended   chan struct{} // closed when no reload is made any more

	mu      sync.Mutex // guards what follows
	pending []wish
	wake    chan struct{}
	current *attempt // nil: no reload is being made
	known   digests  // of what was read last
	done    uint64
	failed  uint64
	failure string   // of the last one; empty: it succeeded
	restart []string // the settings that wait for a new start, as the log has them
}

// wish is for a reload.
type wish struct {
	why   string
	renew bool            // with new workers, whatever has changed
	tell  chan<- *outcome // has room for the outcome; nil: nobody waits
}

// attempt is a reload that is being made.
type attempt struct {
	file   string // its digest
	cancel context.CancelCauseFunc
}

// outcome is what became of a reload.
type outcome struct {
	why                   []string
	changes               []config.Change
	generation            int // in force after it
	renewed               bool
	read, prepare, commit time.Duration
	refused               bool  // the configuration is invalid
	err                   error // nil: it is in force
}

var (
	errOvertaken = errors.New("another reload was asked for")
	errEnding    = errors.New("the sidecar is ending")
)

func newReloads(s *sidecar, known digests) *reloads {
	return &reloads{sidecar: s, known: known, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// begin makes reloads until close.
func (r *reloads) begin() {
	ctx, end := context.WithCancelCause(context.Background())
	r.end = end
	go r.run(ctx)
}

// halt gives up a reload that is being prepared; no other is made. It does not wait for that.
func (r *reloads) halt() { r.end(errEnding) }

// close is halt, and waits.
func (r *reloads) close() {
	r.halt()
	<-r.ended
}

// ask has a reload made, and does not wait for it.
func (r *reloads) ask(a wish) {
	file := r.sidecar.options.fileDigest()
	r.mu.Lock()
	r.pending = append(r.pending, a)
	if at := r.current; at != nil && (a.renew || at.file != file) {
		at.cancel(errOvertaken)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reloads) run(ctx context.Context) {
	defer close(r.ended)
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		for r.next(ctx) {
		}
	}
}

// next makes one reload for all that wait, and says whether there may be more to do.
func (r *reloads) next(ctx context.Context) bool {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	now := r.sidecar.options.digests() // before they are read: what changes meanwhile shows as a change
	r.mu.Lock()
	asks := r.pending
	r.pending = nil
	renew := slices.ContainsFunc(asks, func(a wish) bool { return a.renew })
	if len(asks) > 0 {
		r.current = &attempt{file: now.file, cancel: cancel}
		r.known.file = now.file
	}
	if renew {
		r.known.code = now.code
	}
	r.mu.Unlock()
	if len(asks) == 0 {
		return false
	}
	defer r.sidecar.notifier.reloading()()
	o := r.sidecar.reload(ctx, renew)
	if o.err != nil && errors.Is(context.Cause(ctx), errOvertaken) {
		r.sidecar.log.Info("reload given up: another was asked for", "after_ms", (o.read + o.prepare).Milliseconds())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = nil
	if o.err != nil && ctx.Err() != nil { // the next one is for those as well
		r.pending = append(asks, r.pending...)
		return errors.Is(context.Cause(ctx), errOvertaken)
	}
	for _, a := range asks {
		if !slices.Contains(o.why, a.why) {
			o.why = append(o.why, a.why)
		}
	}
	r.noteLocked(o)
	for _, a := range asks {
		if a.tell != nil {
			a.tell <- o
		}
	}
	return true
}

// noteLocked counts a reload, and has the log say what became of it.
func (r *reloads) noteLocked(o *outcome) {
	log := r.sidecar.log
	r.done++
	r.sidecar.metrics.Reload(o.kind()).Inc()
	r.sidecar.tellReload(o)
	if o.err != nil {
		r.failed++
		r.failure = describe(o.err)
		log.Error("configuration not reloaded: the last good one stays in force", "reason", r.failure, "asked_by", o.why)
		return
	}
	r.failure = ""
	inForce, restart := []string{}, []string{}
	for _, c := range o.changes {
		if c.Effect == config.Restart {
			restart = append(restart, c.Key)
		} else {
			inForce = append(inForce, c.Key)
		}
	}
	if o.kind() == "unchanged" {
		log.Info("configuration read again: nothing has changed that counts now", "asked_by", o.why)
	} else {
		log.Info("configuration reloaded", "changed", inForce, "generation", o.generation, "asked_by", o.why,
			"took_ms", (o.read + o.prepare + o.commit).Milliseconds())
	}
	told := slices.Equal(r.restart, restart)
	if r.restart = restart; len(restart) > 0 && !told {
		log.Warn("what was changed here counts when the sidecar is started again", "settings", restart)
	}
}

// kind is what the outcome is counted as.
func (o *outcome) kind() string {
	switch {
	case o.refused:
		return "refused"
	case o.err != nil:
		return "failed"
	case !o.renewed && !slices.ContainsFunc(o.changes, func(c config.Change) bool { return c.Effect != config.Restart }):
		return "unchanged"
	}
	return "ok"
}

// describe is an error for people, with what the process printed that failed.
func describe(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*wire.Error](err); ok {
		text = e.Message
		if output, _ := e.Details["output"].(string); output != "" {
			text += "; it printed:\n" + output
		}
	}
	return text
}

// status is how many reloads there were, how many of them failed, and why the last one did, if it did.
func (r *reloads) status() (done, failed uint64, failure string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done, r.failed, r.failure
}

// lastRead are the digests of what was read last, or is being read.
func (r *reloads) lastRead() digests {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

// reload reads the configuration and puts it in force.
func (s *sidecar) reload(ctx context.Context, renew bool) *outcome {
	o := &outcome{}
	began := time.Now()
	lap := func() (d time.Duration) {
		d, began = time.Since(began), time.Now()
		return d
	}
	cfg, err := s.read(s.options.configuration())
	o.read = lap()
	o.generation = s.generation.Load().number
	if err != nil {
		o.err, o.refused = err, true
		return o
	}
	p, err := s.prepare(ctx, cfg, renew)
	o.prepare = lap()
	if err != nil {
		o.err = err
		return o
	}
	s.commit(p)
	o.commit = lap()
	o.changes, o.renewed, o.generation = p.changes, p.gen != nil, s.generation.Load().number
	return o
}

// read reads the configuration. An empty file where there was none is one that is being written.
func (s *sidecar) read(o config.Options) (*config.Config, error) {
	cfg, err := config.Load(o)
	if err != nil {
		return nil, err
	}
	if cfg.Blank && !s.cfg.Load().Blank {
		return nil, config.Errors{{File: cfg.Path, Message: "is empty, as a file is that is being written; write a comment into it if the defaults are meant"}}
	}
	return cfg, nil
}

// tellReload publishes what became of a reload.
func (s *sidecar) tellReload(o *outcome) {
	changed := make([]string, len(o.changes))
	for i, c := range o.changes {
		changed[i] = c.Key
	}
	reason := any(nil)
	if o.err != nil {
		reason = describe(o.err)
	}
	fields := map[string]any{"result": o.kind(), "changed": changed, "generation": o.generation, "asked_by": o.why, "reason": reason}
	public := map[string]any{"result": o.kind(), "generation": o.generation, "asked_by": o.why} // no names, paths or commands
	s.events.Publish(events.Event{Kind: "reload", Fields: fields, Public: public})
}
