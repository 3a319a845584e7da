package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/procs"
)

// clear kills all descendants until none is left. It still reports the ends of children: when the client closes in
// good order it wants them.
func (k *keeper) clear() {
	hurry(0) // nothing is started any more: new threads hurry, too
	k.hit = make(map[int]bool)
	told := make(toldToEnd)
	// No child means no descendant: the children of a dead child are ours.
	for pause := retryFirst; k.reap(); {
		for rounds := 0; rounds < 100 && k.killChildren(); rounds++ {
			k.reap()
		}
		if table, err := procs.Read(); err == nil {
			pause = nextPause(pause, told.kill(k.self, table.Below(k.self, nil), pause))
		}
		if !k.reapFor(pause) {
			return
		}
	}
}

// killChildren kills the children that it has not killed yet, and returns whether there were any. To list them takes a hundredth
// of the time that the process table takes: what forks and ends, and forks again, is hit before it is gone.
func (k *keeper) killChildren() (found bool) {
	pids, err := procs.Children(k.self)
	if err != nil {
		return false // the table shows them
	}
	for _, pid := range pids {
		if !k.hit[pid] {
			k.hit[pid], found = true, true
			_ = unix.Kill(pid, unix.SIGKILL) // not reaped, so the number is still its own
		}
	}
	return found
}

// reapFor reaps as children end, for a while, and kills those that come to it by that, without looking at the process table: of hundreds that
// were killed each would cost a look. It returns whether children are left.
func (k *keeper) reapFor(pause time.Duration) bool {
	over := time.NewTimer(pause)
	defer over.Stop()
	for {
		select {
		case <-over.C:
			return true
		case <-k.deaths:
			if !k.reap() {
				return false
			}
			k.killChildren()
		}
	}
}

// hurry puts this process before all ordinary ones: of a processor that hundreds of busy descendants share, each in a session and so
// in a scheduling group of its own, it would get next to nothing, and would not even learn in time that the sidecar is gone. Flags say
// what holds for processes and threads that it makes afterwards. Without the right to do so it goes on at the pace it has.
func hurry(flags uint64) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	first := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Flags: flags, Priority: 1}
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.SchedSetAttr(id, first, 0)
		}
	}
}

// makeThreads has the runtime make more threads than the keeper ever uses at once. It keeps them, and makes new ones only where
// none is idle: one made after hurry would be ordinary, and what it happens to do, such as to see that the sidecar is gone, would wait
// for its turn among the descendants.
func makeThreads() {
	const enough = 16
	var all sync.WaitGroup
	all.Add(enough)
	for range enough {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait() // each holds its thread until there are as many
		}()
	}
	all.Wait()
}

// toldToEnd holds the processes that have been sent SIGKILL: they run no more code of their own, but may take a while to go.
type toldToEnd map[procs.ID]bool

// killPatience is the pause from which on a process that was killed and is still there is killed once more: it may have been in a
// group of which the signal reached others only.
const killPatience = 16 * time.Millisecond

// kill sends SIGKILL to those of the processes, descendants of this one outside its session, that have not got it, and returns
// whether there were any. Nothing needs to be stopped first where all descendants are meant. Groups first: a signal to a group
// cannot be escaped by forking.
func (t toldToEnd) kill(self int, victims []procs.Proc, pause time.Duration) (found bool) {
	ownGroup := unix.Getpgrp()
	groups := make(map[int]bool) // whether the signal went out
	for _, p := range victims {
		if p.Zombie() || t[p.ID] && pause < killPatience {
			continue
		}
		again := t[p.ID]
		found = found || !again
		t[p.ID] = true
		// Group 1 would be "every process" to kill(2).
		if sent, known := groups[p.Group]; p.Group > 1 && p.Group != ownGroup && !again {
			if !known {
				sent = unix.Kill(-p.Group, unix.SIGKILL) == nil // else gone, or not permitted
				groups[p.Group] = sent
			}
			if sent {
				continue
			}
		}
		if p.Parent == self {
			_ = unix.Kill(p.PID, unix.SIGKILL) // not reaped, so the number is still its own
		} else {
			_ = procs.Signal(p.ID, unix.SIGKILL)
		}
	}
	return found
}

// nextPause is how long to wait before the next look: shortest while looks still find processes to kill.
func nextPause(pause time.Duration, found bool) time.Duration {
	if found {
		return retryFirst
	}
	return min(2*pause, retryLast)
}

// ClearChildren kills and reaps every child of this process with all descendants, until none is left or ctx ends:
// what the sidecar, a sub-reaper, has to do when its keeper died. Children in this process's own session, where
// os/exec puts them, are left alone with their descendants, and so are those in spare, such as another keeper.
func ClearChildren(ctx context.Context, spare ...int) error {
	self := os.Getpid()
	session, err := unix.Getsid(0)
	if err != nil {
		return fmt.Errorf("clear children: %w", err)
	}
	kept := func(p procs.Proc) bool {
		return p.Parent == self && (p.Session == session || slices.Contains(spare, p.PID))
	}
	told := make(toldToEnd)
	for pause := retryFirst; ; {
		table, err := procs.Read()
		if err != nil {
			return fmt.Errorf("clear children: %w", err)
		}
		victims := table.Below(self, kept)
		if len(victims) == 0 {
			return nil
		}
		pause = nextPause(pause, told.kill(self, victims, pause))
		for _, p := range victims {
			if p.Parent == self {
				reapOne(p.PID)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("clear children: %d processes are left: %w", len(victims), ctx.Err())
		case <-time.After(pause):
		}
	}
}

// orphanPatience is how long a zombie waits before ReapOrphans takes it for an orphan. Who starts a process waits
// for it, and has its status in far less time.
const orphanPatience = 5 * time.Second

// ReapOrphans reaps, until ctx ends, the zombies that came to this process because it is a sub-reaper or process 1.
// A status that some part of this process waits for is never taken: that zombie is gone at once, an orphan's stays.
func ReapOrphans(ctx context.Context) error {
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, unix.SIGCHLD)
	defer signal.Stop(deaths)
	self := os.Getpid()
	since := make(map[procs.ID]time.Time)
	var again <-chan time.Time // while zombies are there that may be orphans
	for {
		zombies, err := zombieChildren(self)
		if err != nil {
			return fmt.Errorf("reap orphans: %w", err)
		}
		now := time.Now()
		waiting := make(map[procs.ID]time.Time)
		for _, id := range zombies {
			first, seen := since[id]
			if !seen {
				first = now
			}
			if now.Sub(first) < orphanPatience {
				waiting[id] = first
			} else {
				reapOne(id.PID)
			}
		}
		since, again = waiting, nil
		if len(waiting) > 0 {
			again = time.After(orphanPatience / 4)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-deaths:
		case <-again:
		}
	}
}

func zombieChildren(self int) ([]procs.ID, error) {
	pids, err := procs.Children(self)
	if err != nil {
		return nil, err
	}
	var zombies []procs.ID
	for _, pid := range pids {
		if p, err := procs.ReadOne(pid); err == nil && p.Zombie() {
			zombies = append(zombies, p.ID)
		}
	}
	return zombies, nil
}

// reapOne collects one child's status if it has ended.
func reapOne(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
