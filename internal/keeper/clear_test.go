package keeper

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/procs"
)

// standInSidecar keeps the children whose commands it is given until it is killed. The last command runs again and
// again if it is "again" that comes before it. What they print goes to its own output.
func standInSidecar(commands []string) int {
	c, err := Start(testConfig(nil))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("keeper", c.PID())
	again := false
	for i := 0; i < len(commands); i++ {
		if commands[i] == "again" {
			again = true
			continue
		}
		spec := Spec{Argv: []string{"/bin/sh", "-c", commands[i]}, Env: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}
		if _, err := c.StartProcess(context.Background(), spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if again {
			i--
		}
	}
	<-c.Lost()
	return 1
}

// standIn is a running stand-in for the sidecar.
type standIn struct {
	*exec.Cmd
	keeper int
	lines  *bufio.Reader
}

func startStandIn(t *testing.T, command *exec.Cmd) standIn {
	t.Helper()
	read, write := pipe(t)
	command.Stdout, command.Stderr = write, os.Stderr
	command.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} // if this test ends by its time limit
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	s := standIn{command, 0, bufio.NewReader(read)}
	if _, err := fmt.Fscanf(s.lines, "keeper %d\n", &s.keeper); err != nil {
		t.Fatal(err)
	}
	return s
}

// kill kills the stand-in like kill -9 and returns how long the keeper took to end after that. As this process is a
// sub-reaper, the keeper is its child by then, and so would be everything that the keeper left.
func (s standIn) kill(t *testing.T) time.Duration {
	t.Helper()
	if err := s.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.Wait() // "signal: killed"
	begin := time.Now()
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(s.keeper, &status, 0, nil); err == nil {
			break
		} else if err != unix.EINTR {
			t.Fatal(err)
		}
	}
	took := time.Since(begin)
	if !status.Exited() || status.ExitStatus() != 0 {
		t.Errorf("keeper: %+v", status)
	}
	if left := descendants(t, os.Getpid()); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	return took
}

// storm forks without end: each process forks its successor and ends, in its own session or in the same one.
const storm = `
import os, sys
print("ready", flush=True)
while True:
    if os.fork():
        os._exit(0)
    if sys.argv[1] == "sessions":
        os.setsid()
`

// crowd grows to 300 processes, each in its own session, that never stop working and fork anew when one dies.
const crowd = `
import os, signal
def multiply(n):
    while n > 1:
        half = n // 2
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGCHLD, lambda *_: os.fork())
            n = half
        else:
            n -= half
multiply(300)
print("ready", flush=True)
while True:
    pass
`

// Nothing outlives a sidecar that was killed, and within a second.
func TestKilledSidecarLeavesNothing(t *testing.T) {
	cc, _ := exec.LookPath("cc")
	for name, test := range map[string]struct {
		commands []string
		ready    int // lines to wait for
	}{
		"nothing": {nil, 0},
		"plain":   {[]string{"echo ready; sleep 1000"}, 1},
		"python":  {[]string{"exec python3 -c 'import time; print(\"ready\", flush=True); time.sleep(1000)'"}, 1},
		"stubborn": {[]string{
			`trap "" TERM HUP INT; echo ready; while :; do sleep 1000; done`,
			`setsid sh -c 'trap "" TERM HUP; echo ready; sleep 1000' & sleep 1000`,
			`(setsid sh -c 'echo ready; sleep 1000' &); sleep 1000`,
			`env -i setsid -f /bin/sh -c 'echo ready; sleep 1000'; sleep 1000`,
			`(env -i setsid /bin/sh -c '(setsid sh -c "echo ready; sleep 1000" &)' &); sleep 1000`,
			`echo ready; kill -STOP $$; sleep 1000`,
		}, 6},
		"storm in one session": {[]string{shell(script(t, storm)) + " one"}, 1},
		"storm of sessions":    {[]string{shell(script(t, storm)) + " sessions", shell(script(t, storm)) + " sessions"}, 2},
		"fast storm":           {[]string{fastStorm(t, cc)}, 1},
		"crowd":                {[]string{shell(script(t, crowd))}, 300},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "fast storm" && cc == "" {
				t.Skip("no C compiler")
			}
			s := startStandIn(t, exec.Command(os.Args[0], append([]string{"stand-in-sidecar"}, test.commands...)...))
			for range test.ready {
				if line, err := s.lines.ReadString('\n'); line != "ready\n" {
					t.Fatalf("%q, %v", line, err)
				}
			}
			if took := s.kill(t); took > time.Second {
				t.Errorf("took %s", took)
			} else {
				t.Logf("took %s", took)
			}
		})
	}
}

func shell(argv []string) string { return "exec " + strings.Join(argv, " ") }

