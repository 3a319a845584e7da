package proxy_test

import (
	"strings"
	"testing"

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
	made, _ := c.ok("session.create", nil, meta{"session": "a", "token": true}).(map[string]any)
	c.want("session.get", nil, meta{"session": "a"}, wire.CodeSessionNotFound)
	c.want("put", meta{"session": "a", "session_token": "guess"}, nil, wire.CodeSessionNotFound)
	c.ok("put", meta{"session": "a", "session_token": made["token"]}, meta{"x": 1})
	c.ok("session.create", nil, meta{"session": "a"}) // not blocked by the other's
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
