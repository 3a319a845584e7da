package keeper

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// ExitStatus is how a process ended.
type ExitStatus struct {
	Code   int            // exit code, where Signal is 0
	Signal syscall.Signal // the signal that ended it, or 0
	Core   bool           // the kernel dumped its core
	MaxRSS int64          // most memory that it held, bytes
	Killed bool           // Process.Kill was called, or the client closed, before it ended
	Lost   bool           // the keeper ended first: how the process ended is not known, but it is gone
}

// String says what happened and, for a signal, the likely reason.
func (s ExitStatus) String() string {
	switch {
	case s.Lost:
		return "ended with the keeper, exit status unknown"
	case s.Signal == 0:
		return fmt.Sprintf("exit code %d", s.Code)
	}
	reason := likelyReason(s.Signal)
	if s.Killed && s.Signal == unix.SIGKILL {
		reason = "by the sidecar"
	}
	if s.Core {
		reason += ", core dumped"
	}
	name := unix.SignalName(s.Signal)
	if name == "" {
		name = fmt.Sprintf("signal %d", int(s.Signal))
	}
	return fmt.Sprintf("killed by %s (%s)", name, reason)
}

func likelyReason(signal syscall.Signal) string {
	switch signal {
	case unix.SIGKILL:
		return "out of memory killer or kill -9"
	case unix.SIGSEGV:
		return "invalid memory access, often in an extension module"
	case unix.SIGBUS:
		return "memory that could not be had: a full /dev/shm or a truncated mapped file"
	case unix.SIGABRT:
		return "it aborted itself: a failed assertion or corrupted memory"
	case unix.SIGILL:
		return "an instruction that this processor lacks, or corrupted code"
	case unix.SIGFPE:
		return "arithmetic error"
	case unix.SIGSYS:
		return "a system call that the sandbox forbids"
	case unix.SIGXCPU:
		return "limit on processor time"
	case unix.SIGXFSZ:
		return "limit on file size"
	case unix.SIGPIPE:
		return "wrote to a pipe or socket that nobody reads"
	default:
		return "sent by another process or by itself"
	}
}