// fastStorm is the storm of sessions in C, where a process lives for some ten microseconds.
func fastStorm(t *testing.T, cc string) string {
	t.Helper()
	if cc == "" {
		return ""
	}
	path := filepath.Join(t.TempDir(), "storm")
	compile := exec.Command(cc, "-O2", "-o", path, "-x", "c", "-")
	compile.Stdin = strings.NewReader(`#include <unistd.h>
		int main(void) {
			write(1, "ready\n", 6);
			for (;;) { if (fork() > 0) _exit(0); setsid(); }
		}`)
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return "exec " + path
}

func TestSidecarKilledWhileSpawning(t *testing.T) {
	for count := range 10 {
		s := startStandIn(t, exec.Command(os.Args[0], "stand-in-sidecar", "again", "echo ready; setsid sleep 1000"))
		for range count {
			if _, err := s.lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if took := s.kill(t); took > time.Second {
			t.Errorf("took %s", took)
		}
	}
}

// What the sidecar was started with, blocked and ignored signals and open descriptors, does not reach the children; nor does the
// keeper's scheduling policy.
func TestChildrenInheritNothing(t *testing.T) {
	command := exec.Command("python3", "-I", "-S", "-c", `
import os, signal, sys
numbers = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
for number in numbers:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
os.dup2(1, 9)
os.set_inheritable(9, True)
os.execv(sys.argv[1], sys.argv[1:])
`, os.Args[0], "stand-in-sidecar", "if [ -e /proc/$$/fd/9 ]; then echo leaked; else echo clean; fi; cut -d ' ' -f 41 /proc/self/stat; exec grep -E '^Sig(Blk|Ign)' /proc/self/status")
	s := startStandIn(t, command)
	if line, err := s.lines.ReadString('\n'); line != "clean\n" {
		t.Errorf("%q (%v)", line, err)
	}
	if policy, err := s.lines.ReadString('\n'); policy != "0\n" { // SCHED_OTHER
		t.Errorf("scheduling policy %q (%v)", policy, err)
	}
	for _, name := range []string{"SigBlk", "SigIgn"} {
		line, err := s.lines.ReadString('\n')
		var mask uint64
		// 32 and 33 are the C library's own: what started the tests may have set them, and no program can.
		if _, scan := fmt.Sscanf(line, name+":%x", &mask); scan != nil || mask&^(1<<31|1<<32) != 0 {
			t.Errorf("%q (%v, %v)", line, err, scan)
		}
	}
	s.kill(t)
}

func TestClearChildrenSparesItsOwn(t *testing.T) {
	own := exec.Command("sleep", "1000")
	spared := exec.Command("sleep", "1000")
	for _, command := range []*exec.Cmd{own, spared} {
		if command == spared {
			command.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
	}
	// The shell's child is left to this process, in a session of its own.
	out, err := exec.Command("sh", "-c", `setsid sleep 1000 >/dev/null 2>&1 & echo $!`).Output()
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	for sid := 0; sid != orphan; { // until setsid has made its session
		if sid, err = unix.Getsid(orphan); err != nil {
			t.Fatal(err)
		}
	}
	if err := ClearChildren(t.Context(), spared.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if left := descendants(t, os.Getpid()); len(left) != 2 {
		t.Errorf("left: %+v", left)
	}
	for _, command := range []*exec.Cmd{own, spared} {
		if err := command.Process.Kill(); err != nil {
			t.Error(err)
		}
		if got := fmt.Sprint(command.Wait()); got != "signal: killed" {
			t.Error(got)
		}
	}
}

// standInInit reaps orphans beside children that it waits for itself, and says how it went.
func standInInit() int {
	if err := BecomeSubreaper(); err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	reaped := make(chan error, 1)
	go func() { reaped <- ReapOrphans(ctx) }()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := exec.Command("sh", "-c", `sh -c "exit 0" & (setsid true &); exit 7`).Run()
			if fmt.Sprint(err) != "exit status 7" {
				fmt.Println("process", i, err)
			}
		})
	}
	wg.Wait()
	for looks := 0; ; looks++ { // until all orphans are reaped, which makes this process childless
		pids, err := procs.Children(os.Getpid())
		if err != nil || looks > 200 {
			fmt.Println("zombies are left:", pids, err)
		}
		if err != nil || looks > 200 || len(pids) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // the kernel tells nobody that a zombie was reaped
	}
	cancel()
	if err := <-reaped; err != nil {
		fmt.Println(err)
	}
	fmt.Println("end")
	return 0
}

func TestReapOrphans(t *testing.T) {
	for name, prefix := range map[string][]string{
		"sub-reaper": {"env"},
		"process 1":  {"unshare", "--pid", "--fork", "--mount-proc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.Command(prefix[0], slices.Concat(prefix[1:], []string{"true"})...).CombinedOutput(); err != nil {
				t.Skipf("%s: %v: %s", prefix[0], err, out)
			}
			out, err := exec.Command(prefix[0], slices.Concat(prefix[1:], []string{os.Args[0], "stand-in-init"})...).CombinedOutput()
			if err != nil || string(out) != "end\n" {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
