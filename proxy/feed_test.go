package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// feeding is a sidecar with the streams of its own that a test has.
func feeding(t *testing.T, feeds map[string]proxy.Feed) *sidecar {
	t.Helper()
	return startWith(t, func(s *proxy.Server) {
		for name, feed := range feeds {
			s.HandleFeed(name, feed)
		}
	})
}

// numbers sends 0, 1, 2 and so on.
func numbers(_ context.Context, _ *proxy.Caller, _ []byte, send func(any) error) (any, error) {
	for i := 0; ; i++ {
		if err := send(i); err != nil {
			return nil, err
		}
	}
}

func TestFeed(t *testing.T) {
	t.Parallel()
	s := feeding(t, map[string]proxy.Feed{
		"sidecar.numbers": numbers,
		"sidecar.two": func(_ context.Context, who *proxy.Caller, _ []byte, send func(any) error) (any, error) {
			return who.Admin, errors.Join(send("a"), send("b"))
		},
	})
	c := s.connect()
	id := c.ask("sidecar.two", meta{"stream": 5}, nil)
	for _, want := range []any{"a", "b", true} {
		if m := c.Receive(); m.ID != id || m.Payload != want {
			t.Errorf("%+v, not %v", m, want)
		}
	}
	c.want("sidecar.two", nil, nil, wire.CodeInvalidParams)
	id = c.ask("sidecar.numbers", meta{"stream": 2}, nil)
	for range 2 {
		c.Receive()
	}
	c.ok("ping", nil, nil) // nothing comes without credit
	c.Send(wire.KindCredit, id, 1)
	if m := c.Receive(); m.Kind != wire.KindItem || m.Payload != int64(2) {
		t.Errorf("%+v", m)
	}
	c.Send(wire.KindCancel, id, "enough")
	if m := c.Receive(); m.Error == nil || m.Error.Code != wire.CodeCancelled {
		t.Errorf("%+v", m)
	}
}

// A client that grants credit and does not read holds nobody up, and its stream goes on when it does.
func TestFeedToASlowReader(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	s := feeding(t, map[string]proxy.Feed{"sidecar.texts": func(_ context.Context, _ *proxy.Caller, _ []byte, send func(any) error) (any, error) {
		for {
			if err := send(fmt.Sprint(sent.Load(), strings.Repeat(" ", 2000))); err != nil {
				return nil, err
			}
			sent.Add(1)
		}
	}})
	c := s.connect()
	id := c.ask("sidecar.texts", meta{"stream": 1 << 20}, nil)
	other := s.connect()
	for range 100 {
		other.ok("ping", nil, nil)
	}
	for i := range 5000 {
		if m := c.Receive(); m.ID != id || strings.TrimSpace(fmt.Sprint(m.Payload)) != strconv.Itoa(i) {
			t.Fatalf("%d: %+v", i, m)
		}
	}
	if n := sent.Load(); n > 5000+4000 { // what sockets and the sidecar hold
		t.Errorf("%d were sent to a client that had read 5000", n)
	}
	_ = c.Conn.Close()
	await(t, func() bool { return len(s.server.Clients()) == 1 })
}

func TestFeedsEndWithTheServer(t *testing.T) {
	t.Parallel()
	s := feeding(t, map[string]proxy.Feed{"sidecar.wait": func(ctx context.Context, _ *proxy.Caller, _ []byte, _ func(any) error) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	c := s.connect()
	c.ask("sidecar.wait", meta{"stream": 1}, nil)
	c.ok("ping", nil, nil)
	s.end()
	if m := c.Receive(); m.Error == nil || m.Error.Code != wire.CodeCancelled {
		t.Errorf("%+v", m)
	}
}

func TestFeedHasTheDeadlineOfItsCall(t *testing.T) {
	t.Parallel()
	s := feeding(t, map[string]proxy.Feed{"sidecar.numbers": numbers})
	c := s.connect()
	c.ask("sidecar.numbers", meta{"stream": 1, "timeout_ms": 50}, nil)
	m := c.Receive()
	if m.Kind == wire.KindItem {
		m = c.Receive()
	}
	if m.Error == nil || m.Error.Code != wire.CodeDeadlineExceeded {
		t.Errorf("%+v", m)
	}
}

// The heads of a session's frames, and nobody else's, are published as they pass.
func TestFramesArePublished(t *testing.T) {
	t.Parallel()
	hub := &events.Hub{}
	s := start(t, func(_ *pool.Settings, c *proxy.Config) { c.Events = hub })
	c := s.connect()
	for _, id := range []string{"s1", "s2"} {
		c.ok("session.create", nil, map[string]any{"session": id})
	}
	r := hub.Read(100, true, func(e *events.Event) bool { return e.Kind == "frame" && e.Topic == "s1" }, func() {})
	defer r.Close()
	for _, id := range []string{"s1", "s2"} {
		c.ok("put", meta{"session": id}, map[string]any{"a": "secret"})
	}
	c.ok("ping", nil, nil)
	var kinds string
	for len(r.Events()) > 0 {
		e := <-r.Events()
		kinds += e.Fields["kind"].(string) + " "
		if e.Fields["session"] != "s1" || e.Fields["owner"] != "uid:"+uid() {
			t.Errorf("%v", e.Fields)
		}
	}
	if kinds != "request response " {
		t.Error(kinds)
	}
}

func TestCancelByAnAdministrator(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.connect()
	id := c.ask("hold", nil, nil)
	<-s.arrived
	connection := s.server.Calls()[0].Connection
	if s.server.Cancel(connection, id+1, "") || s.server.Cancel("c99", id, "") || !s.server.Cancel(connection, id, "an administrator cancelled it") {
		t.Fatal("another was cancelled")
	}
	if m := c.Receive(); m.ID != id || m.Error == nil || m.Error.Code != wire.CodeCancelled || m.Error.Message != "an administrator cancelled it" {
		t.Errorf("%+v", m)
	}
}

// A sidecar that was told to drain lets administrators in, and takes no calls.
func TestQuiesce(t *testing.T) {
	t.Parallel()
	s := start(t)
	before := s.connect()
	s.server.Quiesce("the test says so", time.Second)
	if m := before.Receive(); m.Method != "goaway" {
		t.Errorf("%+v", m)
	}
	before.want("echo", nil, nil, wire.CodeDraining)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.pool.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	c := s.connect()
	c.ok("ping", nil, nil)
	c.want("echo", nil, nil, wire.CodeDraining)
}

func uid() string { return strconv.Itoa(os.Getuid()) }

// A stream of the sidecar's own ends for who has lost what it was permitted when it began.
func TestFeedOfWhoAdministersNoMore(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*proxy.Limits){
		"administers no more": func(l *proxy.Limits) { l.AllowUIDs, l.AdminUIDs = l.AdminUIDs, []int{1 << 20} },
		"may not call":        func(l *proxy.Limits) { l.AllowUIDs, l.AdminUIDs = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := feeding(t, map[string]proxy.Feed{"sidecar.numbers": numbers})
			c := s.connect()
			id := c.ask("sidecar.numbers", meta{"stream": 1}, nil)
			c.Receive()
			l := s.limits
			lose(&l)
			s.server.Apply(l)
			c.Send(wire.KindCredit, id, 10)
			if m := c.Receive(); m.ID != id || m.Kind != wire.KindResponse || m.Error == nil || m.Error.Code != wire.CodePermissionDenied {
				t.Errorf("%+v", m)
			}
		})
	}
}
