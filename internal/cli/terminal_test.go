package cli

import (
	"bufio"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// terminal is a pseudoterminal of that width: what programs write to, and what a person would see of it.
func terminal(t *testing.T, width uint16) (program, screen *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	fd := int(screen.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width})
	}
	if err == nil {
		program, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program, screen
}

func TestTablesFitTheTerminal(t *testing.T) {
	const failure = "killed by SIGKILL (out of memory killer or kill -9), in the middle of a frame, and more that no line has room for"
	worker := map[string]any{
		"worker": "worker_1", "pool": "default", "state": "ready", "pid": 1234567, "in_flight": 2, "slots": 64, "sessions": 3, "calls": 1200,
		"errors": 4, "age_ms": 160_000, "last_failure": failure,
	}
	session := map[string]any{"session": strings.Repeat("é", 100), "worker": "worker_1", "labels": map[string]any{"team": strings.Repeat("x", 50)}}
	other := maps.Clone(worker)
	other["last_failure"] = nil
	s := start(t, answers(map[string]any{
		"sidecar.workers": map[string]any{"workers": []any{worker, other}},
		"sidecar.health":  map[string]any{"status": "healthy", "workers": []any{worker}},
		"session.list":    map[string]any{"sessions": []any{session}},
	}))
	for command, lines := range map[string]int{"workers": 3, "health": 4, "sessions": 2} {
		for _, width := range []int{80, 120} {
			program, screen := terminal(t, uint16(width))
			runWith(t.Context(), t, Env{Stdout: program}, s, command).expect(t, exitOK)
			read, longest := bufio.NewReader(screen), 0
			var all strings.Builder
			for range lines {
				line, err := read.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				longest = max(longest, utf8.RuneCountInString(strings.TrimRight(line, "\r\n")))
				all.WriteString(line)
			}
			if text := all.String(); longest != width || !strings.Contains(text, "…") || command != "sessions" && !strings.Contains(text, "LAST FAILURE") {
				t.Errorf("%s in %d columns has %d:\n%s", command, width, longest, text)
			}
		}
		if o := run(t, s, command); !strings.Contains(o.stdout, failure) && !strings.Contains(o.stdout, strings.Repeat("é", 100)) {
			t.Errorf("%s, not to a terminal, is cut:\n%s", command, o.stdout)
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		width int
		cells []string
		want  string
	}{
		{0, []string{"aaaaaaaa", strings.Repeat("b", 20)}, "aaaaaaaa|bbbbbbbbbbbbbbbbbbbb"},
		{30, []string{"aaaaaaaa", strings.Repeat("b", 20)}, "aaaaaaaa|bbbbbbbbbbbbbbbbbbbb"},
		{29, []string{"aaaaaaaa", strings.Repeat("b", 20)}, "aaaaaaaa|bbbbbbbbbbbbbbbbbb…"},
		{20, []string{strings.Repeat("a", 20), "bbb"}, "aaaaaaaaaaaaaa…|bbb"},
		{1, []string{"aaaaaaaa", "bbb"}, "aaa…|bbb"},
	} {
		line := append([]string(nil), c.cells...)
		fit([][]string{line}, c.width)
		if got := strings.Join(line, "|"); got != c.want {
			t.Errorf("%d: got %s, want %s", c.width, got, c.want)
		}
	}
}
