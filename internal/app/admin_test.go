package app

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/wire"
)

// What administrators ask does what it says, in a sidecar with real workers.
func TestAdministration(t *testing.T) {
	p := newPlace(t, self(t), "cancel_grace = '100ms'")
	s := p.serve(t)
	c, other := p.connect(t), p.connect(t)
	is := func(got any, key string, want any) {
		t.Helper()
		if m, ok := got.(map[string]any); !ok || fmt.Sprint(m[key]) != fmt.Sprint(want) {
			t.Errorf("%s is not %v: %v", key, want, got)
		}
	}
	await(t, "healthy", func() bool { return call(t, c, "sidecar.health", nil).(map[string]any)["status"] == "healthy" })
	forced := call(t, c, "sidecar.health", map[string]any{"force": true}).(map[string]any)
	is(forced, "ready", true)
	for _, w := range forced["workers"].([]any) {
		if w.(map[string]any)["answered_us"] == nil {
			t.Errorf("%v", w)
		}
	}

	is(call(t, c, "admin.pause", nil), "changed", true)
	other.Send(wire.KindRequest, 5, "echo", nil, map[string]any{"x": 1})
	await(t, "a call waits", func() bool { return call(t, c, "sidecar.stats", nil).(map[string]any)["queued"] == int64(1) })
	is(call(t, c, "sidecar.health", nil), "ready", false)
	is(call(t, c, "admin.resume", nil), "changed", true)
	if m := other.Receive(); m.ID != 5 || m.Error != nil {
		t.Errorf("%+v", m)
	}

	is(call(t, c, "admin.pool.resize", map[string]any{"size": 3}), "size", 3)
	await(t, "three workers", func() bool { return call(t, c, "sidecar.stats", nil).(map[string]any)["healthy_workers"] == int64(3) })
	call(t, c, "admin.worker.kill", map[string]any{"worker": "worker_3"})
	call(t, c, "admin.worker.recycle", map[string]any{"worker": "worker_1"})
	await(t, "others in their places", func() bool {
		text := fmt.Sprint(call(t, c, "sidecar.health", nil))
		return strings.Contains(text, "worker_4") && strings.Contains(text, "worker_5") && !strings.Contains(text, "worker:worker_1]") && !strings.Contains(text, "worker:worker_3]")
	})
	is(call(t, c, "admin.log_level", map[string]any{"level": "debug"}), "was", "info")
	is(call(t, c, "admin.log_level", nil), "level", "debug")

	other.Send(wire.KindRequest, 6, "hang", nil, nil)
	var connection any
	await(t, "a call runs", func() bool {
		calls := call(t, c, "sidecar.calls", nil).(map[string]any)["calls"].([]any)
		if len(calls) == 0 {
			return false
		}
		connection = calls[0].(map[string]any)["connection"]
		return true
	})
	call(t, c, "admin.call.cancel", map[string]any{"connection": connection, "id": 6})
	if m := other.Receive(); m.ID != 6 || m.Error == nil || m.Error.Code != wire.CodeCancelled {
		t.Errorf("%+v", m)
	}

	for method, params := range map[string]any{
		"admin.worker.kill": map[string]any{"worker": "worker_99"}, "admin.worker.recycle": nil, "admin.stacks": map[string]any{"worker": "x"},
		"admin.call.cancel": map[string]any{"connection": "c1", "id": 99}, "admin.pool.resize": map[string]any{"size": 0},
		"admin.log_level": map[string]any{"level": "loud"}, "admin.drain": map[string]any{"timeout_ms": -1}, "admin.pause": map[string]any{"x": 1},
		"sidecar.events": nil, "admin.trace": nil,
	} {
		c.Send(wire.KindRequest, 9, method, nil, params)
		if m := c.Receive(); m.Error == nil || m.Error.Code != wire.CodeInvalidParams {
			t.Errorf("%s: %+v", method, m)
		}
	}

	c.Send(wire.KindRequest, 10, "admin.drain", nil, nil)
	if m := c.Receive(); m.Method != "goaway" {
		t.Errorf("%+v", m)
	}
	is(c.Receive().Payload, "drained", true)
	again := p.connect(t)
	again.Send(wire.KindRequest, 11, "admin.resume", nil, nil)
	if m := again.Receive(); m.Error == nil || m.Error.Code != wire.CodeDraining {
		t.Errorf("%+v", m)
	}
	is(call(t, again, "admin.shutdown", map[string]any{"timeout_ms": 2000}), "drain_ms", 2000)
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Administrators alone may do what changes something for others.
func TestAdministrationIsForAdministrators(t *testing.T) {
	p := newPlace(t, self(t), "")
	t.Setenv("DSPEX_LISTEN_ADMIN_UIDS", fmt.Sprintf("[%d]", unix.Getuid()+1))
	t.Setenv("DSPEX_LISTEN_ALLOW_UIDS", fmt.Sprintf("[%d]", unix.Getuid()))
	p.serve(t)
	c := p.connect(t)
	for _, method := range []string{
		"admin.pause", "admin.resume", "admin.drain", "admin.shutdown", "admin.worker.recycle", "admin.worker.kill", "admin.call.cancel", "admin.pool.resize",
		"admin.log_level", "admin.stacks", "admin.config", "admin.config.compare", "admin.reload", "admin.session.move",
	} {
		c.Send(wire.KindRequest, 9, method, nil, nil)
		if m := c.Receive(); m.Error == nil || m.Error.Code != wire.CodePermissionDenied {
			t.Errorf("%s: %+v", method, m)
		}
	}
	c.Send(wire.KindRequest, 9, "admin.trace", map[string]any{"stream": 1}, map[string]any{"session": "s"})
	if m := c.Receive(); m.Error == nil || m.Error.Code != wire.CodePermissionDenied {
		t.Errorf("%+v", m)
	}
}

func TestEvents(t *testing.T) {
	p := newPlace(t, self(t), "")
	p.serve(t)
	c, reader := p.connect(t), p.connect(t)
	await(t, "healthy", func() bool { return call(t, c, "sidecar.health", nil).(map[string]any)["status"] == "healthy" })
	reader.Send(wire.KindRequest, 2, "sidecar.events", map[string]any{"stream": 1000}, map[string]any{"interval_ms": 100})
	next := func(event, key string, want any) map[string]any {
		t.Helper()
		for {
			m := reader.Receive()
			item, ok := m.Payload.(map[string]any)
			if !ok || m.Kind != wire.KindItem {
				t.Fatalf("%+v", m)
			}
			if item["event"] == event && (key == "" || item[key] == want) {
				return item
			}
		}
	}
	first := next("pool", "", nil)
	if first["pool_size"] != int64(2) || first["healthy_workers"] != int64(2) || first["generation"] != int64(1) || first["at"].(time.Time).IsZero() {
		t.Errorf("%v", first)
	}
	call(t, c, "session.create", map[string]any{"session": "s1"})
	next("session", "what", "created")
	call(t, c, "admin.worker.kill", map[string]any{"worker": "worker_1"})
	seen := map[string]any{}
	for seen["worker_1 ended"] == nil || seen["worker_3 ready"] == nil { // in whatever order
		e := next("worker", "", nil)
		seen[fmt.Sprint(e["worker"], " ", e["state"])] = e["reason"]
		if e["reason"] == nil {
			seen[fmt.Sprint(e["worker"], " ", e["state"])] = "-"
		}
	}
	if seen["worker_1 draining"] == nil || seen["worker_3 starting"] == nil || seen["worker_1 ended"] != "an administrator killed it" {
		t.Errorf("%v", seen)
	}
	call(t, c, "session.end", map[string]any{"session": "s1"})
	next("session", "what", "ended")
	call(t, c, "admin.reload", map[string]any{"wait": true})
	next("reload", "result", "unchanged")
	next("pool", "", nil)
	reader.Send(wire.KindCancel, 2, nil)
	for m := reader.Receive(); m.Kind != wire.KindResponse; {
		m = reader.Receive()
	}
}

// The service manager hears that the sidecar is ready, lives, reloads and stops.
func TestServiceManagerIsTold(t *testing.T) {
	p := newPlace(t, self(t), "")
	address := filepath.Join(p.dir, "n")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	t.Setenv("NOTIFY_SOCKET", address)
	t.Setenv("WATCHDOG_USEC", "600000")
	s := p.serve(t)
	heard := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("%s: %v", want, err)
			}
			if strings.Contains("\n"+string(buf[:n])+"\n", "\n"+want+"\n") {
				return
			}
		}
	}
	heard("READY=1")
	heard("WATCHDOG=1")
	heard("WATCHDOG=1")
	if err := s.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	heard("RELOADING=1")
	heard("READY=1")
	s.signal(s.Process.Pid)
	heard("STOPPING=1")
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
