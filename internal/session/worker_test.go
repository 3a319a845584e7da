package session_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// workers is what the worker processes of a test hold and do: they keep to docs/protocol.md, and hold the sidecar to it.
type workers struct {
	t      testing.TB
	calls  atomic.Int64 // that were run
	greedy sync.Map     // workers that take more memory than they may
	died   atomic.Int64 // workers, of a restore
	stuck  chan *pooltest.Worker
	slow   map[string]bool // workers that answer no restore; set before they are asked

	mu       sync.Mutex // guards what follows
	copies   map[string]map[uint64]*copyOf
	restores map[uint64]*restoring
	nexts    map[uint64]bool // versions that were promised
	log      []string
	arrived  chan *held
}

// copyOf is what a worker holds of a session.
type copyOf struct {
	id      string
	version uint64
	values  map[string]any
	secrets map[string]bool // which of the keys are secret
	lost    []any
}

// restoring is a restore whose parts are coming in.
type restoring struct {
	worker  string
	version uint64
	part    uint64
	next    copyOf
}

// held is a call that waits at its worker until the test lets it go on.
type held struct {
	worker *pooltest.Worker
	id     uint64 // on the worker's channel
	goOn   chan struct{}
}

func newWorkers(t testing.TB) *workers {
	t.Helper()
	return &workers{
		t: t, copies: map[string]map[uint64]*copyOf{}, restores: map[uint64]*restoring{}, nexts: map[uint64]bool{},
		arrived: make(chan *held, 512), stuck: make(chan *pooltest.Worker, 64),
	}
}

func methods() []pooltest.Method {
	return []pooltest.Method{
		pooltest.Plain("do"), pooltest.Plain("safe").With("retry", "safe"), pooltest.Plain("read").With("read_only", true),
	}
}

// handle is what a worker does with a frame. A call says what it saw, once it has done what its params say: send change
// frames ("frames", maps with set, secrets and delete), wait ("hold"), and fail ("fail") or die ("die") instead of answering. With "lengths" it says how long the values are.
func (ws *workers) handle(w *pooltest.Worker, m wiretest.Message) {
	params, _ := m.Payload.(map[string]any)
	switch {
	case m.Kind == wire.KindNotification && m.Method == "session.drop":
		ws.drop(w, params)
	case m.Method == "session.restore":
		ws.restoreAsked(w, m, params)
	case m.Kind == wire.KindRequest:
		ws.call(w, m, params)
	}
}

func (ws *workers) vitals(w *pooltest.Worker) pool.Vitals {
	if _, is := ws.greedy.Load(w); is {
		return pool.Vitals{State: 'S', Memory: 2000}
	}
	return pool.Vitals{State: 'S', Memory: 1}
}

// restoreAsked handles a restore. A state with the key "deadly" kills the worker, one with "stuck" is never answered.
func (ws *workers) restoreAsked(w *pooltest.Worker, m wiretest.Message, params map[string]any) {
	state, _ := params["state"].(map[string]any)
	err := ws.restore(w, params)
	switch {
	case state["deadly"] != nil:
		ws.died.Add(1)
		w.Die()
	case state["stuck"] != nil:
		ws.stuck <- w
	case err != nil:
		w.Refuse(m, err)
	case ws.slow[w.Name]:
	default:
		w.Answer(m, map[string]any{})
	}
}

func (ws *workers) call(w *pooltest.Worker, m wiretest.Message, params map[string]any) {
	c, err := ws.find(w, m)
	if err != nil {
		ws.note("stale " + w.Name)
		w.Refuse(m, err)
		return
	}
	state := c.values
	if params["lengths"] == true {
		state = map[string]any{}
		for k, v := range c.values {
			state[k] = len(fmt.Sprint(v))
		}
	}
	saw := map[string]any{
		"state": state, "version": c.version, "next": m.Meta["next"], "start": m.Meta["start"] == true, "worker": w.Name,
		"secrets": len(c.secrets), "call": ws.calls.Add(1), "lost": c.lost,
	}
	meta := map[string]any{}
	if params["usage"] != nil {
		meta["usage"] = params["usage"]
	}
	frames, _ := params["frames"].([]any)
	finish := func() {
		after := &copyOf{id: c.id, version: number(m.Meta["next"]), values: maps.Clone(c.values), secrets: maps.Clone(c.secrets)}
		for _, f := range frames {
			w.Send(wire.KindChange, m.ID, f)
			after.change(f)
		}
		switch {
		case params["die"] == true:
			w.Die()
			return
		case params["fail"] == true:
			w.Send(wire.KindResponse, m.ID, meta, wire.Errorf(wire.CodeProgramError, "as asked"), nil)
			return
		case params["lament"] == true:
			long := wire.Errorf(wire.CodeProgramError, "%s", strings.Repeat("alas ", 8000)).With("type", "Error")
			w.Send(wire.KindResponse, m.ID, meta, long, nil)
			return
		case params["busy"] == true:
			w.Refuse(m, &wire.Error{Code: wire.CodeLMError, Message: "later", Retryable: true})
			return
		}
		if len(frames) > 0 {
			ws.hold(w, number(m.Meta["key"]), after)
		}
		w.Send(wire.KindResponse, m.ID, meta, nil, saw)
	}
	if params["hold"] != true {
		finish()
		return
	}
	h := &held{w, m.ID, make(chan struct{})}
	ws.arrived <- h
	go func() {
		select {
		case <-h.goOn:
			finish()
		case <-w.Done():
		}
	}()
}

