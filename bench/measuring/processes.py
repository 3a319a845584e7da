"""What process trees use: processor time and memory."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULED = 2  # the kernel's CPUCLOCK_SCHED


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has ended
    return found


def processor_time(*pids: int) -> float:
    """Seconds that the trees' processes have used, threads that have ended included, to the nanosecond."""
    total = 0.0
    for pid in (one for root in pids for one in descendants(root)):
        try:
            total += time.clock_gettime(
                (~pid << 3) | _SCHEDULED
            )  # the clock of another process, see clock_getcpuclockid(3)
        except OSError:
            continue
    return total


def proportional(*pids: int) -> int:
    """Bytes that the trees hold, what is shared being divided among those who share it (PSS)."""
    total = 0
    for pid in (one for root in pids for one in descendants(root)):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total
