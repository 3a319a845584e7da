package proxy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

func TestSessionLife(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ok("session.create", nil, meta{"session": "a", "state": meta{"x": 1}, "labels": meta{"team": "red"}})
	c.want("session.create", nil, meta{"session": "a"}, wire.CodeSessionExists)
	c.want("session.create", nil, meta{"session": "b", "state": meta{"dspex.programs": 1}}, wire.CodeInvalidParams)
	c.want("session.create", nil, meta{"session": "b", "colour": 1}, wire.CodeInvalidParams)
	c.want("session.create", nil, meta{"session": "b", "state": meta{"x": strings.Repeat("x", 1<<20-200)}, "ttl_ms": 0}, wire.CodeInvalidParams)
	if n := number(c.ok("put", meta{"session": "a"}, meta{"y": 2})); n != 2 {
		t.Errorf("the worker did not hold the initial state: %d keys", n)
	}
	got, _ := c.ok("session.get", nil, meta{"session": "a"}).(map[string]any)
	state, _ := got["state"].(map[string]any)
	if number(state["x"]) != 1 || number(state["y"]) != 2 || got["worker"] == nil {
		t.Errorf("session.get: %+v", got)
	}
	c.ok("session.update", nil, meta{"session": "a", "set": meta{"z": 3}, "delete": []string{"x"}})
	held, _ := c.ok("get", meta{"session": "a"}, nil).(map[string]any)
	if len(held) != 2 || number(held["z"]) != 3 {
		t.Errorf("after an update beside the worker: %+v", held)
	}
	list, _ := c.ok("session.list", nil, meta{"labels": meta{"team": "red"}}).(map[string]any)
	if sessions, _ := list["sessions"].([]any); len(sessions) != 1 {
		t.Errorf("session.list: %+v", list)
	}
	c.ok("session.end", nil, meta{"session": "a"})
	c.want("session.get", nil, meta{"session": "a"}, wire.CodeSessionNotFound)
	c.want("put", meta{"session": "a"}, meta{"y": 2}, wire.CodeSessionNotFound)
}

func TestErrorsCommitNothing(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ok("session.create", nil, meta{"session": "a"})
	c.ok("put", meta{"session": "a"}, meta{"x": 1})
	c.want("fail", meta{"session": "a"}, meta{"x": 2}, wire.CodeProgramError)
	held, _ := c.ok("get", meta{"session": "a"}, nil).(map[string]any)
	if number(held["x"]) != 1 {
		t.Errorf("after a failed call: %+v", held)
	}
}

func TestSessionSurvivesItsWorker(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ok("session.create", nil, meta{"session": "a"})
	c.ok("put", meta{"session": "a"}, meta{"x": 1})
	for i := range uint64(5) {
		got, _ := c.ok("session.get", nil, meta{"session": "a"}).(map[string]any)
		name, _ := got["worker"].(string)
		s.starter.Named(name).Die()
		await(t, func() bool { return s.replaced(name) })
		if n := number(c.ok("put", meta{"session": "a"}, meta{"k" + string(rune('0'+i)): i})); n != i+2 {
			t.Fatalf("after death %d: %d keys", i+1, n)
		}
	}
	if s.noted("restore") < 5 {
		t.Errorf("%d restores", s.noted("restore"))
	}
}

// replaced says whether the pool has seen the end of the worker and has a new one in its place.
func (s *sidecar) replaced(name string) bool {
	snapshot := s.pool.Snapshot()
	for i := range snapshot.Workers {
		if snapshot.Workers[i].ID == name {
			return false
		}
	}
	return snapshot.Ready() == 2
}

