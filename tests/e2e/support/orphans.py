"""What a command leaves running: its orphans come to this process while the context lasts."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.support import machine
from e2e.support.machine import until

_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def nothing_left_running() -> Iterator[None]:
    """Hold that at the end no process is left of those that were started meanwhile; end those that are."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    before = machine.family(os.getpid())
    try:
        yield
        until(lambda: not machine.family(os.getpid()) - before, "nothing is left running", 2.0)
    finally:
        for left in machine.family(os.getpid()) - before:
            os.kill(left.pid, signal.SIGKILL)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def files(root: Path) -> dict[Path, tuple[int, int]]:
    """Each file of the repository outside build/ and .git/, and when it was changed, and its size."""
    found = {}
    for folder, folders, names in os.walk(root):
        if Path(folder) == root:
            folders[:] = [name for name in folders if name not in ("build", ".git")]
        for name in names:
            path = Path(folder) / name
            try:
                told = path.lstat()
            except FileNotFoundError:
                continue
            found[path] = told.st_mtime_ns, told.st_size
    return found
