package keeper

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// family makes one process of each kind that could stay behind and prints "ready" when all are there.
const family = `
import os, signal, subprocess, sys, time

def stay(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(ready, b".")
    time.sleep(1000)

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

def grandchild(work):
    os.waitpid(child(lambda: child(work)), 0)

def own_session(work):
    os.setsid()
    work()

wait, ready = os.pipe()
child(lambda: stay("child"))
child(lambda: own_session(lambda: stay("own session")))
child(lambda: own_session(lambda: (child(lambda: stay("below own session")), stay("above"))))
child(lambda: (os.setpgid(0, 0), stay("own group")))
grandchild(lambda: stay("double fork"))
seen = b""
while len(seen) < 6:
    seen += os.read(wait, 100)
print("ready", flush=True)
`

func TestKillEndsTheWholeFamily(t *testing.T) {
	c, log := newClient(t)
	p := start(t, c, script(t, family+"time.sleep(1000)")...)
	p.line(t)
	if got := len(descendants(t, c.PID())); got != 7 {
		t.Fatalf("%d processes, want 7", got)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := log.cleared(t, p.PID()); got != 6 {
		t.Errorf("%d processes of the family killed, want 6", got)
	}
	if left := descendants(t, c.PID()); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// Of a process that ends by itself, what is in its session goes at once; what left the session and is nobody's
// child any more goes after a grace time, since it might be meant to be adopted.
func TestFamilyOfAnEndedProcessIsKilled(t *testing.T) {
	c, log := newClient(t)
	p := start(t, c, script(t, family+"sys.exit(9)")...)
	p.line(t)
	if got := p.Exit(); got.Code != 9 {
		t.Error(got)
	}
	if got := log.cleared(t, p.PID()); got != 3 {
		t.Errorf("%d left-over processes killed at once, want 3", got)
	}
	p.rest(t) // all have its output open
}

// A daemon is not one of its maker's family any more; it goes after the grace time although its maker lives on.
func TestDaemonIsKilled(t *testing.T) {
	c, _ := newClient(t)
	p := start(t, c, "sh", "-c", `(setsid env -i sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000 >/dev/null`)
	p.line(t)
	p.rest(t)
	select {
	case <-p.Done():
		t.Errorf("the process went too: %s", p.Exit())
	default:
	}
}

// What an ended process left behind in sessions of its own is gone within a second, unless the sidecar expects a process that it will adopt.
func TestWhatAnEndedProcessLeftIsSweptAway(t *testing.T) {
	const leaving = `(setsid env -i sh -c 'echo $$; exec sleep 1000' &); setsid env -i sleep 1000 & exec sleep 1000 >/dev/null`
	c, _ := newClient(t)
	p := start(t, c, "sh", "-c", leaving)
	p.line(t)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Exit()
	ended := time.Now()
	p.rest(t) // all have its output open
	if took := time.Since(ended); took > time.Second {
		t.Errorf("gone %s after the end of the process that had made them", took)
	}

	done := c.Expect()
	p = start(t, c, "sh", "-c", leaving)
	p.line(t)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Exit()
	ended = time.Now()
	p.rest(t)
	if took := time.Since(ended); took < sweepTime {
		t.Errorf("swept away after %s, although a process was expected", took)
	}
	done()
}

// zygote forks a process twice whenever it is told to by SIGUSR1, prints its number, and lives on.
const zygote = `
import os, signal, sys, time

def work():
    os.setsid()
    os.write(1, b"%d\n" % os.getpid())
    CODE

def fork(*_):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            work()
        os._exit(0)
    os.waitpid(pid, 0)

signal.signal(signal.SIGUSR1, fork)
print("ready", flush=True)
while True:
    time.sleep(1000)
`

func forkWorker(t *testing.T, p started) int {
	t.Helper()
	if err := p.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(p.line(t))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestAdoptedProcessOutlivesItsZygote(t *testing.T) {
	c, _ := newClient(t)
	z := start(t, c, script(t, strings.ReplaceAll(zygote, "CODE", "time.sleep(1000)"))...)
	z.line(t)
	pid := forkWorker(t, z)
	worker, err := c.Adopt(t.Context(), pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := z.Kill(); err != nil {
		t.Fatal(err)
	}
	<-z.Done()
	select {
	case <-worker.Done():
		t.Fatalf("ended with the zygote: %s", worker.Exit())
	default:
	}
	if err := worker.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-worker.Done()
	if _, err := c.Adopt(t.Context(), pid); err == nil {
		t.Error("adopted again")
	}
}

// The process between a zygote and its worker may still be there when the worker is to be killed.
func TestKillBeforeTheParentIsGone(t *testing.T) {
	c, _ := newClient(t)
	z := start(t, c, script(t, `
import os, time
if os.fork() == 0:
    print(os.getpid(), flush=True)
    if os.fork() == 0:
        os.setsid()
        print(os.getpid(), flush=True)
    time.sleep(1000)
time.sleep(1000)
`)...)
	between, err := strconv.Atoi(z.line(t))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(z.line(t))
	if err != nil {
		t.Fatal(err)
	}
	worker, err := c.Adopt(t.Context(), pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Kill(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
	if err := unix.Kill(between, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-worker.Done()
	select {
	case <-z.Done():
		t.Fatalf("the zygote ended: %s", z.Exit())
	default:
	}
}

func TestAdoptAfterTheEnd(t *testing.T) {
	c, _ := newClient(t)
	z := start(t, c, script(t, strings.ReplaceAll(zygote, "CODE", "os._exit(7)"))...)
	z.line(t)
	for range 20 {
		pid := forkWorker(t, z)
		waitGone(t, pid)
		worker, err := c.Adopt(t.Context(), pid)
		if err != nil {
			t.Fatal(err)
		}
		if got := worker.Exit(); got.Code != 7 {
			t.Error(got)
		}
	}
}

func TestAdoptRefusesStrangers(t *testing.T) {
	c, _ := newClient(t)
	p := start(t, c, "sleep", "1000")
	for _, pid := range []int{os.Getpid(), c.PID(), 1, p.PID(), 1 << 30} {
		if _, err := c.Adopt(t.Context(), pid); err == nil || !strings.Contains(err.Error(), strconv.Itoa(pid)) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
}
