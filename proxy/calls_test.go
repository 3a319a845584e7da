package proxy_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

func TestCalls(t *testing.T) {
	s := start(t)
	c := s.connect()
	if got := c.ok("echo", nil, meta{"value": "x"}); got != "x" {
		t.Errorf("echo: %v", got)
	}
	c.ok("ping", nil, nil)
	c.want("nothing", nil, nil, wire.CodeUnknownMethod)
	c.want("hello", nil, nil, wire.CodeInvalidFrame)
	c.want("echo", meta{"timeout_ms": 0}, nil, wire.CodeDeadlineExceeded)
	c.want("echo", meta{"timeout_ms": "soon"}, nil, wire.CodeInvalidFrame)
	c.want("echo", meta{"session": "nowhere"}, nil, wire.CodeSessionNotFound)
	c.want("echo", meta{"pool": "other"}, nil, wire.CodeInvalidParams)
	c.want("echo", meta{"stream": 1}, nil, wire.CodeInvalidParams)
	c.want("count", nil, meta{"n": 1}, wire.CodeInvalidParams)
	c.want("ping", meta{"stream": 1}, nil, wire.CodeInvalidParams)
	c.want("admin.reload", nil, nil, wire.CodeUnknownMethod)
	// The head that a worker gets has to fit, too.
	c.want("echo", meta{"app": meta{"x": strings.Repeat("x", 65_000)}}, nil, wire.CodeInvalidFrame)
	c.ok("echo", meta{"app": meta{"x": strings.Repeat("x", 63_000)}}, nil)
	if e := c.refused("lament", nil, nil, wire.CodeProgramError); len(e.Message) > 8<<10 || e.Details["type"] != "Error" {
		t.Errorf("a long error came with %d bytes and %v", len(e.Message), e.Details)
	}
}

func TestReservedNamesWakeNoWorker(t *testing.T) {
	s := start(t, func(p *pool.Settings, _ *proxy.Config) { p.Lazy = true })
	c := s.connect()
	for _, name := range []string{"session.restore", "session.drop", "sidecar.x", "admin."} {
		c.want(name, nil, nil, wire.CodeUnknownMethod)
	}
	if n := len(s.starter.Workers()); n != 0 {
		t.Errorf("%d workers were started", n)
	}
}

func TestAnswersComeInAnyOrder(t *testing.T) {
	s := start(t)
	c := s.connect()
	held := c.ask("hold", nil, nil)
	<-s.arrived
	c.ok("echo", nil, meta{"value": 1})
	s.release <- struct{}{}
	if r := c.Receive(); r.ID != held || r.Error != nil {
		t.Errorf("got %+v", r)
	}
}

func TestIDInFlight(t *testing.T) {
	s := start(t)
	c := s.connect()
	id := c.ask("hold", nil, nil)
	<-s.arrived
	c.Send(wire.KindRequest, id, "echo", nil, nil)
	r := c.Receive()
	if params, _ := r.Payload.(map[string]any); r.Method != "protocol_error" || number(params["id"]) != id {
		t.Fatalf("got %+v", r)
	}
	s.release <- struct{}{}
	if r := c.Receive(); r.ID != id || r.Error != nil {
		t.Errorf("the first call: %+v", r)
	}
}

func TestCancelAndDeadline(t *testing.T) {
	s := start(t)
	c := s.connect()
	id := c.ask("hold", nil, nil)
	<-s.arrived
	c.Send(wire.KindCancel, id, "enough")
	r := c.Receive()
	if r.Error == nil || r.Error.Code != wire.CodeCancelled || r.Error.Details["ended_by"] != "task" {
		t.Errorf("cancelled: %+v", r.Error)
	}
	e := c.refused("hold", meta{"timeout_ms": 20}, nil, wire.CodeDeadlineExceeded)
	if e.Details["ended_by"] != "task" {
		t.Errorf("deadline: %+v", e)
	}
	c.Send(wire.KindCancel, 4711, "unknown")
	c.Send(wire.KindCredit, 4711, 1)
	c.Send(99, "of another time")
	c.ok("ping", nil, nil)
}

// An id is free when its response has come, whatever its worker still does; what that answers reaches no other call.
func TestIDUsedAgainWhileItsCallStops(t *testing.T) {
	s := start(t)
	c := s.connect()
	c.last = 6
	e := c.refused("stubborn", meta{"timeout_ms": 1}, nil, wire.CodeDeadlineExceeded)
	if e.Details["ended_by"] != "pending" {
		t.Errorf("deadline: %+v", e)
	}
	c.last = 6
	id := c.ask("hold", nil, nil) // the same one
	<-s.arrived
	<-s.arrived
	s.release <- struct{}{}
	s.release <- struct{}{}
	if r := c.Receive(); r.ID != id || r.Error != nil || r.Payload == "late" {
		t.Errorf("got %+v", r)
	}
	c.ok("ping", nil, nil)
}

