// Package keeper starts the sidecar's child processes in a second process, so that none of them outlives the
// sidecar. Main is that process, the keeper: in a session of its own, a sub-reaper, nothing of the application in
// it. It starts children, reports how they end, ends whole process trees, and when the sidecar is gone (end of file
// on the control channel) kills all its descendants, and ends. Client is the sidecar's side of it, and ClearChildren
// and ReapOrphans are what the sidecar does itself. The package does not know what the children do, or when to start
// them again.
//
// Sub-reaping is what this rests on: a process whose parent ends becomes the keeper's child, whatever session it
// made for itself and however its environment looks, so "all descendants" misses none.
//
// # What belongs to a child
//
// A started child leads a session of its own. To it belong that session's processes, its descendants, and the
// sessions these made; they are killed when the child ends, and by Process.Kill. A process that left its child's
// session and whose parents ended (a daemon) becomes the keeper's child and can be told no more from that of another
// child: if the sidecar does not adopt it within orphanGrace, or within sweepGrace after some child's end, it is killed, unless the
// sidecar expects one to adopt. A child that is itself a sub-reaper
// (PR_SET_CHILD_SUBREAPER) keeps its daemons while it lives.
//
// # What the sidecar does
//
// It starts every process by its Client. When Client.Lost is closed, the keeper has died, the client has killed what
// the keeper left, and every Process is done: the sidecar calls Start again. ReapOrphans runs as long as the sidecar:
// as process 1 of a container it is the parent of strangers too.
package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/packet"
	"github.com/dspex/dspex-sidecar/internal/procs"
)

// Subcommand is the hidden argument that makes the sidecar's binary call Main.
const Subcommand = "keeper"

// controlFile is the number of the descriptor that the control channel comes in.
const controlFile = 3

// Main is the keeper process, started by Start with the control channel as descriptor 3. It returns the exit code:
// 0 after the sidecar is gone and no descendant is left, 1 when it cannot do its work, 2 when it was not started by
// Start.
func Main() int {
	runtime.GOMAXPROCS(1) // it waits, nearly always
	debug.SetGCPercent(25)
	held := holdSignals()
	defer signal.Stop(held)
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, unix.SIGCHLD)
	defer signal.Stop(deaths)

	control, err := packet.Take(os.NewFile(controlFile, "control"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s is a command that only the sidecar itself starts: %v\n", Subcommand, err)
		return 2
	}
	defer func() { _ = control.Close() }() // closed by the sidecar, mostly
	k, err := newKeeper(control, deaths)
	if err != nil {
		fmt.Fprintf(os.Stderr, "keeper: %v\n", err)
		return 1
	}
	defer k.null.Close()
	makeThreads()
	hurry(unix.SCHED_FLAG_RESET_ON_FORK) // what it starts is ordinary
	k.run()
	return 0
}

// holdSignals keeps signals that a terminal or a service manager sends to everybody from ending or stopping the
// keeper: when to end is the sidecar's decision. They are received and dropped, not ignored, since children would
// inherit that.
func holdSignals() chan os.Signal {
	unignore(34)
	held := make(chan os.Signal, 1)
	signal.Notify(held, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGALRM, unix.SIGPIPE, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	return held
}

// unignore gives a signal its default effect. Go's runtime puts handlers where signals were ignored, which exec resets, but
// leaves out 34, the first of the real-time signals: that would stay ignored in children.
func unignore(signal uintptr) {
	var fallback [4]uint64 // the kernel's struct sigaction: handler, flags, restorer, mask
	//nolint:gosec // what the call takes: a pointer that is used within it
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&fallback)), 0, 8, 0, 0)
}

