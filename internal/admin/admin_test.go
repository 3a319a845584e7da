package admin

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it never came: %s", what)
		}
	}
}

// rig is an Admin over a pool of one worker, which answers nothing but hello.
type rig struct {
	*Admin

	reload string // why the last one failed
	models []string
	blocks atomic.Pointer[chan struct{}] // what a look at the models waits for; nil: nothing
	looks  atomic.Int32
}

func start(t *testing.T, change func(*pool.Settings)) *rig {
	t.Helper()
	starter := &pooltest.Starter{TB: t, Methods: []pooltest.Method{pooltest.Plain("hold")}, Handle: func(*pooltest.Worker, wiretest.Message) {}}
	long := time.Hour
	settings := pool.Settings{Size: 1, Concurrency: 1, QueueLimit: 1, CheckoutTimeout: long, HealthInterval: long, HealthTimeout: long, StartTimeout: long}
	if change != nil {
		change(&settings)
	}
	workers, err := pool.New(pool.Config{
		Name: "default", Settings: settings, Starter: starter, Hello: func(string) ([]byte, error) { return wire.Marshal(map[string]any{}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := session.New(session.Config{Pool: workers, Store: store.Memory{}, Metrics: metrics.New()})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{}
	r.Admin = New(Config{
		Pool: workers, Sessions: sessions, Server: proxy.New(proxy.Config{Pool: workers, Sessions: sessions}), Metrics: metrics.New(), Events: &events.Hub{},
		Log: slog.New(slog.DiscardHandler), Look: 20 * time.Millisecond, Looked: func(string, bool) { r.looks.Add(1) },
		Reloads: func() (uint64, uint64, string) { return 0, 0, r.reload },
		Models: func() []string {
			if wait := r.blocks.Load(); wait != nil {
				<-*wait
			}
			return r.models
		},
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		cancel()
		r.Close()
		if err := sessions.Close(); err != nil {
			t.Error(err)
		}
		workers.Close(ctx)
		starter.Close()
	})
	return r
}

// status is how it is, and why.
func (r *rig) status(admin bool) (status, reasons string) {
	s := r.cfg.Pool.Snapshot()
	status, list := r.judge(&s, admin)
	return status, strings.Join(list, "; ")
}

type handler struct{ pool.Handler }

func (handler) Dispatch(*pool.Target, *wire.RequestMeta) *wire.Error { return nil }
func (handler) Settle(*wire.Batch, *pool.Result)                     {}
func (handler) Finish(*wire.Batch, []byte)                           {}

// call makes a call that no worker answers.
func (r *rig) call() {
	var batch wire.Batch
	r.cfg.Pool.NewFlow("uid:1", false).Submit(&batch, &pool.Call{Method: []byte("hold"), Params: []byte{0x80}, Owned: true, Handler: handler{}})
	batch.Flush()
}

func TestJudge(t *testing.T) {
	r := start(t, nil)
	await(t, "healthy", func() bool { status, _ := r.status(true); return status == healthy })
	for range 2 {
		r.call()
	}
	if status, why := r.status(false); status != degraded || why != "the queue is full: 1 call waits" {
		t.Errorf("%s: %s", status, why)
	}
	r.cfg.Pool.Pause()
	if status, why := r.status(false); status != degraded || !strings.Contains(why, "paused: 1 call waits") {
		t.Errorf("%s: %s", status, why)
	}
	if ready, said := r.Ready(); ready {
		t.Error(said)
	}
}

// What the configuration has is for administrators.
func TestJudgeFor(t *testing.T) {
	r := start(t, func(s *pool.Settings) { s.Lazy = true })
	if status, why := r.status(true); status != healthy || why != "" {
		t.Errorf("%s: %s", status, why)
	}
	r.Close() // nobody else looks
	r.reload, r.models = "env:SECRET_NAME is not set", []string{"model small: /opt/serve: no such file"}
	status, why := r.status(true)
	if status != degraded || !strings.Contains(why, "SECRET_NAME") || !strings.Contains(why, "/opt/serve") {
		t.Errorf("%s: %s", status, why)
	}
	status, why = r.status(false)
	if status != degraded || strings.Contains(why, "SECRET_NAME") || strings.Contains(why, "/opt") || !strings.Contains(why, "model small is not as it should be") {
		t.Errorf("%s: %s", status, why)
	}
}

// A sidecar that is stuck does not count as alive, and tells no watchdog that it is.
func TestStuck(t *testing.T) {
	r := start(t, nil)
	server := httptest.NewServer(r.Handler(nil, true))
	defer server.Close()
	healthz := func() int {
		response, err := http.Get(server.URL + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode
	}
	await(t, "alive", func() bool { return healthz() == http.StatusOK })
	release := make(chan struct{})
	r.blocks.Store(&release)
	defer func() {
		r.blocks.Store(nil)
		close(release)
		await(t, "alive again", func() bool { return healthz() == http.StatusOK })
		http.DefaultClient.CloseIdleConnections()
	}()
	await(t, "stuck", func() bool { return healthz() == http.StatusServiceUnavailable })
	looks := r.looks.Load()
	answer, err := r.live(nil)
	if m, ok := answer.(map[string]any); err != nil || !ok || m["alive"] != false || !strings.Contains(m["said"].(string), "stuck") {
		t.Errorf("%v, %v", answer, err)
	}
	if r.looks.Load() != looks {
		t.Error("the watchdog is told that it lives")
	}
}

func TestWaiting(t *testing.T) {
	for calls, want := range map[int]string{1: "1 call waits", 2: "2 calls wait"} {
		if got := waiting(calls); got != want {
			t.Errorf("%d: got %q, want %q", calls, got, want)
		}
	}
}
