package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) with(message string) (found []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

func TestCallsAreCounted(t *testing.T) {
	t.Parallel()
	m := metrics.New(wire.Codes()...)
	s := start(t, func(_ *pool.Settings, c *proxy.Config) { c.Metrics = m })
	c := s.connect()
	for range 3 {
		c.ok("echo", nil, nil)
	}
	c.ok("session.create", nil, map[string]any{"session": "s1"})
	c.want("no such method", nil, nil, wire.CodeUnknownMethod)
	c.want("fail", meta{"session": "s1"}, nil, wire.CodeProgramError)
	id := c.ask("count", meta{"stream": 10}, map[string]any{"n": 3})
	for {
		if got := c.Receive(); got.Kind == wire.KindResponse && got.ID == id {
			break
		}
	}
	var b strings.Builder
	if err := m.Write(&b, nil); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`dspex_calls_total{method="echo",code="ok"} 3`, `dspex_calls_total{method="session.create",code="ok"} 1`,
		`dspex_calls_total{method="other",code="unknown_method"} 1`, `dspex_calls_total{method="fail",code="program_error"} 1`,
		`dspex_calls_total{method="count",code="ok"} 1`, `dspex_stream_items_total 3`, `dspex_call_run_seconds_count{method="echo"} 3`,
	} {
		if !strings.Contains(b.String(), "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, b.String())
		}
	}
	if strings.Contains(b.String(), "no such") || m.Received.Get() == 0 || m.Sent.Get() == 0 {
		t.Errorf("names of clients, or no bytes: %d %d", m.Received.Get(), m.Sent.Get())
	}
}

func TestSlowAndSampledCallsAreLogged(t *testing.T) {
	t.Parallel()
	var log lines
	var all proxy.Limits
	s := start(t, func(_ *pool.Settings, c *proxy.Config) {
		c.Log, c.SlowCall = slog.New(slog.NewJSONHandler(&log, nil)), 30*time.Millisecond
		all = c.Limits
	})
	c := s.connect()
	c.ok("session.create", nil, map[string]any{"session": "s1"})
	c.ok("echo", nil, nil)
	id := c.ask("hold", meta{"session": "s1"}, nil)
	<-s.arrived
	held := time.NewTimer(40 * time.Millisecond)
	<-held.C
	s.release <- struct{}{}
	if got := c.Receive(); got.ID != id || got.Error != nil {
		t.Fatalf("%+v", got)
	}
	slow := log.with("slow call")
	if len(slow) != 1 || len(log.with("call")) != 0 {
		t.Fatalf("%v", slow)
	}
	if one := slow[0]; one["method"] != "hold" || one["code"] != "ok" || one["session_id"] != "s1" || one["worker_id"] == nil || one["request_id"] != float64(id) ||
		one["run_ms"].(float64) < 30 || one["level"] != "WARN" {
		t.Errorf("%v", one)
	}
	all.SlowCall, all.AccessSample = 0, 1
	s.server.Apply(all)
	c.want("nope\x1b", nil, nil, wire.CodeUnknownMethod)
	sampled := log.with("call")
	if len(sampled) != 1 || fmt.Sprint(sampled[0]["method"], " ", sampled[0]["code"]) != "other unknown_method" {
		t.Errorf("%v", sampled)
	}
	all.AccessSample = 0
	s.server.Apply(all)
	c.ok("echo", nil, nil)
	if n := len(log.with("call")); n != 1 {
		t.Errorf("%d lines", n)
	}
}