// closeInherited marks every descriptor but the standard ones to be closed on exec: what leaked into the sidecar from
// whoever started it goes no further.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("open descriptors: %w", err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func newKeeper(control *packet.Socket, deaths <-chan os.Signal) (*keeper, error) {
	if err := closeInherited(); err != nil {
		return nil, err
	}
	if err := BecomeSubreaper(); err != nil {
		return nil, err
	}
	if err := os.Chdir("/"); err != nil { // holds no file system that someone wants to unmount
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &keeper{
		control:  control,
		deaths:   deaths,
		null:     null,
		self:     os.Getpid(),
		children: make(map[int]bool),
		trees:    make(map[int]*tree),
		orphans:  make(map[procs.ID]time.Time),
	}, nil
}

// BecomeSubreaper makes this process the new parent of every descendant whose parent ends. Start calls it, so that
// the keeper's children come to the sidecar if the keeper dies.
func BecomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become sub-reaper: %w", err)
	}
	return nil
}

// Timing of the keeper.
const (
	// orphanGrace is how long a process may stay that is the keeper's child, in no living child's session, and
	// adopted by nobody.
	orphanGrace = 3 * time.Second
	// patrolInterval is how often such processes are looked for: the kernel does not tell of them.
	patrolInterval = time.Second
	// For sweepTime after a child's end, what it may have left behind in sessions of its own is looked for every sweepInterval, and
	// stays for sweepGrace alone, unless a process is expected that will be adopted.
	sweepTime     = time.Second
	sweepInterval = 50 * time.Millisecond
	sweepGrace    = 150 * time.Millisecond
	// A tree that was killed and is still there is looked at again after retryFirst, then ever later up to retryLast:
	// a process in an uninterruptible wait ends when the kernel lets it.
	retryFirst = time.Millisecond
	retryLast  = 200 * time.Millisecond
	// maxUnclaimed bounds the exits kept for processes that are adopted only after they ended.
	maxUnclaimed = 256
)

// keeper is the state of the keeper process. All of it belongs to the goroutine that runs run.
type keeper struct {
	control   *packet.Socket
	deaths    <-chan os.Signal // SIGCHLD
	null      *os.File
	self      int
	children  map[int]bool // started or adopted, not yet reaped
	unclaimed []exitedNotice
	trees     map[int]*tree          // being ended, by the number of their root
	orphans   map[procs.ID]time.Time // when the patrol first saw them
	expected  int                    // processes that are about to be forked and adopted
	sweepEnds time.Time
	hit       map[int]bool // at the end: children that have been killed and not yet reaped
}

// request is a message from the sidecar with its descriptors, or what was wrong with it.
type request struct {
	message *message
	files   []int
	err     error
}

// run serves the sidecar until it is gone, then kills all descendants.
func (k *keeper) run() {
	requests := make(chan request)
	go k.readRequests(requests) // ends at end of file, which ends this loop too
	k.send(&message{Ready: &readyNotice{}})
	patrol := time.NewTimer(patrolInterval)
	defer patrol.Stop()
	retry := time.NewTimer(retryLast)
	defer retry.Stop()
	pause := retryFirst
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				k.clear()
				return
			}
			k.handle(r)
		case <-k.deaths:
			pause = retryFirst
		case <-retry.C:
			pause = min(2*pause, retryLast)
		case <-patrol.C:
			k.patrol()
			patrol.Reset(k.untilPatrol())
		}
		swept := k.sweepEnds
		k.reap()
		if k.sweepEnds != swept { // a child has ended
			k.patrol()
			patrol.Reset(k.untilPatrol())
		}
		k.endTrees()
		if len(k.trees) > 0 {
			retry.Reset(pause)
		}
	}
}

func (k *keeper) readRequests(requests chan<- request) {
	defer close(requests)
	for {
		var m message
		files, err := k.control.Receive(&m)
		if unusable := (*packet.PacketError)(nil); err != nil && !errors.As(err, &unusable) {
			return // the sidecar is gone, or its channel is, which is the same
		}
		requests <- request{message: &m, files: files, err: err}
	}
}

