package app

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/procs"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// patience bounds what comes soon in a passing test.
const patience = 30 * time.Second

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// place is a folder with a configuration for workers that the test binary is.
type place struct{ dir, config, socket string }

func newPlace(t *testing.T, python, more string) place {
	t.Helper()
	dir, err := os.MkdirTemp("", "app") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := place{dir, filepath.Join(dir, "dspex.toml"), filepath.Join(dir, "s")}
	text := fmt.Sprintf("[listen]\nsocket = 's'\n[pools.default]\npython = '%s'\nstart = 'spawn'\nsize = 2\nenv.GORACE = 'atexit_sleep_ms=0'\n%s\n",
		python, more)
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// self is the test binary, as a worker's Python.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// connect shakes hands as soon as somebody listens.
func (p place) connect(t *testing.T) *wiretest.Peer {
	t.Helper()
	var conn net.Conn
	await(t, "a listener", func() bool {
		var err error
		conn, err = net.Dial("unix", p.socket)
		return err == nil
	})
	t.Cleanup(func() { _ = conn.Close() })
	c := wiretest.NewPeer(t, conn.(*net.UnixConn))
	call(t, c, "hello", map[string]any{"protocols": []int{1}})
	return c
}

func call(t *testing.T, c *wiretest.Peer, method string, params any) any {
	t.Helper()
	c.Send(wire.KindRequest, 1, method, nil, params)
	m := c.Receive()
	if m.Error != nil {
		t.Fatalf("%s: %v", method, m.Error)
	}
	return m.Payload
}

// running is a sidecar in a process of its own.
type running struct {
	*exec.Cmd
	t    *testing.T
	done chan struct{}

	mu    sync.Mutex // guards lines
	lines []string
}

func (p place) serve(t *testing.T, command ...string) *running {
	t.Helper()
	command = append(command, self(t), "serve", p.config)
	s := &running{Cmd: exec.Command(command[0], command[1:]...), t: t, done: make(chan struct{})}
	s.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} // if this test ends by its time limit
	s.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	stderr, err := s.StderrPipe()
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			s.mu.Lock()
			s.lines = append(s.lines, lines.Text())
			s.mu.Unlock()
		}
		_ = s.Wait() // its code says how it ended
	}()
	t.Cleanup(func() {
		for range 2 { // at once; it has ended, mostly
			_ = s.Process.Signal(unix.SIGTERM)
		}
		select {
		case <-s.done:
		case <-time.After(patience):
			t.Error("it does not end")
			_ = s.Process.Kill()
			<-s.done
		}
		if t.Failed() {
			t.Log(s.log())
		}
	})
	return s
}

func (s *running) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func (s *running) signal(pid int) {
	s.t.Helper()
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		s.t.Error(err)
	}
}

// ended waits for its exit code, and finds nothing left of it.
func (s *running) ended(p place) int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("it does not end")
	}
	if _, err := os.Lstat(p.socket); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("the socket's file: %v", err)
	}
	return s.ProcessState.ExitCode()
}

func TestServe(t *testing.T) {
	p := newPlace(t, self(t), "")
	s := p.serve(t)
	c := p.connect(t)
	if got := call(t, c, "echo", map[string]any{"a": "b"}); fmt.Sprint(got) != "map[a:b]" {
		t.Errorf("echo: %v", got)
	}
	below := tree(t, s.Process.Pid)
	s.signal(s.Process.Pid)
	if m := c.Receive(); m.Method != "goaway" {
		t.Errorf("got %+v", m)
	}
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, process := range below {
		if now, err := procs.ReadOne(process.PID); err == nil && now.ID == process.ID {
			t.Errorf("left: %+v", now)
		}
	}
}