func TestLeavingCancels(t *testing.T) {
	for _, halfway := range []bool{false, true} {
		s := start(t)
		c := s.connect()
		c.ask("hold", nil, nil)
		<-s.arrived
		var err error
		if halfway {
			err = c.Conn.CloseWrite()
		} else {
			err = c.Conn.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		other := s.connect()
		await(t, func() bool { return s.noted("cancel") == 1 && s.pool.Snapshot().InFlight == 0 })
		other.ok("ping", nil, nil)
	}
}

// await polls a condition that nothing announces.
func await(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it never came")
		}
	}
}

func TestQueue(t *testing.T) {
	s := start(t, func(p *pool.Settings, _ *proxy.Config) { p.Size, p.Concurrency, p.QueueLimit = 1, 1, 2 })
	greedy, modest := s.connect(), s.connect()
	first := greedy.ask("hold", nil, meta{"value": "first"})
	<-s.arrived
	greedy.ask("echo", nil, meta{"value": 1})
	greedy.ask("echo", nil, meta{"value": 2})
	e := greedy.refused("echo", nil, meta{"value": 3}, wire.CodeQueueFull)
	if !e.Retryable || number(e.Details["retry_after_ms"]) == 0 {
		t.Errorf("queue_full: %+v", e)
	}
	// The queue is full of the greedy connection's calls: the modest one's takes the place of its last.
	waits := modest.ask("echo", nil, meta{"value": "modest"})
	shed := greedy.Receive()
	if shed.ID != 4 || shed.Error == nil || shed.Error.Code != wire.CodeQueueFull {
		t.Errorf("shed: %+v", shed)
	}
	s.release <- struct{}{}
	if r := modest.Receive(); r.ID != waits || r.Payload != "modest" {
		t.Errorf("modest: %+v", r)
	}
	if r := greedy.Receive(); r.ID != first {
		t.Errorf("greedy: %+v", r)
	}
}

func TestBytesInFlight(t *testing.T) {
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.MaxInFlightBytes = 1 << 20 })
	c, other := s.connect(), s.connect()
	large := meta{"value": "x", "more": make([]byte, 600<<10)}
	id := c.ask("stubborn", nil, large)
	<-s.arrived
	e := c.refused("echo", nil, large, wire.CodeQueueFull)
	if !e.Retryable || number(e.Details["limit"]) != 1<<20 || number(e.Details["retry_after_ms"]) == 0 {
		t.Errorf("queue_full: %+v", e)
	}
	c.ok("echo", nil, meta{"value": 1})
	other.ok("echo", nil, large)
	// Its client has been told; the worker still holds it.
	c.Send(wire.KindCancel, id, "enough")
	if r := c.Receive(); r.Error == nil || r.Error.Code != wire.CodeCancelled {
		t.Fatalf("got %+v", r)
	}
	c.want("echo", nil, large, wire.CodeQueueFull)
	s.release <- struct{}{}
	await(t, func() bool { return s.pool.Snapshot().InFlight == 0 })
	c.ok("echo", nil, large)
	for range 3 { // refused, answered by the sidecar, and failed: all give it back
		c.want("nothing", nil, large, wire.CodeUnknownMethod)
		c.want("ping.pong", meta{"pool": "other"}, large, wire.CodeInvalidParams)
		c.want("echo", meta{"session": "nowhere"}, large, wire.CodeSessionNotFound)
		c.want("echo", meta{"timeout_ms": 0}, large, wire.CodeDeadlineExceeded)
		c.want("ping", nil, large, wire.CodeInvalidParams)
	}
}