func (k *keeper) handle(r request) {
	defer packet.CloseFiles(r.files)
	m := r.message
	switch {
	case r.err != nil && m.ID != 0:
		k.answer(m.ID, answer{Reason: r.err.Error(), Errno: int(unix.EMFILE)})
	case r.err != nil:
		k.trouble(r.err)
	case m.Start != nil:
		a := k.start(m.Start, r.files)
		if a.PID != 0 {
			k.children[a.PID] = true
			delete(k.trees, a.PID) // a number is given again only when nothing of its old session is left
		}
		k.answer(m.ID, a)
	case m.Adopt != nil:
		k.adopt(m.ID, m.Adopt.PID)
	case m.Expect != nil:
		k.expected += m.Expect.More
	case m.Signal != nil:
		if pid := m.Signal.PID; k.children[pid] { // not reaped, so the number is still its own
			if err := unix.Kill(pid, syscall.Signal(m.Signal.Signal)); err != nil && !errors.Is(err, unix.ESRCH) {
				k.trouble(fmt.Errorf("signal %d to process %d: %w", m.Signal.Signal, pid, err))
			}
		}
	case m.Kill != nil:
		if k.children[m.Kill.PID] {
			k.endTree(m.Kill.PID)
		}
	}
}

// adopt claims a descendant, alive or already ended and reaped as unknown.
func (k *keeper) adopt(id uint64, pid int) {
	k.reap() // what has ended by now is in unclaimed
	table, err := procs.Read()
	if err != nil {
		k.answer(id, answer{Reason: err.Error(), Errno: int(unix.EIO)})
		return
	}
	below := func(p procs.Proc) bool { return p.PID == pid }
	if !k.children[pid] && slices.ContainsFunc(table.Below(k.self, nil), below) {
		k.children[pid] = true
		k.answer(id, answer{PID: pid})
		return
	}
	for i, exited := range slices.Backward(k.unclaimed) {
		if exited.PID == pid {
			k.unclaimed = slices.Delete(k.unclaimed, i, i+1)
			k.answer(id, answer{PID: pid})
			k.send(&message{Exited: &exited})
			k.endTree(pid)
			return
		}
	}
	k.answer(id, answer{
		Reason: fmt.Sprintf("cannot adopt process %d: no descendant of the keeper has this number", pid),
		Errno:  int(unix.ECHILD),
	})
}

// reap collects every child that has ended: those of the sidecar are reported, orphans remembered for a while.
// Waiting for any child is right here and only here: nothing else in this process waits, and a child is in children
// before this runs again. It returns whether children are left.
func (k *keeper) reap() bool {
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, &usage)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return err == nil // else ECHILD
		}
		delete(k.hit, pid)
		exited := exitedNotice{PID: pid, MaxRSS: usage.Maxrss << 10}
		if status.Signaled() {
			exited.Signal, exited.Core = int(status.Signal()), status.CoreDump()
		} else {
			exited.Code = status.ExitStatus()
		}
		if k.children[pid] {
			delete(k.children, pid)
			k.send(&message{Exited: &exited})
			k.endTree(pid)
			k.sweepEnds = time.Now().Add(sweepTime)
			continue
		}
		if len(k.unclaimed) == maxUnclaimed {
			k.unclaimed = slices.Delete(k.unclaimed, 0, 1)
		}
		k.unclaimed = append(k.unclaimed, exited)
	}
}

func (k *keeper) answer(id uint64, a answer) { k.send(&message{ID: id, Answer: &a}) }

func (k *keeper) trouble(err error) { k.send(&message{Trouble: &troubleNotice{Text: err.Error()}}) }

// send waits as long as a stopped sidecar takes to go on. After an error no further status could be relied on, so
// the keeper ends as if the sidecar were gone, which nearly always is the error.
func (k *keeper) send(m *message) {
	if err := k.control.Send(m); err != nil {
		_ = k.control.CloseRead() // ends readRequests; an error here means that it has ended
	}
}
