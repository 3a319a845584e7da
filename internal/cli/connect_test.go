package cli

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestSocketPlaces(t *testing.T) {
	for _, c := range []struct {
		flag    string
		environ []string
		want    string
	}{
		{"/a", []string{"DSPEX_SOCKET=/b"}, "/a"},
		{"", []string{"XDG_RUNTIME_DIR=/run/user/7", "DSPEX_SOCKET=/b"}, "/b"},
		{"", []string{"XDG_RUNTIME_DIR=/run/user/7", "DSPEX_SOCKET="}, "/run/user/7/dspex/dspex.sock"},
		{"", nil, "/run/dspex/dspex.sock"},
	} {
		q := connection{Socket: c.flag}
		if got := q.path(c.environ); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestNoSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	for _, command := range []string{"call x", "sessions", "sessions create", "sessions end x", "sessions show x", "workers", "workers show w", "clients", "calls", "health", "stats"} {
		args := append(strings.Fields(command), "--socket", path)
		run(t, nil, args...).expect(t, exitUnreachable, path, "no such socket", "dspex-sidecar serve", "--socket", "DSPEX_SOCKET")
	}
	run(t, nil, "health", "--socket", strings.Repeat("x", 108)).expect(t, exitUnreachable, "108 bytes", "107")
}

func TestNobodyListens(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	run(t, nil, "health", "--socket", path).expect(t, exitUnreachable, path, "nothing listens", "dspex-sidecar serve")
}

func TestNoPermission(t *testing.T) {
	s := start(t, answers(fixtures()))
	if err := os.Chmod(s.path, 0); err != nil {
		t.Fatal(err)
	}
	done := make(chan outcome)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, which may less than others from here on, ends with the goroutine
		if os.Getuid() == 0 {
			_ = unix.Setfsuid(65534) // what fails shows in the outcome
		}
		done <- run(t, s, "health")
	}()
	o := <-done
	o.expect(t, exitUnreachable, s.path, "permission denied", "listen.mode")
}

func TestRefusedHandshake(t *testing.T) {
	for code, says := range map[wire.Code]string{
		wire.CodePermissionDenied: "listen.allow_uids", wire.CodeQueueFull: "queue_full", wire.CodeUnsupportedProtocol: "unsupported_protocol",
	} {
		s := serve(t, func(p *wiretest.Peer, m wiretest.Message) { p.Send(1, m.ID, nil, wire.Errorf(code, "no"), nil) })
		run(t, s, "health").expect(t, exitUnreachable, "no connection", s.path, says)
	}
	s := serve(t, func(p *wiretest.Peer, m wiretest.Message) { p.Send(1, m.ID, nil, nil, map[string]any{"protocol": 2}) })
	run(t, s, "health").expect(t, exitUnreachable, "unsupported_protocol")
	s = serve(t, func(p *wiretest.Peer, _ wiretest.Message) { _ = p.Conn.Close() })
	run(t, s, "health").expect(t, exitUnreachable, "connection_lost")
}

func TestConnectionEndsInACall(t *testing.T) {
	s := start(t, func(p *wiretest.Peer, _ wiretest.Message) { _ = p.Conn.Close() })
	run(t, s, "call", "m").expect(t, exitFailed, "connection_lost: ")
	s = start(t, func(p *wiretest.Peer, _ wiretest.Message) {
		p.Send(2, "protocol_error", nil, map[string]any{"id": nil, "code": "invalid_frame", "message": "bad head"})
	})
	run(t, s, "call", "m").expect(t, exitFailed, "connection_lost: ", "invalid_frame: bad head")
}

func TestServerThatNeverAnswers(t *testing.T) {
	silent := func(*wiretest.Peer, wiretest.Message) {}
	run(t, serve(t, silent), "call", "m", "--timeout", "50ms").expect(t, exitTimeout, "did not answer in time")
	run(t, start(t, silent), "call", "m", "--timeout", "50ms").expect(t, exitTimeout, "deadline_exceeded: ")
	run(t, start(t, silent), "health", "--timeout", "50ms").expect(t, exitTimeout, "deadline_exceeded: ")
}

// A sidecar that is stopped says nothing in the handshake, and its last word is not waited for.
func TestTimeoutOfTheHandshakeIsKept(t *testing.T) {
	const timeout, lastWord = 50 * time.Millisecond, 500 * time.Millisecond
	s := serve(t, func(*wiretest.Peer, wiretest.Message) {})
	for range 50 { // the machine may be slower than the wait is long, but not each time
		began := time.Now()
		run(t, s, "health", "--timeout", timeout.String()).expect(t, exitTimeout, "did not answer in time")
		if time.Since(began) < lastWord {
			return
		}
	}
	t.Error("it always takes longer than its timeout")
}

func TestBadResults(t *testing.T) {
	s := start(t, answers(map[string]any{"sidecar.stats": "text", "sidecar.workers": map[string]any{"workers": "none"}}))
	run(t, s, "stats").expect(t, exitFailed, "invalid_frame: ", "should answer with a map")
	o := run(t, s, "workers")
	o.expect(t, exitOK)
	if !strings.HasPrefix(o.stdout, "WORKER ") || strings.Count(o.stdout, "\n") != 1 {
		t.Errorf("workers of a wrong type: %q", o.stdout)
	}
}
