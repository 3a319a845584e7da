package proxy_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/pool/pooltest"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sidecar is a server over a pool of workers that live in the test.
type sidecar struct {
	t       *testing.T
	socket  string
	starter *pooltest.Starter
	pool    *pool.Pool
	server  *proxy.Server
	limits  proxy.Limits
	release chan struct{} // closed or sent to: "hold" goes on
	arrived chan string   // the session, or the value, of each "hold" that began

	once sync.Once

	mu     sync.Mutex
	held   map[string]bool              // calls that wait for release
	copies map[string]map[uint64]copyOf // by worker, by session key
	log    []string                     // restores and drops
}

// copyOf is what a worker holds of a session.
type copyOf struct {
	version uint64
	state   map[string]any
}

type option func(*pool.Settings, *proxy.Config)

func start(t *testing.T, options ...option) *sidecar {
	t.Helper()
	return startWith(t, func(*proxy.Server) {}, options...)
}

// startWith lets the test add methods to the server before it serves.
func startWith(t *testing.T, before func(*proxy.Server), options ...option) *sidecar {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &sidecar{
		t: t, socket: filepath.Join(dir, "s"), release: make(chan struct{}, 1024), arrived: make(chan string, 1024),
		copies: map[string]map[uint64]copyOf{}, held: map[string]bool{},
	}
	settings := pool.Settings{
		Size: 2, Concurrency: 4, CheckoutTimeout: 10 * time.Second, QueueLimit: 64, HealthInterval: time.Minute, HealthTimeout: time.Second,
		StartTimeout: 10 * time.Second, CancelGrace: 10 * time.Second, Pinning: pool.PinStrict, OverflowIdle: time.Minute,
	}
	socket, err := proxy.Bind(s.socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cfg := proxy.Config{Socket: socket, Version: "test", Limits: proxy.Limits{
		AllowUIDs: []int{os.Getuid()}, AdminUIDs: []int{os.Getuid()}, MaxConnections: 100, MaxInFlight: 100,
		MaxInFlightBytes: 64 << 20, MaxFrame: 1 << 20, HandshakeTimeout: 5 * time.Second, FrameTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		WriteBuffer: 16 << 20, DefaultTimeout: time.Minute, StreamStall: time.Minute,
	}}
	for _, o := range options {
		o(&settings, &cfg)
	}
	s.starter = &pooltest.Starter{TB: t, Handle: s.work, Methods: []pooltest.Method{
		pooltest.Plain("echo"), pooltest.Plain("hold"), pooltest.Plain("safe").With("retry", "safe"), pooltest.Plain("put"), pooltest.Plain("get").With("read_only", true),
		pooltest.Plain("count").With("stream", "required"), pooltest.Plain("stubborn"), pooltest.Plain("ask"), pooltest.Plain("fail"),
		pooltest.Plain("lament"),
	}}
	s.pool, err = pool.New(pool.Config{Name: "default", Settings: settings, Starter: s.starter, Hello: func(string) ([]byte, error) { return wire.Marshal(map[string]any{}) }})
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := session.New(session.Config{Pool: s.pool, Store: store.Memory{}, Settings: session.Settings{TTL: time.Hour, Max: 100, MaxState: 1 << 20, AnswerTTL: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Pool, cfg.Sessions = s.pool, sessions
	s.server, s.limits = proxy.New(cfg), cfg.Limits
	before(s.server)
	s.server.Serve()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
		defer cancel()
		close(s.release)
		s.end()
		s.pool.Close(ctx)
		if err := sessions.Close(); err != nil {
			t.Error(err)
		}
		s.starter.Close()
	})
	if err := s.pool.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// end closes the server; the first time only.
func (s *sidecar) end() {
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), time.Second)
		defer cancel()
		s.server.Close(ctx)
	})
}

// work is what the workers do with a frame.
func (s *sidecar) work(w *pooltest.Worker, m wiretest.Message) {
	params, _ := m.Payload.(map[string]any)
	switch {
	case m.Kind == wire.KindCancel:
		s.cancelled(w, m)
	case m.Method == "session.restore":
		s.restore(w, params)
		w.Answer(m, nil)
	case m.Method == "session.drop":
		s.note("drop " + w.Name)
	case m.Kind == wire.KindResponse && m.Error != nil:
		s.note("refused " + string(m.Error.Code))
	case m.Kind != wire.KindRequest:
	case s.stale(w, m):
		w.Refuse(m, &wire.Error{Code: wire.CodeStaleSession, Message: "another version"})
	case m.Method == "echo":
		w.Answer(m, params["value"])
	case m.Method == "stubborn": // no cancel ends it
		s.arrived <- w.Name
		go func() {
			select {
			case <-s.release:
				w.Answer(m, "late")
			case <-w.Done():
			}
		}()
	case m.Method == "hold", m.Method == "safe":
		value, _ := params["value"].(string)
		s.mu.Lock()
		s.held[fmt.Sprint(w.Name, m.ID)] = true
		s.mu.Unlock()
		s.arrived <- w.Name + " " + value
		go func() {
			select {
			case _, open := <-s.release:
				if open && s.unhold(w, m.ID) {
					w.Answer(m, w.Name)
				}
			case <-w.Done():
			}
		}()
	case m.Method == "put":
		s.put(w, m, params)
	case m.Method == "get":
		w.Answer(m, s.copyAt(w, m).state)
	case m.Method == "lament":
		w.Refuse(m, wire.Errorf(wire.CodeProgramError, "%s", strings.Repeat("alas ", 13_088)).With("type", "Error"))
	case m.Method == "fail":
		w.Send(wire.KindChange, m.ID, map[string]any{"set": params})
		w.Refuse(m, wire.Errorf(wire.CodeProgramError, "as asked"))
	case m.Method == "count":
		for i := range number(params["n"]) {
			w.Send(wire.KindItem, m.ID, nil, i)
		}
		w.Answer(m, "done")
	case m.Method == "ask":
		s.mu.Lock()
		s.held[fmt.Sprint(w.Name, m.ID)] = true
		s.mu.Unlock()
		w.Send(wire.KindRequest, 1000+m.ID, "client.add", map[string]any{"call": m.ID}, params)
	}
}

