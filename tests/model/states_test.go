package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dspex/dspex-sidecar/wire"
)

// state is all that a session may hold.
type state struct {
	alive  bool
	begun  bool  // a call has committed since its creation or reset
	made   int   // by which session.create
	log    []int // the changes that calls made, in order
	set    int   // by session.update
	pad    int
	secret int
	keys   map[string]string // what is known of calls with an idempotency key: their answer, or the code of their error
}

// seen is what a call in the session answers.
func (s *state) seen() string {
	return fmt.Sprint("log=", s.log, " made=", s.made, " set=", s.set, " pad=", s.pad, " secret=", s.secret, " lost=[]")
}

// String is different for different states.
func (s *state) String() string {
	if !s.alive {
		return "no session"
	}
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(s.keys)) {
		keys = append(keys, k+": "+s.keys[k])
	}
	return fmt.Sprint(s.seen(), " begun=", s.begun, " keys={", strings.Join(keys, "; "), "}")
}

func (s *state) copy() *state {
	c := *s
	c.log, c.keys = slices.Clone(s.log), maps.Clone(s.keys)
	if c.keys == nil {
		c.keys = map[string]string{}
	}
	return &c
}

// do is the state after a request of that kind was answered.
func (s *state) do(r *request) *state {
	c := s.copy()
	switch r.kind {
	case "session.create":
		return &state{alive: true, made: r.id}
	case "session.end":
		return &state{}
	case "session.reset":
		return &state{alive: true, keys: c.keys}
	case "session.update":
		c.set = r.set
	case "session.get":
	case "look":
		c.begun = true
	default:
		c.begun, c.log = true, append(c.log, r.id)
		if r.pad > 0 {
			c.pad = r.pad
		}
		if r.secret {
			c.secret = r.id
		}
	}
	return c
}

// after is in which states the session may be after a request that had this outcome, where it was in s before; none: then it had not been.
func (s *state) after(r *request, o outcome) []*state {
	switch {
	case o.failed(wire.CodeSessionNotFound):
		return only(s, !s.alive && r.kind != "session.create")
	case o.failed(wire.CodeSessionExists):
		return only(s, s.alive && r.kind == "session.create")
	case s.alive == (r.kind == "session.create"):
		return only(s, o.lost)
	case r.key != "":
		return s.afterKeyed(r, o)
	case o.lost && r.fails:
		return []*state{s}
	case o.lost:
		return []*state{s, s.do(r)}
	case o.err != nil:
		return only(s, r.mayFail(o.err))
	}
	c := s.do(r)
	return only(c, !r.fails && c.answers(r, o))
}

// afterKeyed is after for a call with an idempotency key.
func (s *state) afterKeyed(r *request, o outcome) []*state {
	text := described(o)
	if known, there := s.keys[r.key]; there {
		return only(s, o.lost || known == text)
	}
	with := func(c *state, answer string) *state {
		c = c.copy()
		c.keys[r.key] = answer
		return c
	}
	done := s.do(r)
	ended := with(done, done.seen())
	if r.fails {
		ended = with(s, string(wire.CodeProgramError))
	}
	switch {
	case o.lost:
		return []*state{s, ended, with(s, maybeRan), with(s, neverRan)}
	case o.failed(wire.CodeSessionLost): // it has not run
		return []*state{s}
	case o.err != nil:
		return only(with(s, text), r.mayFail(o.err))
	}
	return only(with(done, text), !r.fails && done.answers(r, o))
}

func only(s *state, possible bool) []*state {
	if possible {
		return []*state{s}
	}
	return nil
}

// answers says whether this is what a request is answered after which the session is in s.
func (s *state) answers(r *request, o outcome) bool {
	switch r.kind {
	case "session.create", "session.end", "session.reset", "session.update":
		return true
	case "session.get":
		return s.gotten() == gotten(o.value)
	case "add_streamed": // its answer is its end
		return o.value == nil
	}
	return s.seen() == described(o)
}

// gotten is what session.get tells of the state.
func (s *state) gotten() string {
	m := map[string]any{}
	if s.begun {
		m["log"], m["n"] = s.log, len(s.log)
	}
	for name, n := range map[string]int{"made": s.made, "set": s.set, "pad": s.pad} {
		if n != 0 {
			m[name] = n
		}
	}
	return fmt.Sprint(m)
}

func gotten(value any) string {
	m, _ := value.(map[string]any)
	state, _ := m["state"].(map[string]any)
	switch pad := state["pad"].(type) {
	case []byte:
		state["pad"] = len(pad)
	case string:
		state["pad"] = len(pad)
	}
	return fmt.Sprint(state)
}

// What is kept of a call whose worker or sidecar died.
const (
	maybeRan = "worker_lost, maybe_executed: true"
	neverRan = "worker_lost, maybe_executed: false"
)

// described is an outcome in the form of state.seen, or its code.
func described(o outcome) string {
	m, isMap := o.value.(map[string]any)
	switch {
	case o.failed(wire.CodeWorkerLost):
		return fmt.Sprint("worker_lost, maybe_executed: ", o.err.Details["maybe_executed"])
	case o.err != nil:
		return string(o.err.Code)
	case !isMap:
		return fmt.Sprint(o.value)
	}
	return fmt.Sprint("log=", m["log"], " made=", m["made"], " set=", m["set"], " pad=", m["pad"], " secret=", m["secret"], " lost=", m["lost"])
}

// step narrows what is possible by one more outcome.
func step(possible []*state, r *request, o outcome) ([]*state, error) {
	next := map[string]*state{}
	for _, s := range possible {
		for _, c := range s.after(r, o) {
			next[c.String()] = c
		}
	}
	if len(next) > 0 {
		return slices.Collect(maps.Values(next)), nil
	}
	text := fmt.Sprintf("%v was answered: %v\nwhere the session was in one of these states:", r, o)
	for _, s := range possible {
		text += "\n    " + s.String()
	}
	return nil, fmt.Errorf("%s", text)
}
