package app

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// plan is a change of configuration that is ready to be made.
type plan struct {
	cfg     *config.Config
	changes []config.Change
	next    *pool.Next
	apart   *pool.Next     // of the pool for methods that have a process for each call
	gen     *generation    // nil: the workers stay
	told    map[string]any // nil: they know it already
}

// mostOlder bounds the workers that calls without an end keep: reloads beside them would take all memory.
const mostOlder = 4

// prepare gets a change ready. It may fail, and touches nothing live. Renew: with new workers, though no setting may ask for them.
func (s *sidecar) prepare(ctx context.Context, after *config.Config, renew bool) (*plan, error) {
	before, current := s.cfg.Load(), s.generation.Load()
	p := &plan{changes: config.Diff(before, after), cfg: config.Kept(before, after)}
	env, err := s.maker.environ(p.cfg)
	if err != nil {
		return nil, err
	}
	p.changes = append(p.changes, otherValues(p, current.env, env)...)
	renew = renew || slices.ContainsFunc(p.changes, func(c config.Change) bool { return c.Effect == config.Generation })
	var next *pool.Generation
	if older := s.older.Load(); renew && older >= mostOlder {
		return nil, wire.Errorf(wire.CodeQueueFull, "%d older generations of workers still have calls, and end with them: see workers and calls, and cancel what goes on without end", older)
	}
	if renew {
		if p.gen, err = s.maker.make(p.cfg, current); err != nil {
			return nil, err
		}
		s.log.Info("a new generation gets ready", "generation", p.gen.number)
		next = p.gen.ofPool()
		err = p.gen.ready(ctx)
	} else {
		err = p.tell(current)
	}
	if err == nil {
		p.next, err = s.pool.Prepare(ctx, poolSettings(p.cfg), next)
	}
	if err == nil {
		var apart *pool.Generation
		if p.gen != nil {
			apart = s.apart(p.gen)
		}
		if p.apart, err = s.apartPool.Prepare(ctx, apartSettings(p.cfg), apart); err != nil {
			<-p.next.GiveUp()
		}
	}
	if err != nil && p.gen != nil {
		p.gen.close()
	}
	return p, err
}

// tell finds out what the workers that there are have to be told.
func (p *plan) tell(g *generation) error {
	told, err := tell(p.cfg, g.models)
	if err != nil || g.toldAlready(told) {
		return err
	}
	p.told = told
	if !slices.ContainsFunc(p.changes, func(c config.Change) bool {
		return strings.HasPrefix(c.Key, "models.") || strings.HasPrefix(c.Key, "embedders.") || c.Key == "pools.default.cancel_grace"
	}) {
		p.changes = append(p.changes, p.otherKeys(g, told)...)
	}
	return nil
}

// anotherValue is what is shown of a reference whose value has changed.
const anotherValue = " (another value)"

// otherValues are the variables of workers that have another value behind the same reference.
func otherValues(p *plan, old, env []string) []config.Change {
	var out []config.Change
	for name, secret := range p.cfg.Pool.Env {
		key := "pools.default.env." + name
		changed := !slices.Equal(valueOf(old, name), valueOf(env, name))
		if changed && !slices.ContainsFunc(p.changes, func(c config.Change) bool { return c.Key == key }) {
			out = append(out, config.Change{Key: key, Old: secret.String(), New: secret.String() + anotherValue, Effect: config.Generation})
		}
	}
	slices.SortFunc(out, func(a, b config.Change) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// valueOf is what an environment says of a variable; empty where that is nothing.
func valueOf(env []string, name string) []string {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return []string{value}
		}
	}
	return nil
}

// otherKeys are the models whose key has another value behind the same reference.
func (p *plan) otherKeys(g *generation, told map[string]any) []config.Change {
	var out []config.Change
	for name, model := range p.cfg.Models {
		if keyOf(*g.told.Load(), name) != keyOf(told, name) {
			ref := model.APIKey.String()
			out = append(out, config.Change{Key: "models." + name + ".api_key", Old: ref, New: ref + anotherValue, Effect: config.Live})
		}
	}
	slices.SortFunc(out, func(a, b config.Change) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func keyOf(told map[string]any, model string) any {
	models, _ := told["models"].(map[string]any)
	settings, _ := models[model].(map[string]any)
	return settings["api_key"]
}

// commit makes the change. It cannot fail.
func (s *sidecar) commit(p *plan) {
	if p.cfg.Log.Level != s.cfg.Load().Log.Level { // else it stays as an administrator set it
		s.level.Set(p.cfg.Log.Level)
	}
	s.server.Apply(limits(p.cfg))
	s.sessions.Apply(sessionSettings(p.cfg))
	s.permits.Apply(modelLimits(p.cfg))
	old := s.generation.Load()
	switch {
	case p.gen != nil:
		s.generation.Store(p.gen)
	case p.told != nil:
		old.told.Store(&p.told)
	}
	gone, apartGone := p.next.Commit(), p.apart.Commit()
	s.runs.Apply(runSettings(p.cfg))
	s.cfg.Store(p.cfg)
	s.generation.Load().apply(p.cfg)
	if p.gen != nil {
		s.sessions.Forgive()
		s.older.Add(1)
		s.tasks.Go(func() { s.retire(old, gone, apartGone) })
		s.tellWorkers() // of programs that were shared while they started
	} else if p.told != nil {
		s.tellWorkers()
	}
}

// retire ends a generation that was replaced: its zygote at once, its model servers when no worker uses them any more.
func (s *sidecar) retire(g *generation, gone ...<-chan struct{}) {
	began := time.Now()
	g.workers.Close()
	for _, pool := range gone {
		if pool != nil { // else the pool is being closed, and with it all workers
			<-pool
		}
	}
	g.models.close()
	s.older.Add(-1)
	s.log.Info("generation ended", "generation", g.number, "after_ms", time.Since(began).Milliseconds())
}
