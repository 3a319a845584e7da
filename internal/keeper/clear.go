package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/procs"
)

// clear kills all descendants until none is left. It still reports the ends of children: when the client closes in
// good order it wants them.
func (k *keeper) clear() {
	hurry()
	// No child means no descendant: the children of a dead child are ours.
	for pause := retryFirst; k.reap(); pause = min(2*pause, retryLast) {
		if table, err := procs.Read(); err == nil {
			kill(k.self, table.Below(k.self, nil))
		}
		select {
		case <-k.deaths:
		case <-time.After(pause):
		}
	}
}

// hurry puts this process before all ordinary ones: of a processor that hundreds of busy descendants share, each in
// a session and so in a scheduling group of its own, it would get next to nothing. Without the right to do so it goes
// on at the pace it has.
func hurry() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	first := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.SchedSetAttr(id, first, 0)
		}
	}
}

// kill sends SIGKILL to processes that are descendants of this one, outside its session. A process that has got it
// runs no more code of its own, so nothing needs to be stopped first where all descendants are meant. Groups first:
// a signal to a group cannot be escaped by forking.
func kill(self int, victims []procs.Proc) {
	ownGroup := unix.Getpgrp()
	groups := make(map[int]bool)
	for _, p := range victims {
		// Group 1 would be "every process" to kill(2).
		if p.Group > 1 && p.Group != ownGroup && !groups[p.Group] {
			groups[p.Group] = true
			_ = unix.Kill(-p.Group, unix.SIGKILL) // gone, or not permitted: the next look shows it
		}
	}
	for _, p := range victims {
		if p.Parent == self {
			_ = unix.Kill(p.PID, unix.SIGKILL) // not reaped, so the number is still its own
		} else {
			_ = procs.Signal(p.ID, unix.SIGKILL)
		}
	}
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
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		table, err := procs.Read()
		if err != nil {
			return fmt.Errorf("clear children: %w", err)
		}
		victims := table.Below(self, kept)
		if len(victims) == 0 {
			return nil
		}
		kill(self, victims)
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
