package pool

import (
	"fmt"

	"github.com/dspex/dspex-sidecar/wire"
)

// Method is what a worker says of one method in its answer to hello.
type Method struct {
	Name      string         `msgpack:"name" json:"name"`
	Doc       string         `msgpack:"doc" json:"doc"`
	Params    map[string]any `msgpack:"params" json:"params"`
	Result    map[string]any `msgpack:"result" json:"result"`
	Stream    string         `msgpack:"stream" json:"stream"`   // one of the wants
	Session   string         `msgpack:"session" json:"session"` // likewise
	ReadOnly  bool           `msgpack:"read_only" json:"read_only"`
	Retry     *string        `msgpack:"retry" json:"retry"`
	RetrySafe bool           `msgpack:"-" json:"-"`
}

// What a method says of a session and of a stream. One that wants no session runs in one as well: in its turn, at the
// worker that the session is pinned to.
const (
	wantNone     = "none"
	wantRequired = "required"
)

// fits says why a call cannot be one of this method.
func (m *Method) fits(c *Call, inSession bool) *wire.Error {
	switch {
	case m.Session == wantRequired && !inSession:
		return wire.Errorf(wire.CodeInvalidParams, "%s needs a session", m.Name)
	case m.Stream == wantRequired && c.Meta.Stream == 0:
		return wire.Errorf(wire.CodeInvalidParams, "%s streams: call it with meta.stream", m.Name)
	case m.Stream == wantNone && c.Meta.Stream != 0:
		return wire.Errorf(wire.CodeInvalidParams, "%s does not stream: call it without meta.stream", m.Name)
	}
	return nil
}

// workerHello is a worker's answer to hello.
type workerHello struct {
	Protocol int            `msgpack:"protocol"`
	Features []string       `msgpack:"features"`
	Worker   map[string]any `msgpack:"worker"`
	PID      int            `msgpack:"pid"`
	MaxFrame int            `msgpack:"max_frame"`
	Methods  []*Method      `msgpack:"methods"`
}

func (h *workerHello) table() (map[string]*Method, error) {
	if h.Protocol != wire.Protocol {
		return nil, fmt.Errorf("the worker speaks protocol %d, not %d", h.Protocol, wire.Protocol)
	}
	methods := make(map[string]*Method, len(h.Methods))
	for _, m := range h.Methods {
		m.RetrySafe = m.Retry != nil && *m.Retry == "safe"
		methods[m.Name] = m
	}
	return methods, nil
}

// Methods are those of the workers that got ready last; nil before any did.
func (p *Pool) Methods() map[string]*Method {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.methods
}
