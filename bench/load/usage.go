package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is what this process has used.
func processorTime() time.Duration { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }

// processes are ids of processes of the serving side.
type processes []int

func parseProcesses(ids string) (processes, error) {
	if ids == "" {
		return nil, nil
	}
	var found processes
	for id := range strings.SplitSeq(ids, ",") {
		pid, err := strconv.Atoi(id)
		if err != nil {
			return nil, fmt.Errorf("-processes: %w", err)
		}
		found = append(found, pid)
	}
	return found, nil
}

// processorTime is what they have used, threads that have ended included; those that have ended count nothing.
func (p processes) processorTime() time.Duration {
	var total time.Duration
	for _, pid := range p {
		total += clock(int32(^pid<<3 | 2)) //nolint:gosec // the clock of another process, see clock_getcpuclockid(3)
	}
	return total
}

func clock(id int32) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
