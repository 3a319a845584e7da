"""Modules with a plain ``forward`` run on a thread, and end when their call is cancelled, as far as a thread can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from dspex_worker.calls import CallCancelled
from dspex_worker.interrupts import interrupt, take_back


async def run_in_thread(limiter: anyio.CapacityLimiter, function: Callable[[], Any], stop: Callable[[], None]) -> Any:
    """Return what ``function`` returns, run on a thread in a copy of this context.

    Cancelled, it calls ``stop`` to end what the thread may be waiting for, raises CallCancelled in the thread, and
    waits for it: until then the thread may still do something, and the call is not over.

    The threads are anyio's, since DSPy streams from no others.
    """
    run = _ThreadRun(function)
    task = asyncio.ensure_future(anyio.to_thread.run_sync(run, limiter=limiter))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        run.interrupt()
        stop()
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue  # a second cancel changes nothing
        if not task.cancelled():
            task.exception()  # it has been seen
        raise


class _ThreadRun:
    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._guard = threading.Lock()  # guards the two below: nothing is raised in a thread that does other work
        self._thread: int | None = None
        self._interrupted = False

    def interrupt(self) -> None:
        """Raise CallCancelled in the thread while it runs the function; keep it from beginning."""
        with self._guard:
            self._interrupted = True
            if self._thread is not None:
                interrupt(self._thread)

    def __call__(self) -> Any:
        """Run the function. On the thread."""
        try:
            with self._guard:
                if self._interrupted:
                    raise CallCancelled
                self._thread = threading.get_ident()
            try:
                return self._function()
            finally:
                self._leave()
        except CallCancelled:  # it may have arrived when the function had ended
            self._leave()
            raise
        except StopIteration as error:  # a future does not take it
            raise RuntimeError("the program raised StopIteration") from error

    def _leave(self) -> None:
        with self._guard:
            self._thread = None
            if self._interrupted:
                take_back()
