package pool

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dspex/dspex-sidecar/wire"
)

// Method is what a worker says of one method in its answer to hello.
type Method struct {
	Name      string         `msgpack:"name" json:"name"`
	Doc       string         `msgpack:"doc" json:"doc"`
	Params    map[string]any `msgpack:"params" json:"params"`
	Result    map[string]any `msgpack:"result" json:"result"`
	Item      map[string]any `msgpack:"item" json:"item"`       // of what it streams; nil where it does not
	Stream    string         `msgpack:"stream" json:"stream"`   // one of the wants
	Session   string         `msgpack:"session" json:"session"` // likewise
	ReadOnly  bool           `msgpack:"read_only" json:"read_only"`
	Retry     *string        `msgpack:"retry" json:"retry"`
	Process   *string        `msgpack:"process" json:"process"`
	RetrySafe bool           `msgpack:"-" json:"-"`
}

// ErrOwnProcess is the outcome of a call whose method wants a process for each call, in a pool whose workers take more than one. Who submitted it
// before it was known what the method wants submits it to another pool.
var ErrOwnProcess = wire.Errorf(wire.CodeInternal, "the method wants a process of its own for each call")

// What a method says of a session and of a stream. One that wants no session runs in one as well: in its turn, at the
// worker that the session is pinned to.
const (
	wantNone     = "none"
	wantOptional = "optional"
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

// maxMethods is more than any application has.
const maxMethods = 10_000

// readHello reads a worker's answer to hello. The error says what of it cannot be right.
func readHello(payload []byte) (*workerHello, map[string]*Method, error) {
	h := &workerHello{MaxFrame: wire.DefaultFrame}
	if err := wire.Unmarshal(payload, h); err != nil {
		return nil, nil, fmt.Errorf("its answer to hello cannot be read: %w", err)
	}
	methods, err := h.check()
	if err != nil {
		return nil, nil, fmt.Errorf("its answer to hello cannot be used: %w", err)
	}
	return h, methods, nil
}

func (h *workerHello) check() (map[string]*Method, error) {
	switch {
	case h.Protocol != wire.Protocol:
		return nil, fmt.Errorf("it speaks protocol %d, not %d", h.Protocol, wire.Protocol)
	case h.PID < 1:
		return nil, fmt.Errorf("pid is %d", h.PID)
	case h.Worker == nil:
		return nil, errors.New("worker is missing")
	case h.MaxFrame < wire.MinFrameLimit:
		return nil, fmt.Errorf("max_frame is %d, and is at least %d", h.MaxFrame, wire.MinFrameLimit)
	case h.Methods == nil:
		return nil, errors.New("methods are missing")
	case len(h.Methods) > maxMethods:
		return nil, fmt.Errorf("it has %d methods, and may have %d", len(h.Methods), maxMethods)
	}
	methods := make(map[string]*Method, len(h.Methods))
	for i, m := range h.Methods {
		if m == nil {
			return nil, fmt.Errorf("methods[%d] is nil", i)
		}
		if err := m.check(); err != nil {
			return nil, fmt.Errorf("methods[%d], %.150q: %w", i, m.Name, err)
		}
		if methods[m.Name] != nil {
			return nil, fmt.Errorf("methods[%d], %q, is there twice", i, m.Name)
		}
		m.RetrySafe = m.Retry != nil
		methods[m.Name] = m
	}
	return methods, nil
}

func (m *Method) check() error {
	wants := func(s string) bool { return s == wantNone || s == wantOptional || s == wantRequired }
	switch {
	case m.Name == "" || len(m.Name) > wire.MaxMethod:
		return fmt.Errorf("a name has 1 to %d bytes", wire.MaxMethod)
	case reserved(m.Name):
		return errors.New("the name is reserved for the sidecar")
	case !wants(m.Session):
		return fmt.Errorf("session is %q", m.Session)
	case !wants(m.Stream):
		return fmt.Errorf("stream is %q", m.Stream)
	case m.Retry != nil && *m.Retry != "safe":
		return fmt.Errorf("retry is %q", *m.Retry)
	case m.Process != nil && *m.Process != "own":
		return fmt.Errorf("process is %q", *m.Process)
	}
	return nil
}

// reserved says whether a name is one of those that applications may not register.
func reserved(name string) bool {
	if name == "hello" || name == "ping" {
		return true
	}
	for _, family := range []string{"session.", "sidecar.", "admin.", "runs."} {
		if strings.HasPrefix(name, family) {
			return true
		}
	}
	return false
}

// setMethodsLocked puts in force what workers say that they have.
func (p *Pool) setMethodsLocked(methods map[string]*Method) {
	p.methods = methods
	apart := map[string]struct{}{}
	for name, m := range methods {
		if m.Process != nil {
			apart[name] = struct{}{}
		}
	}
	p.apart.Store(&apart)
}

// Apart says whether a method is known to want a process of its own for each call.
func (p *Pool) Apart(method []byte) bool {
	apart := p.apart.Load()
	if apart == nil {
		return false
	}
	_, is := (*apart)[string(method)]
	return is
}

// Methods are those of the workers that got ready last; nil before any did.
func (p *Pool) Methods() map[string]*Method {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.methods
}