func TestTurns(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ok("session.create", nil, meta{"session": "a"})
	first := c.ask("hold", meta{"session": "a"}, meta{"value": "one"})
	second := c.ask("hold", meta{"session": "a"}, meta{"value": "two"})
	<-s.arrived
	c.ok("echo", nil, nil) // another flow goes on
	if len(s.arrived) != 0 {
		t.Error("the second call did not wait for its turn")
	}
	s.release <- struct{}{}
	if r := c.Receive(); r.ID != first {
		t.Errorf("got %+v", r)
	}
	<-s.arrived
	c.Send(wire.KindCancel, second, "enough")
	if r := c.Receive(); r.ID != second || r.Error == nil {
		t.Errorf("got %+v", r)
	}
	c.ok("put", meta{"session": "a"}, meta{"x": 1})
}

func TestEndSettlesCalls(t *testing.T) {
	s := start(t)
	c, other := s.connect(), s.connect()
	c.ok("session.create", nil, meta{"session": "a"})
	c.ask("hold", meta{"session": "a"}, nil)
	<-s.arrived
	c.ask("echo", meta{"session": "a"}, nil)
	other.ok("session.end", nil, meta{"session": "a"})
	for range 2 {
		if r := c.Receive(); r.Error == nil || r.Error.Code != wire.CodeSessionNotFound {
			t.Errorf("got %+v", r)
		}
	}
	// A new session of the same id is another one.
	c.ok("session.create", nil, meta{"session": "a"})
	if n := number(c.ok("put", meta{"session": "a"}, meta{"x": 1})); n != 1 {
		t.Errorf("%d keys in a new session", n)
	}
}

func TestTokens(t *testing.T) {
	s := start(t)
	c := s.connect()
	made, _ := c.ok("session.create", nil, meta{"session": "a", "token": true, "state": meta{"secret": 1}}).(map[string]any)
	token, _ := made["token"].(string)
	if len(token) != 32 {
		t.Errorf("the token is %q", token)
	}
	calls := []struct {
		method string
		params meta
	}{
		{"session.get", meta{"session": "a"}},
		{"session.update", meta{"session": "a", "set": meta{"y": 1}}},
		{"session.end", meta{"session": "a"}},
	}
	for _, call := range calls { // what is not yours is answered like what is not there
		missing := c.refused(call.method, nil, meta{"session": "b"}, wire.CodeSessionNotFound)
		want := strings.ReplaceAll(missing.Message, "\"b\"", "\"a\"")
		for _, m := range []meta{nil, {"session_token": "guess"}, {"session": "a", "session_token": token + "0"}, {"session_token": ""}} {
			if e := c.refused(call.method, m, call.params, wire.CodeSessionNotFound); e.Message != want {
				t.Errorf("%s with %v: %q, want %q", call.method, m, e.Message, want)
			}
		}
	}
	c.want("put", meta{"session": "a", "session_token": "guess"}, nil, wire.CodeSessionNotFound)
	c.ok("put", meta{"session": "a", "session_token": token}, meta{"x": 1})
	c.ok("session.create", nil, meta{"session": "a"}) // not blocked by the other's

	holder := meta{"session_token": token}
	c.ok("session.update", holder, meta{"session": "a", "set": meta{"y": 1}})
	got, _ := c.ok("session.get", holder, meta{"session": "a"}).(map[string]any)
	if state, _ := got["state"].(map[string]any); len(state) != 3 {
		t.Errorf("the holder is shown %v", got)
	}
	for _, m := range []meta{nil, holder} { // each sees its own
		list, _ := c.ok("session.list", m, nil).(map[string]any)
		sessions, _ := list["sessions"].([]any)
		if len(sessions) != 1 {
			t.Errorf("with %v: %v", m, list)
		}
		if strings.Contains(fmt.Sprint(list), token) {
			t.Error("the list tells the token")
		}
	}
	all, _ := c.ok("session.list", nil, meta{"all": true}).(map[string]any)
	if sessions, _ := all["sessions"].([]any); len(sessions) != 2 || strings.Contains(fmt.Sprint(all), token) {
		t.Errorf("to an administrator: %v", all)
	}

	// A connection's token stands for that of each request.
	other := s.dial()
	if r := other.call("hello", nil, meta{"protocols": []int{1}, "token": token}); r.Error != nil {
		t.Fatal(r.Error)
	}
	if n := number(other.ok("put", meta{"session": "a"}, meta{"z": 1})); n != 4 {
		t.Errorf("%d keys", n)
	}
	other.want("get", meta{"session": "a", "session_token": "guess"}, nil, wire.CodeSessionNotFound)
	other.ok("session.end", nil, meta{"session": "a"})
	c.want("session.get", holder, meta{"session": "a"}, wire.CodeSessionNotFound)
	c.ok("session.get", nil, meta{"session": "a"})
}

