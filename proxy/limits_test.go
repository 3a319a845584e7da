package proxy_test

import (
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// Limits that are put in force count for calls that come after that; what a connection was told stays its own.
func TestLimitsInForce(t *testing.T) {
	s := start(t)
	old := s.connect()
	l := s.limits
	l.MaxInFlight, l.MaxFrame, l.MaxInFlightUID, l.DefaultTimeout = 1, 64<<10, 2, 10*time.Millisecond
	s.server.Apply(l)
	next := s.dial()
	hello := next.call("hello", nil, map[string]any{"protocols": []int{1}})
	told, _ := hello.Payload.(map[string]any)
	if number(told["max_in_flight"]) != 1 || number(told["max_frame"]) != 64<<10 {
		t.Errorf("told %v", told)
	}
	old.ok("echo", meta{"timeout_ms": 10_000}, map[string]any{"value": make([]byte, 128<<10)})
	next.want("echo", meta{"timeout_ms": 10_000}, map[string]any{"value": make([]byte, 128<<10)}, wire.CodeFrameTooLarge)
	old.ask("hold", meta{"timeout_ms": 60_000}, map[string]any{"value": "a"})
	old.ask("hold", meta{"timeout_ms": 60_000}, map[string]any{"value": "b"})
	<-s.arrived
	<-s.arrived
	next.want("echo", nil, nil, wire.CodeQueueFull) // by uid
	for range 2 {
		s.release <- struct{}{}
		old.Receive()
	}
	next.want("hold", nil, map[string]any{"value": "late"}, wire.CodeDeadlineExceeded) // has no deadline of its own
}

// Who may connect no more makes no more calls; those in flight finish. Who administers no more does not do so at once.
func TestWhoMayConnectNoMore(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.ask("hold", nil, map[string]any{"value": "x"})
	<-s.arrived
	l := s.limits
	l.AdminUIDs = []int{1 << 20}
	s.server.Apply(l)
	c.want("admin.session.move", nil, map[string]any{"session": "a"}, wire.CodePermissionDenied)
	c.want("session.get", nil, map[string]any{"session": "a"}, wire.CodeSessionNotFound)
	l.AllowUIDs = nil
	s.server.Apply(l)
	c.want("session.get", nil, map[string]any{"session": "a"}, wire.CodePermissionDenied)
	c.want("echo", nil, nil, wire.CodePermissionDenied)
	s.dial().want("hello", nil, map[string]any{"protocols": []int{1}}, wire.CodePermissionDenied)
	s.release <- struct{}{}
	if m := c.Receive(); m.Error != nil {
		t.Errorf("the call in flight: %v", m.Error)
	}
	s.server.Apply(s.limits)
	c.ok("echo", nil, nil)
}
