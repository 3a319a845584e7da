"""The loop that a worker runs on: asyncio's, with timers as fine as the kernel's."""

from __future__ import annotations

import asyncio
import select
import selectors
from collections.abc import Coroutine
from typing import Any

_FD_SETSIZE = 1024  # select(2) takes no descriptor from here on


def run(body: Coroutine[Any, Any, int]) -> int:
    """Run to the end on a loop of its own; return the exit code."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(FineSelector())) as runner:
        return runner.run(body)


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
