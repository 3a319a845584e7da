package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestExitStatus(t *testing.T) {
	c, _ := newClient(t)
	for command, want := range map[string]string{
		"exit 0":         "exit code 0",
		"exit 3":         "exit code 3",
		"kill -KILL $$":  "killed by SIGKILL (out of memory killer or kill -9)",
		"kill -TERM $$":  "killed by SIGTERM (sent by another process or by itself)",
		"kill -ABRT $$":  "killed by SIGABRT (it aborted itself: a failed assertion or corrupted memory)",
		"kill -RTMIN $$": "killed by signal 34 (sent by another process or by itself)",
	} {
		p := start(t, c, "bash", "-c", "ulimit -c 0; "+command)
		if got := p.Exit().String(); got != want {
			t.Errorf("%s: %s, want %s", command, got, want)
		}
		if rss := p.Exit().MaxRSS; rss < 100<<10 || rss > 100<<20 {
			t.Errorf("%s: %d bytes of memory", command, rss)
		}
		if err := p.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the end: %v", err)
		}
	}
}

func TestStartErrorsSayWhy(t *testing.T) {
	c, _ := newClient(t)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct {
		spec Spec
		want string // with DIR for the directory
		is   error
	}{
		"missing":     {Spec{Argv: []string{dir + "/no"}}, "cannot start DIR/no: no such file", fs.ErrNotExist},
		"not in PATH": {Spec{Argv: []string{"no"}, Env: []string{"PATH=/bin"}}, "cannot start no: no such program in the PATH", fs.ErrNotExist},
		"no PATH":     {Spec{Argv: []string{"sh"}}, "cannot start sh: no such program in the PATH", fs.ErrNotExist},
		"directory":   {Spec{Argv: []string{dir}}, "cannot start DIR: is a directory", fs.ErrPermission},
		"mode":        {Spec{Argv: []string{write("mode", "#!/bin/sh\n", 0o600)}}, "cannot start DIR/mode: permission denied", fs.ErrPermission},
		"interpreter": {Spec{Argv: []string{write("int", "#!/no/python\n", 0o700)}}, "cannot start DIR/int: the file is there, but not its interpreter", fs.ErrNotExist},
		"format":      {Spec{Argv: []string{write("format", "x", 0o700)}}, "cannot start DIR/format: not a program", unix.ENOEXEC},
		"no dir":      {Spec{Argv: []string{"/bin/sh"}, Dir: dir + "/no"}, "cannot start DIR/no: the working directory cannot be entered: no such file", fs.ErrNotExist},
		"file as dir": {Spec{Argv: []string{"/bin/sh"}, Dir: dir + "/mode"}, "cannot start DIR/mode: the working directory is no directory", unix.ENOTDIR},
		"no argv":     {Spec{}, "no program is named", unix.EINVAL},
		"too long":    {Spec{Argv: []string{"/bin/sh", strings.Repeat("x", 128<<10)}}, "shorten the arguments or the environment", nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.StartProcess(t.Context(), test.spec)
			if err == nil {
				t.Fatal("started")
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); !strings.Contains(got, test.want) {
				t.Errorf("%s\nwant %s", got, test.want)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v is not %v", err, test.is)
			}
		})
	}
	if p := start(t, c, "sh", "-c", "exit 4"); p.Exit().Code != 4 {
		t.Errorf("after the errors: %s", p.Exit())
	}
}

func TestLongestMessagePasses(t *testing.T) {
	c, _ := newClient(t)
	var env []string
	for i := range 13 {
		env = append(env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 10_000)))
	}
	read, write := pipe(t)
	p, err := c.StartProcess(t.Context(), Spec{Argv: []string{"/bin/sh", "-c", "echo ${#V12}; pwd"}, Env: env, Dir: "/usr", Stdout: write})
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	buffer := make([]byte, 100)
	n, _ := read.Read(buffer)
	if got := string(buffer[:n]); !strings.HasPrefix(got, "10000\n") || p.Exit().Code != 0 {
		t.Errorf("%q, %s", got, p.Exit())
	}
}

func TestSignalReachesTheProcessAlone(t *testing.T) {
	c, _ := newClient(t)
	p := start(t, c, "sh", "-c", `trap 'echo got; exit 5' USR1; sh -c 'trap "" TERM; echo ready; sleep 1000' & wait`)
	p.line(t)
	if err := p.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := p.line(t); got != "got" {
		t.Error(got)
	}
	if got := p.Exit(); got.Code != 5 || got.Killed {
		t.Error(got)
	}
	p.rest(t) // the child that ignores SIGTERM is killed too, else its output stays open
}

func TestKillEndsWhatIgnoresSIGTERM(t *testing.T) {
	c, _ := newClient(t)
	p := start(t, c, "sh", "-c", `trap "" TERM; echo ready; while :; do sleep 1000; done`)
	p.line(t)
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := p.Exit().String(); got != "killed by SIGKILL (by the sidecar)" {
		t.Error(got)
	}
}