func (s *sidecar) cancelled(w *pooltest.Worker, m wiretest.Message) {
	s.note("cancel " + w.Name)
	if !s.unhold(w, m.ID) {
		return // it has been answered
	}
	e := wire.Errorf(wire.CodeCancelled, "stopped").With("ended_by", "task")
	w.Send(wire.KindResponse, m.ID, nil, e, nil)
}

// unhold says whether the worker still holds the call, and lets it go.
func (s *sidecar) unhold(w *pooltest.Worker, id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprint(w.Name, id)
	held := s.held[key]
	delete(s.held, key)
	return held
}

func (s *sidecar) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, what)
}

func (s *sidecar) noted(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, line := range s.log {
		if strings.HasPrefix(line, what) {
			n++
		}
	}
	return n
}

func number(v any) uint64 {
	switch n := v.(type) {
	case int64:
		return uint64(n)
	case uint64:
		return n
	}
	return 0
}

func (s *sidecar) copyAt(w *pooltest.Worker, m wiretest.Message) copyOf {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copies[w.Name][number(m.Meta["key"])]
}

func (s *sidecar) stale(w *pooltest.Worker, m wiretest.Message) bool {
	return m.Meta["key"] != nil && s.copyAt(w, m).version != number(m.Meta["version"])
}

func (s *sidecar) set(w *pooltest.Worker, key, version uint64, state map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.copies[w.Name] == nil {
		s.copies[w.Name] = map[uint64]copyOf{}
	}
	s.copies[w.Name][key] = copyOf{version, state}
}

func (s *sidecar) restore(w *pooltest.Worker, params map[string]any) {
	s.note("restore " + w.Name)
	key, state := number(params["key"]), map[string]any{}
	if params["base"] != nil {
		s.mu.Lock()
		maps.Copy(state, s.copies[w.Name][key].state)
		s.mu.Unlock()
	}
	deleted, _ := params["delete"].([]any)
	for _, k := range deleted {
		name, _ := k.(string)
		delete(state, name)
	}
	set, _ := params["state"].(map[string]any)
	maps.Copy(state, set)
	s.set(w, key, number(params["version"]), state)
}

func (s *sidecar) put(w *pooltest.Worker, m wiretest.Message, params map[string]any) {
	state := map[string]any{}
	maps.Copy(state, s.copyAt(w, m).state)
	maps.Copy(state, params)
	w.Send(wire.KindChange, m.ID, map[string]any{"set": params})
	s.set(w, number(m.Meta["key"]), number(m.Meta["next"]), state)
	w.Answer(m, len(state))
}

// client is a connection that the test drives frame by frame.
type client struct {
	*wiretest.Peer
	t    *testing.T
	last uint64
}

func (s *sidecar) dial() *client {
	s.t.Helper()
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() }) // the test may have closed it
	unix, _ := conn.(*net.UnixConn)
	return &client{Peer: wiretest.NewPeer(s.t, unix), t: s.t}
}

func (s *sidecar) connect() *client {
	s.t.Helper()
	c := s.dial()
	if m := c.call("hello", nil, map[string]any{"protocols": []int{1}}); m.Error != nil {
		s.t.Fatal(m.Error)
	}
	return c
}

type meta = map[string]any

// ask sends a request and returns its id.
func (c *client) ask(method string, m meta, params any) uint64 {
	c.last++
	c.Send(wire.KindRequest, c.last, method, m, params)
	return c.last
}

// call sends a request and returns its response, which has to be the next frame.
func (c *client) call(method string, m meta, params any) wiretest.Message {
	c.t.Helper()
	id := c.ask(method, m, params)
	r := c.Receive()
	if r.Kind != wire.KindResponse || r.ID != id {
		c.t.Fatalf("in place of the response to %s: %+v", method, r)
	}
	return r
}

func (c *client) want(method string, m meta, params any, code wire.Code) {
	c.t.Helper()
	_ = c.refused(method, m, params, code)
}

// refused calls, and returns the error, which has to be of that code.
func (c *client) refused(method string, m meta, params any, code wire.Code) *wire.Error {
	c.t.Helper()
	r := c.call(method, m, params)
	if r.Error == nil || r.Error.Code != code {
		c.t.Fatalf("%s: got %+v, want %s", method, r, code)
	}
	return r.Error
}

func (c *client) ok(method string, m meta, params any) any {
	c.t.Helper()
	r := c.call(method, m, params)
	if r.Error != nil {
		c.t.Fatalf("%s: %v", method, r.Error)
	}
	return r.Payload
}
