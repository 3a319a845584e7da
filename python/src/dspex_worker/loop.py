"""The loop that a worker runs on: asyncio's, with timers as fine as the kernel's."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import signal
import threading
from collections.abc import Coroutine
from typing import Any

from dspex_worker import heap

_FD_SETSIZE = 1024  # select(2) takes no descriptor from here on


def run(body: Coroutine[Any, Any, int]) -> int:
    """Run to the end on a loop of its own; return the exit code. Once in a process."""
    heap.keep_freed()
    forks = _Forks()
    os.register_at_fork(before=forks.before, after_in_parent=forks.in_parent, after_in_child=forks.in_child)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(FineSelector())) as runner:
        return runner.run(body)


class _Forks:
    """Gives processes that a method forks the usual signals.

    With the loop's handlers, and the descriptor that they write to, a signal to such a process would end the worker;
    `multiprocessing` ends its processes by SIGTERM. It is held back until they are gone.
    """

    def __init__(self) -> None:
        self._kept = threading.local()  # the mask of the thread that forks

    def before(self) -> None:
        self._kept.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

    def in_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._kept.mask)

    def in_child(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.in_parent()


class FineSelector(selectors.EpollSelector):
    """An epoll selector that waits to the microsecond.

    epoll_wait(2) counts in milliseconds, and Python rounds up: a sleep of 20 ms takes 20.8 in the median, and timers
    that fall into one millisecond all fire at its end, in one burst. An epoll descriptor can itself be waited for, and
    select(2) counts in microseconds.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0 and self.fileno() < _FD_SETSIZE:
            if not select.select([self], [], [], timeout)[0]:
                return []
            timeout = 0
        return super().select(timeout)