func tree(t *testing.T, pid int) []procs.Proc {
	t.Helper()
	table, err := procs.Read()
	if err != nil {
		t.Fatal(err)
	}
	return table.Below(pid, nil)
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	p := newPlace(t, self(t), "shutdown_timeout = '1h'")
	s := p.serve(t)
	c := p.connect(t)
	call(t, c, "echo", nil) // a worker is there
	c.Send(wire.KindRequest, 2, "hang", nil, nil)
	s.signal(s.Process.Pid)
	if m := c.Receive(); m.Method != "goaway" {
		t.Errorf("got %+v", m)
	}
	s.signal(s.Process.Pid)
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// run runs a sidecar in this process that cannot start.
func (p place) run(t *testing.T) error {
	t.Helper()
	err := Run(t.Context(), Options{ConfigPath: p.config, Version: "test", Environ: os.Environ(), Stderr: t.Output()})
	if children, cerr := procs.Children(os.Getpid()); cerr != nil || len(children) > 0 {
		t.Errorf("children are left: %v, %v", children, cerr)
	}
	return err
}

func TestNothingIsStartedWhereTheSocketIsTaken(t *testing.T) {
	p := newPlace(t, "python", "")
	mark := filepath.Join(p.dir, "started")
	if err := os.WriteFile(filepath.Join(p.dir, "python"), []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := p.run(t); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
		t.Error("a worker was started")
	}
	if conn, err := net.Dial("unix", p.socket); err != nil || conn.Close() != nil {
		t.Errorf("the other's socket: %v", err)
	}
}

// Who asks for the health of a sidecar whose workers do not start is told why, in the words of the process that failed.
func TestHealthSaysWhyWorkersDoNotStart(t *testing.T) {
	for name, want := range map[string][]string{
		"fails":   {"exit code 3", "it printed:", "Traceback", "ModuleNotFoundError: No module named 'shop'"},
		"missing": {"cannot start", "missing", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, "./"+name, "")
			program := "#!/bin/sh\necho Traceback >&2\necho \"ModuleNotFoundError: No module named 'shop'\" >&2\nexit 3\n"
			if err := os.WriteFile(filepath.Join(p.dir, "fails"), []byte(program), 0o700); err != nil {
				t.Fatal(err)
			}
			p.serve(t)
			c := p.connect(t)
			var health string
			await(t, "the reason", func() bool {
				answer, _ := call(t, c, "sidecar.health", nil).(map[string]any)
				health = fmt.Sprint(answer["reasons"])
				return answer["status"] == "unhealthy" && !slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(health, part) })
			})
		})
	}
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	p := newPlace(t, self(t), "env.SECRET = 'env:NOT_SET_ANYWHERE'")
	if err := p.run(t); err == nil || !strings.Contains(err.Error(), "NOT_SET_ANYWHERE") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(p.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file: %v", err)
	}
}

// As process 1 of a container the sidecar is the parent of what the container's command left running, and takes no status from
// the keeper's workers.
func TestProcess1ReapsOrphans(t *testing.T) {
	unshare := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no PID namespace can be made here: %v: %s", err, out)
	}
	p := newPlace(t, self(t), "")
	s := p.serve(t, append(unshare, "sh", "-c", `sleep 0.1 & (sleep 0.2 &) & exec "$@"`, "sh")...)
	c := p.connect(t)
	call(t, c, "echo", nil)
	init := tree(t, s.Process.Pid)[0].PID
	zombies := func() (n int) {
		for _, process := range tree(t, init) {
			if process.Parent == init && process.Zombie() {
				n++
			}
		}
		return n
	}
	await(t, "orphans", func() bool { return zombies() >= 2 })
	await(t, "their end", func() bool { return zombies() == 0 })
	for _, process := range tree(t, init) {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", process.PID)); err == nil && strings.Contains(string(name), "worker_1\x00") {
			if err := unix.Kill(process.PID, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	await(t, "the worker's status", func() bool {
		return strings.Contains(s.log(), "killed by SIGKILL (out of memory killer or kill -9)")
	})
	s.signal(init)
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
