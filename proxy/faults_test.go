package proxy_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// raw sends bytes that need be no frame.
func (c *client) raw(b []byte) {
	c.t.Helper()
	if _, err := c.Conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) wantProtocolError() {
	c.t.Helper()
	if m := c.Receive(); m.Method != "protocol_error" {
		c.t.Fatalf("got %+v", m)
	}
}

func TestHandshake(t *testing.T) {
	s := start(t)
	c := s.dial()
	c.want("ping", nil, nil, wire.CodeHandshakeRequired)
	c.ReceiveEnd()
	c = s.dial()
	c.want("hello", nil, meta{"protocols": []int{2}}, wire.CodeUnsupportedProtocol)
	c.ReceiveEnd()
	c = s.dial()
	c.Send(wire.KindNotification, "hello", nil, nil)
	c.wantProtocolError()
	c.ReceiveEnd()
}

func TestHandshakeTimeLimit(t *testing.T) {
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.HandshakeTimeout = 10 * time.Millisecond })
	c := s.dial()
	c.wantProtocolError()
	c.ReceiveEnd()
}

func TestHandshakeTimeLimitWithinAFrame(t *testing.T) {
	s := start(t, func(_ *pool.Settings, p *proxy.Config) {
		p.HandshakeTimeout, p.FrameTimeout = 20*time.Millisecond, time.Hour
	})
	c := s.dial()
	c.raw([]byte{0, 0, 1, 0, 0x95})
	c.wantProtocolError()
	c.ReceiveEnd()
}

func TestHalfAFrame(t *testing.T) {
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.FrameTimeout = 20 * time.Millisecond })
	c := s.connect()
	c.raw([]byte{0, 0, 1, 0, 0x95})
	c.wantProtocolError()
	c.ReceiveEnd()
}

func TestBombs(t *testing.T) {
	s := start(t)
	for name, body := range map[string][]byte{
		"nesting": bytes.Repeat([]byte{0x91}, 1<<19), "array32": {0xdd, 0xff, 0xff, 0xff, 0xff}, "bin32": {0xc6, 0xff, 0xff, 0xff, 0xff},
		"chain": bytes.Repeat([]byte{0xdc, 0xff, 0xff}, 1000), "0xc1": {0x91, 0xc1}, "left over": {0x90, 0x00}, "no array": {0x01},
	} {
		c := s.connect()
		n := len(body)
		c.raw(append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...))
		if m := c.Receive(); m.Method != "protocol_error" {
			t.Fatalf("%s: got %+v", name, m)
		}
		c.ReceiveEnd()
	}
	c := s.connect()
	c.raw([]byte{0, 0, 0, 0})
	c.wantProtocolError()
	c.ReceiveEnd()
}

func TestBadHeadsDoNotEndTheConnection(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.Send(wire.KindRequest, 0, "echo", nil, nil)
	c.wantProtocolError()
	c.Send(wire.KindRequest, 9, "echo", nil)
	c.wantProtocolError()
	c.Send(wire.KindRequest, 9, "echo", "no map", nil)
	c.wantProtocolError()
	c.ok("ping", nil, nil)
}

func TestTooLarge(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.want("echo", nil, meta{"value": make([]byte, 2<<20)}, wire.CodeFrameTooLarge)
	c.ok("echo", nil, meta{"value": make([]byte, 900<<10)})
	small := s.dial()
	small.ok("hello", nil, meta{"protocols": []int{1}, "max_frame": 65536})
	small.want("echo", nil, meta{"value": make([]byte, 70000)}, wire.CodeFrameTooLarge)
	small.ok("ping", nil, nil)
}

func TestSlowReader(t *testing.T) {
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.WriteTimeout, p.WriteBuffer = 50*time.Millisecond, 4<<20 })
	slow, other := s.connect(), s.connect()
	value := make([]byte, 900<<10)
	var err error
	for i := uint64(100); i < 150 && err == nil; i++ { // it reads nothing
		_, err = slow.Conn.Write(wiretest.Frame(t, wire.KindRequest, i, "echo", nil, meta{"value": value}))
	}
	other.ok("ping", nil, nil)
	await(t, func() bool { return len(s.server.Clients()) == 1 })
	other.ok("echo", nil, nil)
}

func TestTooManyConnections(t *testing.T) {
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.MaxConnections, p.AdminUIDs = 1, nil })
	c := s.connect()
	s.dial().want("hello", nil, meta{"protocols": []int{1}}, wire.CodeQueueFull)
	c.ok("ping", nil, nil)
}

func TestUIDs(t *testing.T) {
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.AllowUIDs, p.AdminUIDs = nil, nil })
	s.dial().want("hello", nil, meta{"protocols": []int{1}}, wire.CodePermissionDenied)
}

func TestGoaway(t *testing.T) {
	s := start(t)
	c := s.connect()
	id := c.ask("hold", nil, nil)
	<-s.arrived
	s.server.Drain("the test ends", time.Second)
	if m := c.Receive(); m.Method != "goaway" {
		t.Fatalf("got %+v", m)
	}
	drained := make(chan error, 1)
	go func() { drained <- s.pool.Drain(t.Context()) }()
	await(t, func() bool { return s.pool.Draining() })
	c.want("echo", nil, nil, wire.CodeDraining)
	s.release <- struct{}{}
	if r := c.Receive(); r.ID != id || r.Error != nil {
		t.Errorf("the call in flight: %+v", r)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestDrainBeforeTheHandshake(t *testing.T) {
	s := start(t)
	c := s.dial()
	await(t, func() bool { return len(s.server.Clients()) == 1 })
	s.server.Drain("the test ends", time.Second)
	c.want("hello", nil, meta{"protocols": []int{1}}, wire.CodeDraining) // and no goaway before it
	c.ReceiveEnd()
}

func TestCloseWaitsForNoHandshake(t *testing.T) {
	s := start(t, func(_ *pool.Settings, p *proxy.Config) {
		p.HandshakeTimeout = time.Hour
		p.MaxConnections, p.AdminUIDs = 1, nil
	})
	admitted := s.dial()
	await(t, func() bool { return len(s.server.Clients()) == 1 })
	refused := s.dial()
	s.server.Drain("the test ends", time.Second)
	began := time.Now()
	s.server.Close(t.Context()) // without a limit of its own
	s.once.Do(func() {})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	admitted.ReceiveEnd()
	refused.ReceiveEnd()
}

func TestCloseAnswersWhatIsInFlight(t *testing.T) {
	s := start(t)
	c, idle := s.connect(), s.connect()
	for _, method := range []string{"hold", "stubborn"} {
		c.ask(method, nil, nil)
		<-s.arrived
	}
	s.once.Do(func() { s.server.Close(t.Context()) })
	idle.ReceiveEnd()
	for range 2 {
		if r := c.Receive(); r.Error == nil || r.Error.Code != wire.CodeCancelled {
			t.Errorf("got %+v", r)
		}
	}
	c.ReceiveEnd()
}
