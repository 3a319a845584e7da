package cli

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sidecar is a scripted one: what it answers to each frame after the handshake is the test's.
type sidecar struct {
	path  string
	hello chan map[string]any // the params of each hello
}

// script handles a frame of one connection.
type script func(p *wiretest.Peer, m wiretest.Message)

func start(t *testing.T, handle script) *sidecar {
	t.Helper()
	return serve(t, func(p *wiretest.Peer, m wiretest.Message) {
		if m.Method != "hello" {
			handle(p, m)
			return
		}
		p.Send(1, m.ID, nil, nil, map[string]any{"protocol": 1, "connection": "c1", "max_frame": 1 << 20, "later": true})
	})
}

// serve is start without a handshake of its own.
func serve(t *testing.T, handle script) *sidecar {
	t.Helper()
	s := &sidecar{path: filepath.Join(shortDir(t), "s"), hello: make(chan map[string]any, 64)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			p := wiretest.NewPeer(t, conn)
			p.Serve(func(m wiretest.Message) {
				if m.Method == "hello" {
					s.hello <- m.Payload.(map[string]any)
				}
				handle(p, m)
			})
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return s
}

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// answers are results by method; an error is sent as one.
func answers(results map[string]any) script {
	return func(p *wiretest.Peer, m wiretest.Message) {
		if m.Kind != wire.KindRequest {
			return
		}
		switch result := results[m.Method].(type) {
		case *wire.Error:
			p.Send(1, m.ID, nil, result, nil)
		default:
			p.Send(1, m.ID, nil, nil, result)
		}
	}
}

// outcome is what a command left.
type outcome struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, s *sidecar, args ...string) outcome {
	t.Helper()
	return runWith(t.Context(), t, Env{}, s, args...)
}

func runWith(ctx context.Context, t *testing.T, e Env, s *sidecar, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx) // no deadline: it would go to the sidecar
	defer cancel()
	defer time.AfterFunc(30*time.Second, cancel).Stop()
	var stdout, stderr bytes.Buffer
	e.Version = "1.2.3"
	e.Stderr = &stderr
	if e.Stdout == nil {
		e.Stdout = &stdout
	}
	if e.Stdin == nil {
		e.Stdin = strings.NewReader("")
	}
	if s != nil {
		e.Environ = append(e.Environ, "DSPEX_SOCKET="+s.path)
	}
	return outcome{Run(ctx, args, e), stdout.String(), stderr.String()}
}

// golden compares text with a file of testdata; DSPEX_GOLDEN=write makes the files anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if os.Getenv("DSPEX_GOLDEN") == "write" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", path, got, want)
	}
}

func (o outcome) expect(t *testing.T, code int, stderr ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d; stdout %q, stderr %q", o.code, code, o.stdout, o.stderr)
	}
	for _, part := range stderr {
		if !strings.Contains(o.stderr, part) {
			t.Errorf("stderr %q does not say %q", o.stderr, part)
		}
	}
	if len(stderr) == 0 && o.stderr != "" {
		t.Errorf("stderr %q", o.stderr)
	}
}
