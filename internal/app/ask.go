package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/watch"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// digests are those of what is watched.
type digests struct{ file, code string }

const (
	askedByFile   = "the file has changed"
	askedByCode   = "the application's files have changed"
	askedBySignal = "SIGHUP"
	askedByAdmin  = "admin.reload"
)

func (o *Options) digests() (d digests) {
	d.file = o.fileDigest()
	if o.Dev {
		d.code = watch.Python(o.folder())().Digest
	}
	return d
}

func (o *Options) fileDigest() string {
	if o.ConfigPath == "" {
		return ""
	}
	return watch.Digest(o.ConfigPath)
}

// folder is where the application is found; as config.Load has it.
func (o *Options) folder() string {
	if o.ConfigPath == "" {
		return "."
	}
	return filepath.Dir(o.ConfigPath)
}

// watch asks for reloads when files change or SIGHUP comes, until the sidecar ends.
func (s *sidecar) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	s.atEnd(func(context.Context) { cancel() })
	follow := func(look func() watch.State, known func() string, a wish) {
		s.tasks.Go(func() {
			watch.Run(ctx, watch.Config{Look: look, Known: known, Changed: func() { s.reloads.ask(a) }, Log: s.log})
		})
	}
	if path := s.options.ConfigPath; path != "" {
		follow(watch.File(path), func() string { return s.reloads.lastRead().file }, wish{why: askedByFile})
	}
	if s.options.Dev {
		follow(watch.Python(s.options.folder()), func() string { return s.reloads.lastRead().code }, wish{why: askedByCode, renew: true})
	}
	s.tasks.Go(func() {
		for {
			select {
			case <-s.options.Reload:
				s.reloads.ask(wish{why: askedBySignal})
			case <-ctx.Done():
				return
			}
		}
	})
}

// handle adds the methods about the configuration.
func (s *sidecar) handle() {
	s.server.Handle("admin.reload", s.reloads.method)
	s.server.Handle("admin.config.compare", s.compareMethod)
	s.server.Handle("admin.config", proxy.Plain(func(who *proxy.Caller, params []byte) (any, error) {
		if err := onlyAdmins(who); err != nil {
			return nil, err
		}
		if err := wire.Unmarshal(params, &struct{}{}); err != nil {
			return nil, err
		}
		cfg := s.cfg.Load()
		byHand := s.byHand(cfg)
		list := []map[string]any{}
		for _, one := range cfg.Settings() {
			value, origin := one.Value, one.Origin
			if now, ok := byHand[one.Key]; ok {
				value, origin = now, "an administrator, over "+value+" of "+origin
			}
			list = append(list, map[string]any{"key": one.Key, "value": value, "origin": origin})
		}
		return map[string]any{"path": wire.OrNil(cfg.Path), "profile": wire.OrNil(cfg.Profile), "dev": s.options.Dev, "generation": s.generation.Load().number, "settings": list}, nil
	}))
}

// byHand are the settings that administrators have changed, until the configuration does.
func (s *sidecar) byHand(cfg *config.Config) map[string]string {
	out := map[string]string{}
	differs := func(key, now, configured string) {
		if now != configured {
			out[key] = now
		}
	}
	pool := s.pool.Snapshot()
	differs("pools.default.size", strconv.Itoa(pool.Size), strconv.Itoa(cfg.Pool.Size.N))
	differs("pools.default.max_overflow", strconv.Itoa(pool.MaxOverflow), strconv.Itoa(cfg.Pool.MaxOverflow.N))
	differs("log.level", strconv.Quote(strings.ToLower(s.level.Level().String())), strconv.Quote(strings.ToLower(cfg.Log.Level.String())))
	return out
}

func onlyAdmins(who *proxy.Caller) error {
	if !who.Admin {
		return wire.Errorf(wire.CodePermissionDenied, "only administrators see or reload the configuration (listen.admin_uids)")
	}
	return nil
}

// method is admin.reload.
func (r *reloads) method(batch *wire.Batch, who *proxy.Caller, params []byte, reply proxy.Reply) {
	var p struct {
		Wait  bool `msgpack:"wait"`
		Renew bool `msgpack:"renew"`
	}
	err := onlyAdmins(who)
	if err == nil {
		err = wire.Unmarshal(params, &p)
	}
	if err != nil {
		reply(batch, nil, err)
		return
	}
	told := make(chan *outcome, 1)
	r.ask(wish{why: askedByAdmin, renew: p.Renew, tell: told})
	if !p.Wait {
		reply(batch, map[string]any{"status": "asked"}, nil)
		return
	}
	r.sidecar.tasks.Go(func() {
		result, err := r.await(told, who.Deadline)
		var b wire.Batch
		reply(&b, result, err)
		b.Flush()
	})
}

// await waits for an outcome, and then for the workers that are wanted now, until the deadline.
func (r *reloads) await(told <-chan *outcome, deadline time.Time) (any, error) {
	ctx, cancel := context.WithCancel(context.Background())
	if !deadline.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, deadline)
	}
	defer cancel()
	select {
	case o := <-told:
		result := o.result()
		result["workers_missing"] = nil
		if o.err == nil {
			result["workers_missing"] = wire.OrNil(r.sidecar.missing(ctx))
		}
		return result, nil
	case <-ctx.Done():
		return nil, wire.Errorf(wire.CodeDeadlineExceeded, "the deadline passed before the reload was done; it goes on, and sidecar.health says if it fails")
	case <-r.ended:
		return nil, wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	}
}

// missing waits for the workers that are wanted, and says why they are not all there; empty: they are.
func (s *sidecar) missing(ctx context.Context) string {
	err := s.pool.Ready(ctx)
	if err == nil {
		return ""
	}
	now := s.pool.Snapshot()
	return fmt.Sprintf("%d of %d workers are ready: %s", now.Ready(), now.Size, describe(err))
}

// result is what admin.reload answers.
func (o *outcome) result() map[string]any {
	took := map[string]time.Duration{
		string(config.Live): o.commit, string(config.Generation): o.prepare + o.commit,
	}
	changes := make([]map[string]any, 0, len(o.changes))
	for _, c := range o.changes {
		changes = append(changes, map[string]any{
			"key": c.Key, "old": wire.OrNil(c.Old), "new": wire.OrNil(c.New), "effect": string(c.Effect), "in_force": c.Effect != config.Restart,
			"took_us": took[string(c.Effect)].Microseconds(),
		})
	}
	status, reason := "in_force", any(nil)
	switch {
	case o.refused:
		status, reason = "refused", describe(o.err)
	case o.err != nil:
		status, reason = "failed", describe(o.err)
	}
	return map[string]any{
		"status": status, "reason": reason, "errors": placesOf(o.err), "changes": changes, "generation": o.generation, "renewed": o.renewed,
		"read_us": o.read.Microseconds(), "prepare_us": o.prepare.Microseconds(), "commit_us": o.commit.Microseconds(),
	}
}

// placesOf is where a configuration is wrong.
func placesOf(err error) []map[string]any {
	list := []map[string]any{}
	var wrong config.Errors
	if !errors.As(err, &wrong) {
		return list
	}
	for _, one := range wrong {
		list = append(list, placeOf(one))
	}
	return list
}

func placeOf(one *config.Error) map[string]any {
	return map[string]any{"file": one.File, "line": one.Line, "column": one.Column, "key": one.Key, "message": one.Message}
}