// A process has the descriptors it was given and no others, and its own session.
func TestDescriptors(t *testing.T) {
	c, _ := newClient(t)
	third, fourth := pipe(t)
	read, write := pipe(t)
	p, err := c.StartProcess(t.Context(), Spec{
		Argv: script(t, `
import os
for fd in range(1000):
    try:
        print(fd, os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        pass
print("leader", os.getsid(0) == os.getpid() == os.getpgrp())
`),
		Env:    []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")},
		Stdout: write,
		Files:  []*os.File{third, fourth, third},
	})
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	link := func(f *os.File) string {
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		return target
	}
	got := started{p, bufio.NewReader(read)}.rest(t)
	want := fmt.Sprintf("0 /dev/null\n1 %s\n2 /dev/null\n3 %s\n4 %s\n5 %s\nleader True\n",
		link(read), link(third), link(fourth), link(third))
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestKeeperIgnoresTheTerminalsSignals(t *testing.T) {
	c, _ := newClient(t)
	for _, signal := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTOU} {
		if err := unix.Kill(c.PID(), signal); err != nil {
			t.Fatal(err)
		}
	}
	if p := start(t, c, "true"); p.Exit().Code != 0 {
		t.Error(p.Exit())
	}
	if session, err := unix.Getsid(c.PID()); err != nil || session != c.PID() {
		t.Errorf("session %d, %v", session, err)
	}
}

// Whoever waits for a start may give up; the process is not left running then.
func TestCancelledStartLeavesNoProcess(t *testing.T) {
	c, _ := newClient(t)
	if err := unix.Kill(c.PID(), unix.SIGSTOP); err != nil { // so that the answer cannot come first
		t.Fatal(err)
	}
	read, write := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := c.StartProcess(ctx, Spec{Argv: []string{"/bin/sleep", "1000"}, Stdout: write})
		failed <- err
	}()
	for c.requests() == 0 { // until it waits for its answer
		select {
		case err := <-failed:
			t.Fatal(err)
		default:
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	write.Close()
	if err := unix.Kill(c.PID(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	started{nil, bufio.NewReader(read)}.rest(t) // ends with the process
	if _, err := c.StartProcess(ctx, Spec{Argv: []string{"/bin/true"}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func (c *Client) requests() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

func TestThousandQuickProcesses(t *testing.T) {
	c, _ := newClient(t)
	const starters, each = 8, 125
	var wg sync.WaitGroup
	for s := range starters {
		wg.Go(func() {
			for i := range each {
				want := (s*each + i) % 200
				p, err := c.StartProcess(t.Context(), Spec{Argv: []string{"/bin/sh", "-c", fmt.Sprintf("exit %d", want)}})
				if err != nil {
					t.Error(err)
					return
				}
				if got := p.Exit(); got.Code != want || got.Signal != 0 || got.Lost {
					t.Errorf("%s, want code %d", got, want)
				}
			}
		})
	}
	wg.Wait()
	if left := descendants(t, c.PID()); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	c, _ := newClient(t)
	p := start(t, c, "sh", "-c", `trap "" TERM HUP; setsid sleep 1000 & echo ready; sleep 1000`)
	p.line(t)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	p.rest(t)
	if got := p.Exit().String(); got != "killed by SIGKILL (by the sidecar)" {
		t.Error(got)
	}
	if _, err := c.StartProcess(t.Context(), Spec{Argv: []string{"/bin/true"}}); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	select {
	case <-c.Lost():
		t.Error("lost")
	default:
	}
}

func TestStartOfWhatIsNoKeeper(t *testing.T) {
	for path, want := range map[string]string{
		"/no/keeper": "no such file",
		"/bin/false": "it ended at once",
	} {
		if _, err := Start(Config{Path: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A keeper that does nothing any more is ended by force, and what it had with it.
func TestCloseOfAStoppedKeeper(t *testing.T) {
	c, _ := newClient(t)
	p := start(t, c, "sh", "-c", `setsid sleep 1000 & echo ready; sleep 1000`)
	p.line(t)
	if err := unix.Kill(c.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err == nil || !strings.Contains(err.Error(), "did not end within") {
		t.Error(err)
	}
	p.rest(t)
	if got := p.Exit(); !got.Lost {
		t.Error(got)
	}
}

func TestKeeperKilled(t *testing.T) {
	c, _ := newClient(t)
	p := start(t, c, "sh", "-c", `trap "" TERM HUP; setsid env -i sleep 1000 & (setsid sleep 1000 &); echo ready; sleep 1000`)
	p.line(t)
	if err := unix.Kill(c.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Lost()
	if got := p.Exit().String(); got != "ended with the keeper, exit status unknown" {
		t.Error(got)
	}
	if left := descendants(t, os.Getpid()); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	if _, err := c.StartProcess(t.Context(), Spec{Argv: []string{"/bin/true"}}); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	again, err := Start(Config{}) // as the sidecar does
	if err != nil {
		t.Fatal(err)
	}
	if p := start(t, again, "true"); p.Exit().Code != 0 {
		t.Error(p.Exit())
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// Who hears that the keeper is lost may start the next one, whose life is its own: nothing of the old one is left to be done.
func TestLostIsSaidWhenAllIsSettled(t *testing.T) {
	c, _ := newClient(t)
	p := start(t, c, "sh", "-c", `trap "" TERM; for i in 1 2 3 4 5 6 7 8; do setsid sleep 1000 & done; echo ready; wait`)
	p.line(t)
	if err := unix.Kill(c.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		short, err := c.StartProcess(t.Context(), Spec{Argv: []string{"/bin/true"}})
		if err == nil { // it was still there
			<-short.Done()
			continue
		}
		if !errors.Is(err, ErrLost) {
			t.Fatal(err)
		}
		break
	}
	select {
	case <-c.Lost():
	default:
		t.Error("the end is not known")
	}
	if left := descendants(t, os.Getpid()); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}
