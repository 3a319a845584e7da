package app

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// item is the next item of a stream of events that is one of these.
func item(t *testing.T, reader *wiretest.Peer, event string) params {
	t.Helper()
	for {
		m := reader.Receive()
		one, ok := m.Payload.(params)
		if !ok || m.Kind != wire.KindItem {
			t.Fatalf("%+v", m)
		}
		if one["event"] == event {
			return one
		}
	}
}

// Who is no administrator does not see what the configuration has, nor what others of the same uid do in sessions of theirs.
func TestWhatOthersDoNotSee(t *testing.T) {
	p := newPlace(t, self(t), "")
	p.rewrite(t, "")
	t.Setenv("DSPEX_LISTEN_ADMIN_UIDS", fmt.Sprintf("[%d]", unix.Getuid()+1))
	t.Setenv("DSPEX_LISTEN_ALLOW_UIDS", fmt.Sprintf("[%d]", unix.Getuid()))
	p.serve(t)
	c, reader, holder := p.connect(t), p.connect(t), p.connect(t)
	await(t, "healthy", func() bool { return get(t, c, "sidecar.health", nil)["status"] == "healthy" })
	reader.Send(wire.KindRequest, 2, "sidecar.events", params{"stream": 1000}, params{"kinds": []string{"session", "reload", "health", "pool"}})
	item(t, reader, "pool") // it reads

	token := get(t, holder, "session.create", params{"session": "theirs", "token": true})["token"]
	holder.Send(wire.KindRequest, 5, "hang", params{"session": "theirs", "session_token": token}, nil)
	calls := func(c *wiretest.Peer, meta params) string {
		c.Send(wire.KindRequest, 1, "sidecar.calls", meta, nil)
		return fmt.Sprint(c.Receive().Payload)
	}
	await(t, "its holder sees it", func() bool { return strings.Contains(calls(holder, params{"session_token": token}), "theirs") })
	if seen := calls(c, nil); seen != "map[calls:[]]" {
		t.Errorf("of others: %s", seen)
	}
	call(t, c, "session.create", params{"session": "mine"})
	if e := item(t, reader, "session"); e["session"] != "mine" {
		t.Errorf("%v", e)
	}

	p.rewrite(t, "[pools.nonsense]\n")
	e := item(t, reader, "reload")
	if _, told := e["changed"]; told || e["reason"] != nil || e["result"] != "refused" {
		t.Errorf("%v", e)
	}
	e = item(t, reader, "health")
	if text := fmt.Sprint(e, get(t, c, "sidecar.health", nil)); !strings.Contains(text, "last good one") || strings.Contains(text, "nonsense") || strings.Contains(text, p.dir) {
		t.Errorf("%s", text)
	}
}

// One uid reads so many streams of events at a time, and not more by further connections.
func TestReadersAreBounded(t *testing.T) {
	p := newPlace(t, self(t), "")
	p.serve(t)
	c, other := p.connect(t), p.connect(t)
	read := func(c *wiretest.Peer, id uint64) wiretest.Message {
		c.Send(wire.KindRequest, id, "sidecar.events", params{"stream": 1}, params{"kinds": []string{"pool"}})
		return c.Receive()
	}
	const most = 32
	for id := range uint64(most) {
		if m := read(c, id+10); m.Kind != wire.KindItem {
			t.Fatalf("%d: %+v", id, m)
		}
	}
	if m := read(other, 2); m.Error == nil || m.Error.Code != wire.CodeQueueFull {
		t.Errorf("one more: %+v", m)
	}
	c.Send(wire.KindCancel, 10, nil)
	for m := c.Receive(); m.Kind != wire.KindResponse; {
		m = c.Receive()
	}
	if m := read(other, 3); m.Kind != wire.KindItem {
		t.Errorf("after one has ended: %+v", m)
	}
}
