// Package procs reads the kernel's process table (/proc) and signals the processes found there without ever
// hitting another one that got the same number. It owns no process: starting, reaping and deciding whom to end is
// the keeper's.
package procs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ID names one process for good: a number is used again, a number with its start time is not.
type ID struct {
	PID     int
	Started int // clock ticks since boot
}

// Proc is one process as /proc/PID/stat shows it.
type Proc struct {
	ID
	Parent  int
	Group   int
	Session int
	State   byte // 'R', 'S', 'D', 'T' (stopped), 't' (traced), 'Z' (zombie), 'X' (dead), …
}

// Zombie says whether the process has ended and waits to be reaped.
func (p Proc) Zombie() bool { return p.State == 'Z' || p.State == 'X' }

// Frozen says whether the process can run no code of its own until it is continued. 'D' is counted: such a
// process is inside the kernel and takes its signals before it returns.
func (p Proc) Frozen() bool { return p.Zombie() || p.State == 'T' || p.State == 't' || p.State == 'D' }

// Table holds processes by number.
type Table map[int]Proc

// Read returns every process that this one may see. A process that lived throughout the reading is in the table;
// one that began or ended meanwhile may be or not.
func Read() (Table, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("process table: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("process table: %w", err)
	}
	table := make(Table, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := ReadOne(pid)
		if err == nil {
			table[pid] = p
		} else if !gone(err) {
			return nil, err
		}
	}
	return table, nil
}

// ReadOne returns one process, or an error that is unix.ENOENT or unix.ESRCH when there is none.
func ReadOne(pid int) (Proc, error) {
	var buffer [1024]byte // a stat line has at most 64 bytes of name and 50 numbers, the first of them short
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Proc{}, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buffer[:])
	if err != nil {
		return Proc{}, fmt.Errorf("%s: %w", path, err)
	}
	p, err := parseStat(buffer[:n])
	if err != nil {
		return Proc{}, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Usage is what a process takes.
type Usage struct {
	Resident int64         // bytes of memory, those that it shares with others included
	CPU      time.Duration // of all its threads since its start
	State    byte          // as in Proc
}

// userTick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every architecture that Go runs on.
const userTick = 10 * time.Millisecond

// ReadUsage returns what a process takes. Errors are as ReadOne's.
func ReadUsage(pid int) (Usage, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	line, err := os.ReadFile(path)
	if err != nil {
		return Usage{}, err
	}
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	const state, user, system, resident = 0, 11, 12, 21 // fields 3, 14, 15 and 24
	if len(fields) <= resident {
		return Usage{}, fmt.Errorf("%s: short stat line: %q", path, line)
	}
	var failed error
	number := func(i int) int64 {
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			failed = fmt.Errorf("%s: %w", path, err)
		}
		return n
	}
	return Usage{
		Resident: number(resident) * int64(os.Getpagesize()),
		CPU:      time.Duration(number(user)+number(system)) * userTick,
		State:    fields[state][0],
	}, failed
}

// Blocks says whether a process's main thread blocks a signal: it is held back, or taken by a thread that waits for it. Errors are as
// ReadOne's.
func Blocks(pid int, signal syscall.Signal) (bool, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/status"
	text, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	_, mask, _ := bytes.Cut(text, []byte("\nSigBlk:\t"))
	mask, _, _ = bytes.Cut(mask, []byte("\n"))
	blocked, err := strconv.ParseUint(string(mask), 16, 64)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return blocked>>(uint(signal)-1)&1 == 1, nil
}

// parseStat reads a line of proc(5) /proc/PID/stat. The name in it may hold spaces and parentheses, so the fields
// are counted from the last ')'.
func parseStat(line []byte) (Proc, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return Proc{}, fmt.Errorf("not a stat line: %q", line)
	}
	fields := bytes.Fields(line[end+1:])
	const state, parent, group, session, started = 0, 1, 2, 3, 19 // fields 3 to 6 and 22
	if len(fields) <= started || len(fields[state]) != 1 {
		return Proc{}, fmt.Errorf("short stat line: %q", line)
	}
	var failed error
	number := func(text []byte) int {
		n, err := strconv.Atoi(string(text))
		if err != nil {
			failed = fmt.Errorf("stat line: %w", err)
		}
		return n
	}
	p := Proc{
		ID:      ID{PID: number(bytes.TrimSpace(line[:open])), Started: number(fields[started])},
		Parent:  number(fields[parent]),
		Group:   number(fields[group]),
		Session: number(fields[session]),
		State:   fields[state][0],
	}
	return p, failed
}

// Below returns the descendants of a process, parents before their children. Where skip (which may be nil) is true
// for a process, it and what is below it are left out.
func (t Table) Below(root int, skip func(Proc) bool) []Proc {
	children := make(map[int][]int, len(t))
	for pid, p := range t {
		children[p.Parent] = append(children[p.Parent], pid)
	}
	var found []Proc
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		for _, pid := range children[queue[0]] {
			if p := t[pid]; skip == nil || !skip(p) {
				found = append(found, p)
				queue = append(queue, pid)
			}
		}
	}
	return found
}

// Children returns the numbers of a process's children, zombies among them. While children end some may be
// missing; those that are there are not.
func Children(pid int) ([]int, error) {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task"
	dir, err := os.Open(tasks)
	if err != nil {
		return nil, fmt.Errorf("children of process %d: %w", pid, err)
	}
	defer dir.Close()
	threads, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("children of process %d: %w", pid, err)
	}
	var pids []int
	for _, thread := range threads {
		text, err := os.ReadFile(tasks + "/" + thread + "/children")
		if err != nil {
			return childrenByTable(pid) // the thread has ended, or the kernel was built without these files
		}
		for field := range bytes.FieldsSeq(text) {
			child, err := strconv.Atoi(string(field))
			if err != nil {
				return nil, fmt.Errorf("children of process %d: %w", pid, err)
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

func childrenByTable(pid int) ([]int, error) {
	table, err := Read()
	if err != nil {
		return nil, err
	}
	var pids []int
	for child, p := range table {
		if p.Parent == pid {
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// Signal sends a signal to exactly this process: not to a later one of the same number. A process that is gone is
// not an error.
func Signal(id ID, signal syscall.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err == nil {
		defer unix.Close(fd)
	} else if gone(err) {
		return nil
	}
	now, readErr := ReadOne(id.PID)
	if readErr != nil && !gone(readErr) {
		return readErr
	}
	if readErr != nil || now.ID != id {
		return nil // gone, or its number belongs to another by now
	}
	if err == nil {
		err = unix.PidfdSendSignal(fd, signal, nil, 0)
	} else {
		err = unix.Kill(id.PID, signal) // no pidfd in this kernel or sandbox: the number was right a moment ago
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("signal %s to process %d: %w", unix.SignalName(signal), id.PID, err)
	}
	return nil
}

func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }
