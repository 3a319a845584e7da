"""What the C library's allocator does with the memory of large frames."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from time import monotonic

LARGE = 128 << 10  # bytes of a frame from which it counts as large: malloc's own limit, at first

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MAPPED = 4 << 20  # bytes of an allocation from which it is mapped for itself, and unmapped when it is freed
_KEPT = 16 << 20  # bytes that may be free at the heap's end
_IDLE = 1.0  # seconds without a large frame, after which nothing more is kept


def keep_freed() -> None:
    """Have malloc keep what it gets back for a while: else the kernel maps and zeroes each large frame's pages anew.

    Of the time that a call with 1 MiB each way takes in a worker, that is two thirds. Other C libraries than glibc have
    no such setting.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


class Kept:
    """Gives back to the kernel what large frames have left, once there are none any more. For the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def used(self) -> None:
        """Note a large frame."""
        self._last = monotonic()
        if self._timer is None:
            self._timer = self._loop.call_later(_IDLE, self._look)

    def _look(self) -> None:
        self._timer = None
        left = self._last + _IDLE - monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
            return
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
