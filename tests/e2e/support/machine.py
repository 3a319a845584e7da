"""What the tests ask of the machine: processes and what they hold, and conditions to wait for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

WAIT = 30.0  # seconds after which what was waited for has failed; nothing takes so long when all is well

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, timeout: float = WAIT) -> T:
    """Wait until the condition gives something true, and return that."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.005)
    return found


class Process(NamedTuple):
    """A process: its pid may be given again, so when it was started belongs to it."""

    pid: int
    started: str
    command: str

    @property
    def lives(self) -> bool:
        fields = _stat(self.pid)
        return fields is not None and fields[0] not in "ZX" and fields[19] == self.started


def process(pid: int) -> Process:
    fields = _stat(pid)
    assert fields is not None, f"there is no process {pid}"
    return Process(pid, fields[19], _command(pid))


def family(root: int) -> set[Process]:
    """All processes that came from ``root`` and have not ended, without ``root`` itself."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))) and fields[0] not in "ZX":
            parents[int(entry.name)] = int(fields[1]), fields[19]
    found = {root}
    while more := {pid for pid, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    return {Process(pid, parents[pid][1], _command(pid)) for pid in found - {root}}


def descriptors(pid: int) -> dict[str, str]:
    """What each open descriptor of a process stands for."""
    found = {}
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            found[name] = os.readlink(f"{folder}/{name}")
        except FileNotFoundError:
            continue  # closed since
    return found


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processors so far."""
    fields = _stat(pid)
    assert fields is not None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
