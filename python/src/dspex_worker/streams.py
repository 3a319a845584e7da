"""Credit: how far a stream may run ahead of its reader."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from dspex import wire

if TYPE_CHECKING:
    from dspex_worker.calls import Call, Port

_AHEAD = 256 << 10  # bytes that a thread may have produced and the loop not yet taken over


class Stream:
    """The credit of one stream. ``guard`` is the runtime's lock, held while a thread reads or changes any of this."""

    __slots__ = ("_ahead", "_credit", "_resumed", "_waiting", "stalled_since")

    def __init__(self, credit: int, guard: threading.Lock) -> None:
        self._credit = credit
        self._ahead = 0
        self._resumed = threading.Condition(guard)
        self._waiting: asyncio.Future[None] | None = None
        self.stalled_since: float | None = None  # time.monotonic() since when it waits for credit

    def grant(self, n: int) -> None:
        """Let n more items go. On the loop's thread, as all but the ``thread_`` methods."""
        with self._resumed:
            self._credit = min(self._credit + n, wire.MAX_CREDIT)
        self.resume()

    def resume(self) -> None:
        """Wake the producer, to see whether it may go on."""
        with self._resumed:
            self._resumed.notify_all()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def turn(self, port: Port) -> None:
        """Wait in a task until one item may be produced, and take its credit."""
        while not (self._credit and port.writable):
            self._note_stall()
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self.stalled_since = None
        self._credit -= 1

    def thread_turn(self, call: Call) -> bool:
        """Wait in a thread likewise. Returns False where the call was cancelled meanwhile."""
        with self._resumed:
            while call.cancelled_with is None:
                if self._credit and self._ahead < _AHEAD and call.port.writable:
                    self.stalled_since = None
                    self._credit -= 1
                    return True
                self._note_stall()
                thread, call.thread = call.thread, None  # nothing is raised in a thread that waits: it is woken
                self._resumed.wait()
                call.thread = thread
        return False

    def thread_made(self, size: int) -> None:
        """Note bytes that the thread hands over to the loop."""
        with self._resumed:
            self._ahead += size

    def taken(self, size: int) -> None:
        """Note that the loop took them over."""
        with self._resumed:
            self._ahead -= size
            self._resumed.notify_all()

    def _note_stall(self) -> None:
        if self._credit:
            self.stalled_since = None
        elif self.stalled_since is None:
            self.stalled_since = time.monotonic()
