package proxy_test

import (
	"testing"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestIdempotencyKey(t *testing.T) {
	for _, m := range []meta{{"idempotency_key": "k"}, {"idempotency_key": "k", "session": "a"}} {
		s := start(t)
		c := s.connect()
		c.ok("session.create", nil, meta{"session": "a"})
		id := c.ask("hold", m, meta{"v": 1})
		<-s.arrived
		other := s.connect()
		joined := other.ask("hold", m, meta{"v": 1})
		other.want("hold", m, meta{"v": 2}, wire.CodeInvalidParams)
		s.release <- struct{}{}
		if a, b := c.answer(id), other.answer(joined); a.Error != nil || b.Error != nil {
			t.Errorf("%+v, %+v", a, b)
		}
		other.ok("hold", m, meta{"v": 1}) // it would wait if it ran
	}
}

// A client that lost its connection finds the answer of the call that went on.
func TestIdempotencyKeyAfterALostConnection(t *testing.T) {
	s := start(t)
	c := s.connect()
	m := meta{"idempotency_key": "k"}
	c.ask("hold", m, meta{"v": 1})
	<-s.arrived
	_ = c.Conn.Close()
	await(t, func() bool { return len(s.server.Clients()) == 0 })
	s.release <- struct{}{}
	s.connect().ok("hold", m, meta{"v": 1})
	if n := len(s.arrived); n != 0 {
		t.Errorf("it ran %d times more", n)
	}
}

func TestWhatTakesNoIdempotencyKey(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.want("count", meta{"stream": 10, "idempotency_key": "k"}, meta{"n": 1}, wire.CodeInvalidParams)
	c.want("session.create", meta{"idempotency_key": "k"}, nil, wire.CodeInvalidParams)
	c.want("echo", meta{"idempotency_key": ""}, nil, wire.CodeInvalidFrame)
}

func TestLimitOfOneUID(t *testing.T) {
	s := start(t, func(_ *pool.Settings, c *proxy.Config) { c.MaxInFlightUID = 2 })
	one, two := s.connect(), s.connect()
	first, second := one.ask("hold", nil, meta{"v": 1}), two.ask("hold", nil, meta{"v": 2})
	<-s.arrived
	<-s.arrived
	for _, c := range []*client{one, two} {
		if e := c.refused("echo", nil, nil, wire.CodeQueueFull); e.Details["retry_after_ms"] == nil {
			t.Errorf("%+v", e)
		}
	}
	s.release <- struct{}{}
	s.release <- struct{}{}
	one.answer(first)
	two.answer(second)
	one.ok("echo", nil, nil)
}

func TestExportAndImport(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ok("session.create", nil, meta{"session": "a", "state": meta{"x": 1, "y": "two"}, "labels": meta{"team": "red"}, "ttl_ms": 60000, "max_age_ms": 90000})
	c.ok("put", meta{"session": "a"}, meta{"z": 3})
	got, _ := c.ok("session.export", nil, meta{"session": "a"}).(map[string]any)
	export, _ := got["export"].(map[string]any)
	c.want("session.export", nil, meta{"session": "a", "version": 12345}, wire.CodeSessionBusy)
	c.want("session.import", nil, meta{"export": export}, wire.CodeSessionExists)
	c.ok("session.import", nil, meta{"export": export, "session": "b"})
	held, _ := c.ok("get", meta{"session": "b"}, nil).(map[string]any)
	info, _ := c.ok("session.get", nil, meta{"session": "b"}).(map[string]any)
	labels, _ := info["labels"].(map[string]any)
	if len(held) != 3 || labels["team"] != "red" || number(info["ttl_ms"]) != 60000 || number(info["max_age_ms"]) != 90000 || got["next"] != nil {
		t.Errorf("%+v, %+v", held, info)
	}
	more := meta{"export": meta{"format": 1, "state": meta{"more": 1}}, "session": "b", "append": true}
	c.want("session.import", nil, more, wire.CodeInvalidParams) // it is whole
	c.ok("session.end", nil, meta{"session": "b"})
	c.ok("session.import", nil, meta{"export": export, "session": "b", "more": true})
	c.want("get", meta{"session": "b"}, nil, wire.CodeSessionBusy)
	c.ok("session.import", nil, more)
	if held, _ := c.ok("get", meta{"session": "b"}, nil).(map[string]any); len(held) != 4 {
		t.Errorf("%+v", held)
	}
	for what, bad := range map[string]meta{
		"another format": {"format": 2, "state": meta{}}, "no state": {"format": 1}, "a state that is none": {"format": 1, "state": 7},
		"a bad time": {"format": 1, "state": meta{}, "ttl_ms": 0}, "what it does not know": {"format": 1, "state": meta{}, "code": "x"},
		"an empty name": {"format": 1, "state": meta{}, "lost": []string{""}},
	} {
		if e := c.refused("session.import", nil, meta{"export": bad, "session": "c"}, wire.CodeInvalidParams); e.Message == "" {
			t.Error(what)
		}
	}
	c.want("session.import", nil, meta{"export": meta{"format": 1, "state": meta{}}, "session": "new\nline"}, wire.CodeInvalidParams)
	c.ok("session.reset", nil, meta{"session": "b"})
	if held, _ := c.ok("get", meta{"session": "b"}, nil).(map[string]any); len(held) != 0 {
		t.Errorf("after a reset: %+v", held)
	}
}

// Administrators reach the sessions of others, and see their state when they ask for that only; nobody else knows that they are there.
func TestSessionsOfOthers(t *testing.T) {
	for _, admin := range []bool{true, false} {
		s := start(t, func(_ *pool.Settings, c *proxy.Config) {
			if !admin {
				c.AdminUIDs = nil
			}
		})
		c := s.connect()
		made, _ := c.ok("session.create", nil, meta{"session": "a", "state": meta{"x": 1}, "token": true}).(map[string]any)
		c.want("session.get", nil, meta{"session": "a"}, wire.CodeSessionNotFound)
		held, _ := c.ok("session.get", meta{"session_token": made["token"]}, meta{"session": "a"}).(map[string]any)
		if held["state"] == nil {
			t.Errorf("its holder does not see it: %+v", held)
		}
		list, _ := c.call("session.list", nil, meta{"all": true}).Payload.(map[string]any)
		if !admin {
			c.want("session.get", nil, meta{"session": "a", "owner": "token:1234"}, wire.CodePermissionDenied)
			c.want("admin.session.move", nil, meta{"session": "a"}, wire.CodePermissionDenied)
			continue
		}
		sessions, _ := list["sessions"].([]any)
		first, _ := sessions[0].(map[string]any)
		of := meta{"session": "a", "owner": first["owner"]}
		seen, _ := c.ok("session.get", nil, of).(map[string]any)
		if seen["state"] != nil || number(seen["bytes"]) == 0 {
			t.Errorf("seen without --reveal: %+v", seen)
		}
		c.want("session.export", nil, of, wire.CodePermissionDenied)
		of["reveal"] = true
		c.ok("session.export", nil, of)
		seen, _ = c.ok("session.get", nil, of).(map[string]any)
		if state, _ := seen["state"].(map[string]any); number(state["x"]) != 1 {
			t.Errorf("revealed: %+v", seen)
		}
		delete(of, "reveal")
		c.ok("get", meta{"session": "a", "session_token": made["token"]}, nil)
		was, _ := c.ok("session.get", nil, of).(map[string]any)
		c.ok("admin.session.move", nil, of)
		c.ok("get", meta{"session": "a", "session_token": made["token"]}, nil)
		if is, _ := c.ok("session.get", nil, of).(map[string]any); is["worker"] == was["worker"] || is["worker"] == nil {
			t.Errorf("moved from %v to %v", was["worker"], is["worker"])
		}
		c.ok("session.end", nil, of)
	}
}

// answer is the response to a request, which has to be the next frame.
func (c *client) answer(id uint64) wiretest.Message {
	c.t.Helper()
	r := c.Receive()
	if r.Kind != wire.KindResponse || r.ID != id {
		c.t.Fatalf("in place of the response to %d: %+v", id, r)
	}
	return r
}
