package launch

import (
	"bytes"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a call printed is logged with its session and request; what merely looks like a mark is text.
func TestOutputOfCalls(t *testing.T) {
	for _, m := range []struct{ printed, logged string }{
		{"plain", `stream=stdout line=plain`},
		{"\x1fs 1\x1f12\x1ftext", `session_id="s 1" worker_request=12 stream=stdout line=text`},
		{"\x1f\x1f7\x1f", `worker_request=7 stream=stdout line=""`},
		{"\x1fs\x1f7\x1fa\x1fb", `session_id=s worker_request=7 stream=stdout line=a\x1fb`},
		{"\x1fs\x1f7", `stream=stdout line=\x1fs\x1f7`},
		{"text \x1fs\x1f7\x1f", `stream=stdout line="text \\x1fs\\x1f7\\x1f"`},
	} {
		var log bytes.Buffer
		o := NewOutput(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey {
				return slog.Attr{}
			}
			return a
		}})))
		o.add(m.printed, "stdout")
		if got := log.String(); got != m.logged+"\n" {
			t.Errorf("%q is logged as %q, want %q", m.printed, got, m.logged)
		}
	}
}

// A line that is too long says so.
func TestOutputIsCut(t *testing.T) {
	o := NewOutput(slog.New(slog.DiscardHandler))
	stdout, stderr, err := o.pipes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.WriteString(strings.Repeat("x", 10_000) + "\nshort\n"); err != nil {
		t.Fatal(err)
	}
	closeFiles(stdout, stderr)
	o.readers.Wait()
	want := []string{strings.Repeat("x", lineLimit) + " … (5904 bytes more)", "short"}
	if got := o.Last(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A process that prints faster than it is read has to wait: it must not find its output non-blocking.
func TestOutputBlocksTheWriter(t *testing.T) {
	o := NewOutput(slog.New(slog.DiscardHandler))
	stdout, stderr, err := o.pipes()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{stdout, stderr} {
		if nonblocking(t, f) {
			t.Errorf("the pipe for %s is non-blocking", f.Name())
		}
	}
	closeFiles(stdout, stderr)
	o.Close()
}

func nonblocking(t *testing.T, f *os.File) bool {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var flags int
	var flagsErr error
	if err := raw.Control(func(fd uintptr) { flags, flagsErr = unix.FcntlInt(fd, unix.F_GETFL, 0) }); err != nil || flagsErr != nil {
		t.Fatal(err, flagsErr)
	}
	return flags&unix.O_NONBLOCK != 0
}
