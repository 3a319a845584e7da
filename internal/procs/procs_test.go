package procs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStatTakesAnyName(t *testing.T) {
	for _, name := range []string{"sh", "a b", ") Z 1 1 1", "((", ")", "\n"} {
		line := fmt.Sprintf("42 (%s) T 7 8 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n", name)
		want := Proc{ID: ID{42, 12345}, Parent: 7, Group: 8, Session: 9, State: 'T'}
		if got, err := parseStat([]byte(line)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (sh) T 7 8 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n"))
	f.Add([]byte("42 (sh) T 7"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, line []byte) {
		if p, err := parseStat(line); err == nil && p.State == 0 {
			t.Errorf("%q: %+v", line, p)
		}
	})
}

func startSleep(t *testing.T) ID {
	t.Helper()
	command := exec.Command("sleep", "1000")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := command.Process.Kill(); err != nil {
			t.Error(err) // it has ended before: something signalled it
		}
		_ = command.Wait()
	})
	p, err := ReadOne(command.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p.ID
}

func TestReadShowsThisProcessAndItsChildren(t *testing.T) {
	child := startSleep(t)
	table, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	session, _ := unix.Getsid(0)
	self := table[os.Getpid()]
	if self.Parent != os.Getppid() || self.Group != unix.Getpgrp() || self.Session != session || self.Zombie() {
		t.Errorf("%+v", self)
	}
	below := table.Below(os.Getpid(), nil)
	if len(below) != 1 || below[0].ID != child {
		t.Errorf("below: %+v, want %+v", below, child)
	}
	for name, read := range map[string]func(int) ([]int, error){"files": Children, "table": childrenByTable} {
		if pids, err := read(os.Getpid()); err != nil || !slices.Equal(pids, []int{child.PID}) {
			t.Errorf("children by %s: %v, %v", name, pids, err)
		}
	}
}

func TestBelowGivesParentsFirstAndSkips(t *testing.T) {
	table := Table{}
	for pid, parent := range map[int]int{1: 0, 2: 1, 3: 2, 9: 3, 4: 9, 5: 1, 6: 5} {
		table[pid] = Proc{ID: ID{PID: pid}, Parent: parent}
	}
	numbers := func(found []Proc) (pids []int) {
		for _, p := range found {
			pids = append(pids, p.PID)
		}
		return pids
	}
	if got := numbers(table.Below(2, nil)); !slices.Equal(got, []int{3, 9, 4}) {
		t.Error(got)
	}
	if got := numbers(table.Below(1, func(p Proc) bool { return p.PID == 2 })); !slices.Equal(got, []int{5, 6}) {
		t.Error(got)
	}
}

// A signal for a process that had this number before does not reach the one that has it now.
func TestSignalMeansOneProcess(t *testing.T) {
	child := startSleep(t)
	earlier := ID{PID: child.PID, Started: child.Started - 1}
	for _, id := range []ID{earlier, {PID: 1 << 30}} {
		if err := Signal(id, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if err := Signal(child, unix.SIGSTOP); err != nil {
		t.Error(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(child.PID, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Errorf("%+v, %v", status, err) // with the first signal it would have been killed
	}
	if p, err := ReadOne(child.PID); err != nil || !p.Frozen() {
		t.Errorf("%+v, %v", p, err)
	}
}

// A process that computes and holds memory is seen to.
func TestReadUsage(t *testing.T) {
	before, err := ReadUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	held := make([]byte, 64<<20)
	for i := 0; i < len(held); i += os.Getpagesize() {
		held[i] = 1
	}
	for n := 0; ; n++ { // until a tick has been counted
		now, err := ReadUsage(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now.CPU > before.CPU {
			if grown := now.Resident - before.Resident; grown < 60<<20 {
				t.Errorf("resident memory grew by %d bytes of 64 MiB", grown)
			}
			if now.State != 'R' && now.State != 'S' {
				t.Errorf("state %q", now.State)
			}
			break
		}
		if n > 1_000_000 {
			t.Fatal("no CPU time is counted")
		}
	}
	runtime.KeepAlive(held)
	if _, err := ReadUsage(1 << 30); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a process that is not there: %v", err)
	}
}

func TestBlocks(t *testing.T) {
	for command, want := range map[string]bool{
		"sigmask({50}); ready": true, "sigmask({10}); ready": false, "sigmask({49, 51, 64}); ready": false, "sigmask(range(1, 65)); ready": true,
	} {
		program := "import signal, time; sigmask = lambda s: signal.pthread_sigmask(signal.SIG_BLOCK, s)\n" +
			strings.ReplaceAll(command, "ready", "print('ready', flush=True); time.sleep(1000)")
		c := exec.Command("python3", "-I", "-S", "-c", program)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		got, err := Blocks(c.Process.Pid, 50)
		_ = c.Process.Kill() // it sleeps
		_ = c.Wait()         // killed
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", command, got, err)
		}
	}
	if _, err := Blocks(1<<22+1, 50); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no such process: %v", err)
	}
}