// Calls that are opened and cancelled without end cost their client its queue, and the sidecar no memory.
func TestFloodOfCancels(t *testing.T) {
	s := start(t, func(p *pool.Settings, _ *proxy.Config) { p.Size, p.Concurrency, p.QueueLimit = 1, 2, 8 })
	c := s.connect()
	flood := func(n int) {
		settled := make(chan struct{})
		first := c.last
		go func() {
			defer close(settled)
			for range n {
				if r := c.Receive(); r.Error == nil {
					t.Errorf("got %+v", r)
				}
			}
		}()
		for i := range uint64(n) {
			c.Send(wire.KindRequest, first+1+i, "stubborn", nil, nil)
			c.Send(wire.KindCancel, first+1+i, "enough")
			c.Send(wire.KindCancel, first+1+i, "twice")
		}
		<-settled
		c.last = first + uint64(n)
	}
	flood(200)
	before := heapInUse()
	flood(3000)
	if grown := int64(heapInUse()) - int64(before); grown > 2<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	if snapshot := s.pool.Snapshot(); snapshot.InFlight > 2 || snapshot.Waiting > 8 {
		t.Errorf("%d calls in flight, %d wait", snapshot.InFlight, snapshot.Waiting)
	}
	if n := s.server.Clients()[0].InFlight; n != 0 {
		t.Errorf("%d calls of the client are not settled", n)
	}
	await(t, func() bool { // those that run, and those that came after them
		select {
		case <-s.arrived:
			s.release <- struct{}{}
		default:
		}
		return s.pool.Snapshot().InFlight == 0
	})
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestCheckoutTimeout(t *testing.T) {
	s := start(t, func(p *pool.Settings, _ *proxy.Config) {
		p.Size, p.Concurrency, p.CheckoutTimeout = 1, 1, 20*time.Millisecond
	})
	c, other := s.connect(), s.connect()
	c.ask("hold", nil, nil)
	<-s.arrived
	other.want("echo", nil, nil, wire.CodeCheckoutTimeout)
	s.release <- struct{}{}
	c.Receive()
	other.ok("echo", nil, nil)
}

func TestOverflow(t *testing.T) {
	s := start(t, func(p *pool.Settings, _ *proxy.Config) {
		p.Size, p.Concurrency, p.MaxOverflow, p.OverflowIdle = 1, 1, 1, 10*time.Millisecond
	})
	c := s.connect()
	c.ask("hold", nil, nil)
	<-s.arrived
	c.ok("echo", nil, nil) // by an overflow worker
	s.release <- struct{}{}
	c.Receive()
	await(t, func() bool { return len(s.pool.Snapshot().Workers) == 1 })
}

func TestWorkerDies(t *testing.T) {
	s := start(t)
	c := s.connect()
	lost := c.ask("hold", nil, nil)
	name := strings.Fields(<-s.arrived)[0]
	s.starter.Named(name).Die()
	r := c.Receive()
	if r.ID != lost || r.Error == nil || r.Error.Code != wire.CodeWorkerLost || r.Error.Details["worker"] != name {
		t.Errorf("got %+v", r)
	}
	// A call that is safe to run again does so, once.
	again := c.ask("safe", nil, nil)
	s.starter.Named(strings.Fields(<-s.arrived)[0]).Die()
	<-s.arrived
	s.release <- struct{}{}
	if r := c.Receive(); r.ID != again || r.Error != nil {
		t.Errorf("safe: %+v", r)
	}
	twice := c.ask("safe", nil, nil)
	s.starter.Named(strings.Fields(<-s.arrived)[0]).Die()
	s.starter.Named(strings.Fields(<-s.arrived)[0]).Die()
	if r := c.Receive(); r.ID != twice || r.Error == nil || r.Error.Code != wire.CodeWorkerLost {
		t.Errorf("twice: %+v", r)
	}
	await(t, func() bool { snapshot := s.pool.Snapshot(); return snapshot.Ready() == 2 })
}

func TestStreams(t *testing.T) {
	s := start(t)
	c := s.connect()
	id := c.ask("count", meta{"stream": 1000}, meta{"n": 300})
	for i := range 300 {
		if m := c.Receive(); m.Kind != wire.KindItem || m.ID != id || number(m.Payload) != uint64(i) {
			t.Fatalf("item %d: %+v", i, m)
		}
	}
	if r := c.Receive(); r.Kind != wire.KindResponse || r.Payload != "done" {
		t.Errorf("got %+v", r)
	}
}

func TestWorkerAsksClient(t *testing.T) {
	s := start(t)
	c := s.connect()
	id := c.ask("ask", nil, meta{"a": 1})
	m := c.Receive()
	if m.Kind != wire.KindRequest || m.Method != "client.add" || number(m.Meta["call"]) != id {
		t.Fatalf("got %+v", m)
	}
	c.Send(wire.KindCancel, id, "enough")
	if cancel := c.Receive(); cancel.Kind != wire.KindCancel || cancel.ID != m.ID {
		t.Errorf("the ask was not cancelled: %+v", cancel)
	}
	if r := c.Receive(); r.ID != id || r.Error == nil || r.Error.Code != wire.CodeCancelled {
		t.Errorf("the call: %+v", r)
	}
	c.Send(wire.KindResponse, m.ID, nil, nil, 3) // late
	c.ok("ping", nil, nil)
	await(t, func() bool { return s.noted("refused cancelled") == 1 }) // the worker waits for no answer any more
}

func TestWorkerAsksTooMuch(t *testing.T) {
	s := start(t)
	c := s.dial()
	c.ok("hello", nil, meta{"protocols": []int{1}, "max_frame": 65536})
	c.ask("ask", nil, meta{"a": make([]byte, 70_000)})
	await(t, func() bool { return s.noted("refused frame_too_large") == 1 })
	c.ok("ping", nil, nil)
}
