package app

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/shared"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// openShared reads the programs that are there for all. A damaged file is put aside, and said so: calls of programs that it had fail, and no others.
func (s *sidecar) openShared(cfg *config.Config) (err error) {
	path := ""
	if cfg.Sessions.Store == "file" {
		path = filepath.Join(cfg.Sessions.Path, "programs")
	}
	s.shared, err = shared.Open(path, cfg.Listen.MaxFrame)
	if errors.Is(err, shared.ErrDamaged) {
		s.log.Error("the programs for all are lost: put aside, and begun anew", "error", err.Error(), "aside", path+".damaged")
		if err = os.Rename(path, path+".damaged"); err == nil {
			s.shared, err = shared.Open(path, cfg.Listen.MaxFrame)
		}
	}
	return err
}

// share puts a program in force for all, with the rights of the client whose call asks for it.
func (s *sidecar) share(batch *wire.Batch, who *proxy.Caller, params []byte, reply proxy.Reply) {
	var p struct {
		Program string     `msgpack:"program"`
		Value   rawMessage `msgpack:"value"`
	}
	err := wire.Unmarshal(params, &p)
	if err == nil && !who.Admin {
		err = wire.Errorf(wire.CodePermissionDenied, "only administrators change programs for all (listen.admin_uids)")
	}
	if err != nil {
		reply(batch, nil, err)
		return
	}
	var value []byte
	if len(p.Value) > 0 && p.Value[0] != 0xc0 { // nil: it is taken out
		value = bytes.Clone(p.Value) // params are borrowed
	}
	s.tasks.Go(func() {
		err := s.shared.Set(p.Program, value)
		if err == nil {
			s.log.Info("a program for all changed", "program", p.Program, "uid", who.UID)
			s.tellWorkers()
		}
		var b wire.Batch
		reply(&b, map[string]any{}, err)
		b.Flush()
	})
}

// tellWorkers tells all workers what may change while they run.
func (s *sidecar) tellWorkers() {
	s.telling.Lock()
	defer s.telling.Unlock()
	params, err := wire.Marshal(s.generation.Load().mayChange())
	if err != nil { // it was marshalled for hello
		return
	}
	s.pool.Tell("sidecar.settings", params)
	s.apartPool.Tell("sidecar.settings", params)
}

// mayChange is what workers are told when they start, and again when it is another.
func (g *generation) mayChange() map[string]any {
	out := maps.Clone(*g.told.Load())
	out["shared"] = g.shared()
	return out
}
