package keeper

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/procs"
)

// The test binary is also the keeper, and the sidecar of the tests in which a sidecar has to die.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Subcommand:
			os.Exit(Main())
		case "stand-in-sidecar":
			os.Exit(standInSidecar(os.Args[2:]))
		case "stand-in-init":
			os.Exit(standInInit())
		}
	}
	// What a killed stand-in leaves behind comes to this process, where the tests see it.
	if err := BecomeSubreaper(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// testConfig starts the keeper so that, with the race detector, it fails on a race and ends without the second of
// sleep that the detector adds.
func testConfig(log *slog.Logger) Config {
	return Config{
		Path:   "/usr/bin/env",
		Args:   []string{"GORACE=atexit_sleep_ms=0 halt_on_error=1", os.Args[0], Subcommand},
		Logger: log,
	}
}

// testLog passes records of the client on to the test.
type testLog struct {
	slog.Handler
	records chan slog.Record
}

func (l *testLog) Handle(ctx context.Context, record slog.Record) error {
	select {
	case l.records <- record:
	default:
	}
	return l.Handler.Handle(ctx, record)
}

// newClient starts a keeper and checks at the end that no process and no goroutine is left of it.
func newClient(t *testing.T) (*Client, *testLog) {
	t.Helper()
	log := &testLog{Handler: slog.NewTextHandler(t.Output(), nil), records: make(chan slog.Record, 1000)}
	c, err := Start(testConfig(slog.New(log)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if left := descendants(t, os.Getpid()); len(left) > 0 {
			t.Errorf("processes left: %+v", left)
		}
		goleak.VerifyNone(t)
	})
	return c, log
}

// cleared waits until the keeper says that left-over processes of pid are gone, and returns how many there were.
func (l *testLog) cleared(t *testing.T, pid int) int {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case record := <-l.records:
			got := map[string]slog.Value{}
			record.Attrs(func(a slog.Attr) bool { got[a.Key] = a.Value; return true })
			if record.Message == "left-over processes killed" && (pid == 0 || got["pid"].Int64() == int64(pid)) {
				return int(got["count"].Int64())
			}
		case <-limit:
			t.Fatal("no left-over processes were killed")
		}
	}
}

func descendants(t *testing.T, pid int) []procs.Proc {
	t.Helper()
	table, err := procs.Read()
	if err != nil {
		t.Fatal(err)
	}
	return table.Below(pid, nil)
}

// started is a process and what it prints.
type started struct {
	*Process
	lines *bufio.Reader
}

func start(t *testing.T, c *Client, argv ...string) started {
	t.Helper()
	read, write := pipe(t)
	p, err := c.StartProcess(t.Context(), Spec{Argv: argv, Env: os.Environ(), Stdout: write, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	return started{p, bufio.NewReader(read)}
}

func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	return read, write
}

// line returns the next line that the process printed.
func (s started) line(t *testing.T) string {
	t.Helper()
	text, err := s.lines.ReadString('\n')
	if err != nil {
		t.Fatalf("process ended its output: %v", err)
	}
	return strings.TrimSuffix(text, "\n")
}

// rest returns what the process prints until nobody has its output open any more.
func (s started) rest(t *testing.T) string {
	t.Helper()
	text, err := io.ReadAll(s.lines)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// waitGone waits until a process has ended, whoever's child it is.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone already
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			t.Fatalf("process %d still lives: %v", pid, err)
		}
		return
	}
}

// script writes a Python program for children and returns the command that runs it quickly.
func script(t *testing.T, text string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "child.py")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"python3", "-I", "-S", path}
}
