package proxy

import (
	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/wire"
)

// exportFormat is the version of what session.export gives.
const exportFormat = 1

// exportPage is how many bytes of a state one answer brings, unless a single value takes more.
const exportPage = 4 << 20

func (s *Server) sessionExport(who *Caller, params []byte) (any, error) {
	var p struct {
		Session string  `msgpack:"session"`
		Owner   string  `msgpack:"owner"`
		After   string  `msgpack:"after"`
		Version *uint64 `msgpack:"version"`
		Reveal  bool    `msgpack:"reveal"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	key, err := keyOf(who, p.Session, p.Owner)
	if err != nil {
		return nil, err
	}
	if key.Owner != who.Owner && !p.Reveal {
		return nil, wire.Errorf(wire.CodePermissionDenied, "an export shows the state of somebody else's session: say reveal")
	}
	page, err := s.cfg.Sessions.Export(key, p.After, exportPage)
	if err != nil {
		return nil, err
	}
	i := &page.Info
	if p.Version != nil && *p.Version != i.Version {
		return nil, wire.Errorf(wire.CodeSessionBusy, "the session has changed since the export began; begin again")
	}
	export := map[string]any{
		"format": exportFormat, "session": key.ID, "version": i.Version, "labels": labelsOf(i), "ttl_ms": wire.OrNil(i.TTL.Milliseconds()),
		"max_age_ms": wire.OrNil(i.MaxAge.Milliseconds()), "started": page.Started, "state": msgpack.RawMessage(page.State), "lost": append([]string{}, page.Lost...),
	}
	result := map[string]any{"export": export, "next": nil}
	if page.Next != "" {
		result["next"] = page.Next
	}
	return result, nil
}

// exported is what session.export gave.
type exported struct {
	Format  int                `msgpack:"format"`
	Session string             `msgpack:"session"`
	Version uint64             `msgpack:"version"` // of no meaning in another sidecar
	Labels  map[string]string  `msgpack:"labels"`
	TTL     *int64             `msgpack:"ttl_ms"`
	MaxAge  *int64             `msgpack:"max_age_ms"`
	Started bool               `msgpack:"started"`
	State   msgpack.RawMessage `msgpack:"state"`
	Lost    []string           `msgpack:"lost"`
}

func (e *exported) check() error {
	switch {
	case e.Format != exportFormat:
		return wire.Errorf(wire.CodeInvalidParams, "an export of format %d; this sidecar reads format %d", e.Format, exportFormat)
	case len(e.State) == 0 || !isMap(e.State):
		return wire.Errorf(wire.CodeInvalidParams, "export.state is a map")
	case !isTime(e.TTL) || !isTime(e.MaxAge):
		return wire.Errorf(wire.CodeInvalidParams, "export.ttl_ms and export.max_age_ms are at least 1 and at most ten years, or nil")
	case len(e.Lost) > session.MaxLost:
		return wire.Errorf(wire.CodeInvalidParams, "export.lost names more than %d secrets", session.MaxLost)
	}
	for _, name := range e.Lost {
		if name == "" || len(name) > wire.MaxStateKey {
			return wire.Errorf(wire.CodeInvalidParams, "export.lost holds names of 1 to %d bytes", wire.MaxStateKey)
		}
	}
	return checkLabels(e.Labels)
}

// sessionImport makes a session of an export's first page, and with append adds a further one to it. With more the page is not the last: the
// session takes no calls yet.
func (s *Server) sessionImport(batch *wire.Batch, who *Caller, params []byte, reply Reply) {
	var p struct {
		Session string   `msgpack:"session"`
		Owner   string   `msgpack:"owner"`
		Export  exported `msgpack:"export"`
		Append  bool     `msgpack:"append"`
		More    bool     `msgpack:"more"`
	}
	err := wire.Unmarshal(params, &p)
	if err == nil {
		err = p.Export.check()
	}
	if p.Session == "" {
		p.Session = p.Export.Session
	}
	var key session.Key
	if err == nil {
		key, err = keyOf(who, p.Session, p.Owner)
	}
	if err == nil {
		err = checkID(key.ID)
	}
	if err == nil && s.isDraining() {
		err = wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	}
	if err != nil {
		reply(batch, nil, err)
		return
	}
	done := func(b *wire.Batch, err error) { reply(b, map[string]any{"session": key.ID}, err) }
	if p.Append {
		u := session.Update{Set: p.Export.State, Imported: true, More: p.More, Deadline: who.Deadline}
		s.cfg.Sessions.Update(batch, key, u, func(b *wire.Batch, _ uint64, err error) { done(b, err) })
		return
	}
	o := session.Options{
		Payer: who.Payer, More: p.More,
		TTL: timeOf(p.Export.TTL), MaxAge: timeOf(p.Export.MaxAge),
		State: p.Export.State, Labels: p.Export.Labels, Imported: true, Started: p.Export.Started, Lost: p.Export.Lost,
	}
	s.cfg.Sessions.Create(batch, key, o, done)
}