func TestSessionParams(t *testing.T) {
	s := start(t)
	c := s.connect()
	labels := func(n int) meta {
		m := meta{}
		for i := range n {
			m[fmt.Sprint("l", i)] = ""
		}
		return m
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	bad := map[string]meta{
		"an id that is too long":       {"session": long(129)},
		"an id with a line end":        {"session": "a\n"},
		"no time to live":              {"ttl_ms": 0},
		"eleven years":                 {"ttl_ms": int64(11*365*24*3600) * 1000},
		"too many labels":              {"labels": labels(33)},
		"a label without a name":       {"labels": meta{"": "x"}},
		"a label with a long name":     {"labels": meta{long(65): "x"}},
		"a label with a long value":    {"labels": meta{"l": long(257)}},
		"a label that is a number":     {"labels": meta{"l": 1}},
		"another pool":                 {"pool": "gpu"},
		"a state that is no map":       {"state": []int{1}},
		"a reserved key":               {"state": meta{"dspex.x": 1}},
		"a key that is too long":       {"state": meta{long(257): 1}},
		"a token that is asked for so": {"token": "mine"},
		"a name that is not known":     {"colour": "red"},
	}
	for name, params := range bad {
		if params["session"] == nil {
			params["session"] = "bad"
		}
		if e := c.refused("session.create", nil, params, wire.CodeInvalidParams); e.Retryable {
			t.Errorf("%s: %+v", name, e)
		}
	}
	c.want("session.create", meta{"session": "a"}, meta{"session": "b"}, wire.CodeInvalidParams)
	c.ok("session.create", nil, meta{"session": long(128), "labels": labels(32), "ttl_ms": 1000, "pool": "default", "state": nil})
	made, _ := c.ok("session.create", nil, nil).(map[string]any)
	if id, _ := made["session"].(string); len(id) != 32 {
		t.Errorf("an id was made: %v", made)
	}
	c.ok("session.create", meta{"session": "m"}, nil)
	for _, method := range []string{"session.get", "session.update", "session.end"} {
		c.want(method, nil, nil, wire.CodeInvalidParams)
		c.want(method, meta{"session": "m"}, meta{"session": "n"}, wire.CodeInvalidParams)
		c.want(method, nil, meta{"session": "m", "colour": 1}, wire.CodeInvalidParams)
		c.ok(method, meta{"session": "m"}, nil)
	}
	c.ok("session.create", nil, meta{"session": "u"})
	c.want("session.update", nil, meta{"session": "u", "set": []int{1}}, wire.CodeInvalidParams)
	c.want("session.update", nil, meta{"session": "u", "set": meta{"dspex.lm": 1}}, wire.CodeInvalidParams)
	c.want("session.update", nil, meta{"session": "u", "delete": []string{"dspex.lm"}}, wire.CodeInvalidParams)
	c.ok("session.update", nil, meta{"session": "u", "set": meta{"x": 1, "y": 1}, "delete": []string{"x", "none"}})
	got, _ := c.ok("session.get", nil, meta{"session": "u"}).(map[string]any)
	if state, _ := got["state"].(map[string]any); len(state) != 1 || number(state["y"]) != 1 {
		t.Errorf("set and deleted at once: %v", got)
	}
}

// What a frame has wrong in its state is answered to that request alone.
func TestStateThatBreaksTheRules(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ok("session.create", nil, meta{"session": "a"})
	for name, state := range map[string]string{
		"text that is not UTF-8": "\x81\xa1k\xa1\xff", "a key twice": "\x82\xa1k\x01\xa1k\x02", "a key that is bytes": "\x81\xc4\x01k\x01",
	} {
		params := meta{"session": "b", "state": msgpack.RawMessage(state)}
		if e := c.refused("session.create", nil, params, wire.CodeInvalidFrame); e.Message == "" {
			t.Error(name)
		}
		c.want("session.update", nil, meta{"session": "a", "set": msgpack.RawMessage(state)}, wire.CodeInvalidFrame)
	}
	c.want("session.get", nil, meta{"session": "b"}, wire.CodeSessionNotFound)
	c.ok("put", meta{"session": "a"}, meta{"x": 1})
}

func TestReservedKeysAreNotShown(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ok("session.create", nil, meta{"session": "a"})
	c.ok("put", meta{"session": "a"}, meta{"dspex.programs": 1, "x": 1})
	got, _ := c.ok("session.get", nil, meta{"session": "a"}).(map[string]any)
	if state, _ := got["state"].(map[string]any); len(state) != 1 || number(got["bytes"]) != uint64(len("dspex.programs")+1+len("x")+1) {
		t.Errorf("shown: %v", got)
	}
	for _, key := range []string{"session", "worker", "labels", "version", "age_ms", "idle_ms", "ttl_ms", "calls"} {
		if _, there := got[key]; !there {
			t.Errorf("%q is missing in %v", key, got)
		}
	}
	if _, there := got["owner"]; there {
		t.Errorf("%v", got)
	}
}

func TestListInPages(t *testing.T) {
	s := start(t)
	c := s.connect()
	for i := range 25 {
		c.ok("session.create", nil, meta{"session": fmt.Sprintf("s%02d", i), "labels": meta{"even": fmt.Sprint(i%2 == 0)}, "token": i >= 20})
	}
	pages := func(params meta) (ids []string) {
		params["limit"] = 4
		for {
			list, _ := c.ok("session.list", nil, params).(map[string]any)
			sessions, _ := list["sessions"].([]any)
			for _, one := range sessions {
				info, _ := one.(map[string]any)
				ids = append(ids, fmt.Sprint(info["session"]))
			}
			if list["next"] == nil {
				return ids
			}
			params["after"] = list["next"]
		}
	}
	if ids := pages(meta{}); len(ids) != 20 || !slices.IsSorted(ids) {
		t.Errorf("mine: %v", ids)
	}
	if ids := pages(meta{"labels": meta{"even": "true"}}); len(ids) != 10 {
		t.Errorf("with a label: %v", ids)
	}
	ids := pages(meta{"all": true})
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 25 {
		t.Errorf("all: %v", ids)
	}
	for _, params := range []meta{{"limit": 0}, {"limit": 1001}, {"limit": "4"}, {"colour": 1}} {
		c.want("session.list", nil, params, wire.CodeInvalidParams)
	}
}

func TestAllIsForAdministrators(t *testing.T) {
	s := start(t, func(_ *pool.Settings, c *proxy.Config) { c.AdminUIDs = nil })
	c := s.connect()
	c.want("session.list", nil, meta{"all": true}, wire.CodePermissionDenied)
	c.ok("session.list", nil, nil)
}

func TestDeadlineDropsChanges(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ok("session.create", nil, meta{"session": "a"})
	c.ok("put", meta{"session": "a"}, meta{"x": 1})
	c.want("hold", meta{"session": "a", "timeout_ms": 20}, nil, wire.CodeDeadlineExceeded)
	held, _ := c.ok("get", meta{"session": "a"}, nil).(map[string]any)
	if len(held) != 1 {
		t.Errorf("got %+v", held)
	}
}
