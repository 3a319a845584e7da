package app

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/shared"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// openShared reads what is there for all. A damaged file is put aside, and said so: calls of what it had fail, and no others.
func (s *sidecar) openShared(cfg *config.Config) (err error) {
	if s.shared, err = s.openValues(cfg, shared.Programs(cfg.Listen.MaxFrame)); err == nil {
		s.datasets, err = s.openValues(cfg, shared.Datasets(cfg.Listen.MaxFrame))
	}
	return err
}

func (s *sidecar) openValues(cfg *config.Config, limits shared.Limits) (*shared.Values, error) {
	path := ""
	if cfg.Sessions.Store == "file" {
		path = filepath.Join(cfg.Sessions.Path, limits.Of+"s")
	}
	values, err := shared.Open(path, limits)
	if errors.Is(err, shared.ErrDamaged) {
		s.log.Error("what was there for all is lost: put aside, and begun anew", "of", limits.Of, "error", err.Error(), "aside", path+".damaged")
		if err = os.Rename(path, path+".damaged"); err == nil {
			values, err = shared.Open(path, limits)
		}
	}
	return values, err
}

// share puts a program or a dataset in force for all, with the rights of the client whose call asks for it.
func (s *sidecar) share(batch *wire.Batch, who *proxy.Caller, params []byte, reply proxy.Reply) {
	var p struct {
		Program string     `msgpack:"program"`
		Dataset string     `msgpack:"dataset"`
		Value   rawMessage `msgpack:"value"`
	}
	err := wire.Unmarshal(params, &p)
	if err == nil && !who.Admin {
		err = wire.Errorf(wire.CodePermissionDenied, "only administrators change what is there for all (listen.admin_uids)")
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
		var err error
		if p.Dataset != "" {
			err = s.datasets.Set(p.Dataset, value)
		} else {
			err = s.shared.Set(p.Program, value)
		}
		if err == nil {
			s.log.Info("what is there for all changed", "program", p.Program, "dataset", p.Dataset, "uid", who.UID)
			if p.Dataset == "" {
				s.tellWorkers()
			}
		}
		var b wire.Batch
		reply(&b, map[string]any{}, err)
		b.Flush()
	})
}

// listDatasets answers a worker with what is told of each dataset for all: the first of its two items.
func (s *sidecar) listDatasets() ([]byte, error) {
	told := map[string]rawMessage{}
	for name, value := range s.datasets.All() {
		d := msgpack.NewDecoder(bytes.NewReader(value))
		if n, err := d.DecodeArrayLen(); err != nil || n != 2 {
			continue
		}
		if first, err := d.DecodeRaw(); err == nil {
			told[name] = first
		}
	}
	return wire.Marshal(map[string]any{"datasets": told})
}

// fetchDataset answers a worker with a dataset for all; nil where there is none.
func (s *sidecar) fetchDataset(params []byte) ([]byte, error) {
	var p struct {
		Name string `msgpack:"name"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	var value any
	if found := s.datasets.All()[p.Name]; found != nil {
		value = found
	}
	return wire.Marshal(map[string]any{"dataset": value})
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
