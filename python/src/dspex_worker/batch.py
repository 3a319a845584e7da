"""One send for all that is answered in one go."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Flushable(Protocol):
    def flush(self) -> None:
        """Send what waits."""


class Batch:
    """Knows what has something to send, and has each send once, when what is being done on the loop is done.

    A batch is open while received frames are handled or results of threads are collected; outside of one, all that is
    written in one round of the loop goes out in the next.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Flushable] = []
        self._open = False
        self._due = False  # a flush is scheduled
        self._expected = False  # tasks were started, whose first steps come before the loop looks for input again

    def note(self, channel: Flushable) -> None:
        """Have the channel flushed; once for each flush."""
        self._waiting.append(channel)
        if not self._open:
            self._schedule()

    def expect(self) -> None:
        """Say that a task was started, which may answer in its first step."""
        self._expected = self._open

    def open(self) -> None:
        self._open = True

    def close(self) -> None:
        self._open = False
        self._flush()
        if self._expected:
            self._expected = False
            self._schedule()  # behind the tasks' first steps, and so in the same round

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._due = False
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            self._waiting.pop().flush()