// find is the copy that a call is to run on.
func (ws *workers) find(w *pooltest.Worker, m wiretest.Message) (*copyOf, *wire.Error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	key, version, id := number(m.Meta["key"]), number(m.Meta["version"]), fmt.Sprint(m.Meta["session"])
	if key == 0 {
		return &copyOf{}, nil
	}
	if next := number(m.Meta["next"]); next != 0 {
		if ws.nexts[next] || next == version {
			ws.t.Errorf("version %d is promised again", next)
		}
		ws.nexts[next] = true
	}
	c := ws.copies[w.Name][key]
	if c == nil && version == 0 {
		c = &copyOf{id: id, values: map[string]any{}, secrets: map[string]bool{}}
	}
	if c == nil || c.version != version {
		return nil, &wire.Error{Code: wire.CodeStaleSession, Message: fmt.Sprintf("version %d is wanted, held: %+v", version, c)}
	}
	if c.id != id {
		ws.t.Errorf("session %q has the number of %q", id, c.id)
	}
	return c, nil
}

func (ws *workers) hold(w *pooltest.Worker, key uint64, c *copyOf) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.copies[w.Name] == nil {
		ws.copies[w.Name] = map[uint64]*copyOf{}
	}
	ws.copies[w.Name][key] = c
}

func (c *copyOf) change(frame any) {
	f, _ := frame.(map[string]any)
	set, _ := f["set"].(map[string]any)
	for k, v := range set {
		c.values[k] = v
		delete(c.secrets, k)
	}
	secrets, _ := f["secrets"].(map[string]any)
	for k, v := range secrets {
		c.values[k], c.secrets[k] = v, true
	}
	deleted, _ := f["delete"].([]any)
	for _, k := range deleted {
		name, _ := k.(string)
		delete(c.values, name)
		delete(c.secrets, name)
	}
}

func (ws *workers) restore(w *pooltest.Worker, params map[string]any) *wire.Error {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	key, version, part := number(params["key"]), number(params["version"]), number(params["part"])
	base, kind := number(params["base"]), "whole"
	if base != 0 {
		kind = "part"
	}
	ws.log = append(ws.log, fmt.Sprintf("restore %s %s %d/%d", kind, w.Name, part, number(params["parts"])))
	if part == 1 {
		next := copyOf{id: fmt.Sprint(params["session"]), version: version, values: map[string]any{}, secrets: map[string]bool{}}
		if base != 0 {
			c := ws.copies[w.Name][key]
			if c == nil || c.version != base {
				return &wire.Error{Code: wire.CodeStaleSession, Message: fmt.Sprintf("base %d is wanted, held: %+v", base, c)}
			}
			next.values, next.secrets = maps.Clone(c.values), maps.Clone(c.secrets)
		}
		lost, _ := params["lost"].([]any)
		next.lost = append(next.lost, lost...)
		ws.restores[key] = &restoring{worker: w.Name, version: version, next: next}
	}
	r := ws.restores[key]
	if r == nil || r.worker != w.Name || r.version != version || r.part+1 != part {
		ws.t.Errorf("a part out of order: %v", params["part"])
		return wire.Errorf(wire.CodeInvalidParams, "a part out of order")
	}
	r.part = part
	r.next.change(map[string]any{"delete": params["delete"]})
	r.next.change(map[string]any{"set": params["state"], "secrets": params["secrets"]})
	if part == number(params["parts"]) {
		delete(ws.restores, key)
		if ws.copies[w.Name] == nil {
			ws.copies[w.Name] = map[uint64]*copyOf{}
		}
		ws.copies[w.Name][key] = &r.next
	}
	return nil
}

func (ws *workers) drop(w *pooltest.Worker, params map[string]any) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	keys, _ := params["keys"].([]any)
	for _, k := range keys {
		delete(ws.copies[w.Name], number(k))
	}
	ws.log = append(ws.log, fmt.Sprintf("drop %s ended=%v", w.Name, params["ended"] == true))
}

func (ws *workers) note(what string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.log = append(ws.log, what)
}

// takeLog is what has happened since it was last taken.
func (ws *workers) takeLog() []string {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	log := ws.log
	ws.log = nil
	return log
}

func number(v any) uint64 {
	switch n := v.(type) {
	case int64:
		return uint64(n)
	case uint64:
		return n
	}
	return 0
}
