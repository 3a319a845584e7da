package app

import (
	"errors"
	"slices"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// compareParams are those of admin.config.compare.
type compareParams struct {
	Text    *string `msgpack:"text"`    // of another file; nil: the sidecar's own is meant
	Profile string  `msgpack:"profile"` // "": the one in force
}

// compareMethod is admin.config.compare: what a reload would change, as this sidecar reads a configuration: from its folder, with its environment, by its CPUs. It reads
// files, and so does not run where frames are read.
func (s *sidecar) compareMethod(batch *wire.Batch, who *proxy.Caller, params []byte, reply proxy.Reply) {
	var p compareParams
	err := onlyAdmins(who)
	if err == nil {
		err = wire.Unmarshal(params, &p)
	}
	if err != nil {
		reply(batch, nil, err)
		return
	}
	s.tasks.Go(func() {
		var b wire.Batch
		reply(&b, s.compare(&p), nil)
		b.Flush()
	})
}

func (s *sidecar) compare(p *compareParams) any {
	before := s.cfg.Load()
	o := s.options.configuration()
	o.Text = p.Text
	if p.Profile != "" {
		o.Profile = p.Profile
	}
	after, err := s.read(o)
	var changes []config.Change
	if err == nil {
		changes, err = s.differences(before, after, p.Text == nil)
	}
	if err != nil {
		wrong := placesOf(err)
		if len(wrong) == 0 {
			one := &config.Error{Message: err.Error()}
			_ = errors.As(err, &one)
			wrong = append(wrong, placeOf(one))
		}
		return map[string]any{"valid": false, "path": wire.OrNil(before.Path), "errors": wrong, "changes": []any{}}
	}
	list := make([]map[string]any, 0, len(changes))
	for _, c := range changes {
		list = append(list, map[string]any{"key": c.Key, "old": wire.OrNil(c.Old), "new": wire.OrNil(c.New), "effect": string(c.Effect)})
	}
	return map[string]any{"valid": true, "path": wire.OrNil(before.Path), "errors": []any{}, "changes": list}
}

// differences are what a reload would tell of as changed. What references lead to is looked at where the text is the sidecar's own alone: nobody else has it open files.
func (s *sidecar) differences(before, after *config.Config, values bool) ([]config.Change, error) {
	p := &plan{changes: config.Diff(before, after), cfg: config.Kept(before, after)}
	if !values {
		return p.changes, nil
	}
	g := s.generation.Load()
	env, err := s.maker.environ(p.cfg)
	if err != nil {
		return nil, err
	}
	p.changes = append(p.changes, otherValues(p, g.env, env)...)
	if !slices.ContainsFunc(p.changes, func(c config.Change) bool { return c.Effect == config.Generation }) {
		err = p.tell(g)
	}
	return p.changes, err
}
