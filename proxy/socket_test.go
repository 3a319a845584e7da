package proxy_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
)

// bindAt tries to bind at a path.
func bindAt(t *testing.T, path string) error {
	t.Helper()
	s, err := proxy.Bind(path, 0o660)
	if err == nil {
		s.Close()
		s.Close()
	}
	return err
}

func TestSocketPaths(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	if err := bindAt(t, filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("long path: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := bindAt(t, path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := bindAt(t, path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("in use: %v", err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := bindAt(t, path); err != nil {
		t.Errorf("stale: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := bindAt(t, path); err == nil || !strings.Contains(err.Error(), "everybody") {
		t.Errorf("open folder: %v", err)
	}
}

func TestSocketRemovedAndMode(t *testing.T) {
	s := start(t)
	info, err := os.Stat(s.socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	if err := os.Remove(s.socket); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		conn, err := net.Dial("unix", s.socket)
		return err == nil && conn.Close() == nil
	})
	s.connect().ok("ping", nil, nil)
}

// connected says whether the socket takes a connection.
func (s *sidecar) connected(t *testing.T) bool {
	t.Helper()
	conn, err := net.Dial("unix", s.socket)
	return err == nil && conn.Close() == nil
}

func TestSocketFolderRemoved(t *testing.T) {
	log := newLogCounter()
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.Log = slog.New(log) })
	dir := filepath.Dir(s.socket)
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	const complaint = "socket file was removed or replaced and cannot be made again: clients do not find the sidecar"
	await(t, func() bool { return log.count(complaint) > 0 })
	<-time.After(2200 * time.Millisecond) // two more looks
	if n := log.count(complaint); n != 1 {
		t.Errorf("complained %d times", n)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return s.connected(t) })
	s.connect().ok("ping", nil, nil)
}

// What somebody put in the socket's place is theirs; the log says that nobody finds the sidecar.
func TestSocketReplaced(t *testing.T) {
	log := newLogCounter()
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.Log = slog.New(log) })
	other := s.socket + ".other"
	if err := errors.Join(os.WriteFile(other, []byte("theirs"), 0o600), os.Rename(other, s.socket)); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		return log.count("socket file was removed or replaced and cannot be made again: clients do not find the sidecar") == 1
	})
	if text, err := os.ReadFile(s.socket); err != nil || string(text) != "theirs" {
		t.Errorf("%q, %v", text, err)
	}
	if err := os.Remove(s.socket); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return s.connected(t) })
}

func TestSocketModeWhateverTheUmask(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	defer unix.Umask(unix.Umask(0o777))
	s, err := proxy.Bind(path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestDrainTakesTheSocketFileAway(t *testing.T) {
	s := start(t)
	s.server.Drain("the test ends", time.Second)
	for range 2 {
		if _, err := os.Lstat(s.socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket file: %v", err)
		}
		<-time.After(1100 * time.Millisecond) // a look of the guard's
	}
}

// logCounter counts log records by their message.
type logCounter struct {
	slog.Handler

	mu   *sync.Mutex
	seen map[string]int
}

func newLogCounter() logCounter {
	return logCounter{slog.DiscardHandler, new(sync.Mutex), map[string]int{}}
}

func (l logCounter) Enabled(context.Context, slog.Level) bool { return true }

func (l logCounter) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[r.Message]++
	return nil
}

func (l logCounter) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[message]
}

func TestAcceptWithoutDescriptors(t *testing.T) {
	const complaint = "accept failed; going on"
	log := newLogCounter()
	s := start(t, func(_ *pool.Settings, p *proxy.Config) { p.Log = slog.New(log) })
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer os.NewFile(uintptr(fd), "client").Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	set := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
	}
	defer set(limit)
	set(unix.Rlimit{Cur: 3, Max: limit.Max}) // fewer than are open
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: s.socket}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return log.count(complaint) == 1 })
	before := cpuTime(t)
	<-time.After(400 * time.Millisecond)
	if used := cpuTime(t) - before; used > 200*time.Millisecond {
		t.Errorf("400 ms without descriptors took %v of a processor", used)
	}
	set(limit)
	await(t, func() bool { return len(s.server.Clients()) == 1 })
	s.connect().ok("ping", nil, nil)
	if n := log.count(complaint); n != 1 {
		t.Errorf("complained %d times", n)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
