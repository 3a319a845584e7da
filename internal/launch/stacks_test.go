package launch

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// python runs a program whose output is read, and returns when it has printed something.
func python(t *testing.T, program string) (*Output, *os.Process) {
	t.Helper()
	printed := make(chan struct{}, 100)
	out := NewOutput(slog.New(slog.NewTextHandler(tell{printed}, nil)))
	stdout, stderr, err := out.pipes()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("python3", "-I", "-S", "-c", program)
	command.Stdout, command.Stderr = stdout, stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	closeFiles(stdout, stderr)
	t.Cleanup(func() {
		_ = command.Process.Kill() // it may have ended
		_ = command.Wait()         // killed
		out.Close()
	})
	select {
	case <-printed:
	case <-time.After(30 * time.Second):
		t.Fatal("it printed nothing")
	}
	return out, command.Process
}

// tell is a log's writer.
type tell struct{ to chan struct{} }

func (w tell) Write(b []byte) (int, error) {
	select {
	case w.to <- struct{}{}:
	default:
	}
	return io.Discard.Write(b)
}

func ask(t *testing.T, out *Output, p *os.Process, signal syscall.Signal) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return out.stacks(ctx, func() error { return p.Signal(signal) })
}

// A Python process says where each of its threads is, and nothing else of what it prints is passed on.
func TestStacks(t *testing.T) {
	out, process := python(t, `
import faulthandler, signal, sys, threading, time

def stuck():
    waits.wait()
    while True:
        time.sleep(1000)

def wait_in_main():
    print("ready", flush=True)
    time.sleep(1000)

signal.signal(signal.SIGUSR1, lambda *_: print("a client's secret", file=sys.stderr, flush=True))
faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
waits = threading.Event()
thread = threading.Thread(target=stuck, daemon=True)
thread.start()
waits.set()
wait_in_main()
`)
	var stacks string
	complete := func() bool {
		return strings.Contains(stacks, "in stuck\n") && strings.Contains(stacks, "in wait_in_main\n") && strings.Contains(stacks, "Thread 0x")
	}
	for begun := time.Now(); !complete(); { // a process that the machine has no time for may need more than one question
		stacks = strings.Join(ask(t, out, process, syscall.SIGUSR1), "\n") + "\n"
		if strings.Contains(stacks, "secret") {
			t.Errorf("output of others: %s", stacks)
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("stacks are missing in %s", stacks)
		}
	}
}

func TestStackLines(t *testing.T) {
	for line, want := range map[string]bool{
		"Thread 0x00007f523e1fc6c0 (most recent call first):":          true,
		"Current thread 0x00007f523e1fc6c0 (most recent call first):":  true,
		"Thread 0x00007f523e1fc6c0 [worker] (most recent call first):": true,
		`  File "/srv/app.py", line 6 in stuck`:                        true,
		`  File "<string>", line ??? in <module>`:                      true,
		"  <no Python frame>":                                          true,
		"  ...":                                                        true,
		"a client's secret":                                            false,
		`  File "a client's secret`:                                    false,
		`  File "/srv/app.py", line 6 in stucka client's secret`:       false,
		"Thread 0xa client's secret":                                   false,
	} {
		if stackLine.MatchString(line) != want {
			t.Errorf("%q: want %v", line, want)
		}
	}
}

// One that does not say where it is is not waited for beyond the limit, and one that has ended not at all.
func TestStacksThatDoNotCome(t *testing.T) {
	out, process := python(t, "import time; print('ready', flush=True); time.sleep(1000)")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got := out.stacks(ctx, func() error { return process.Signal(syscall.SIGCONT) }); got != nil {
		t.Errorf("got %v", got)
	}
	if got := out.stacks(t.Context(), func() error { return os.ErrProcessDone }); got != nil {
		t.Errorf("got %v", got)
	}
}
