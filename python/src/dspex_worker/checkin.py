"""What a call leaves behind on the loop: the tasks that it started and the async generators that it began.

Both are known by the context they were made in, which carries the call.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import weakref
from collections.abc import AsyncGenerator, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from dspex.errors import ProgramError

from dspex_worker.calls import ENDED, Call, current

if TYPE_CHECKING:
    from dspex_worker.app import App

log = logging.getLogger("dspex_worker")


class Tracking:
    """Notes tasks and async generators with the call that makes them. Made while the loop runs, on its thread."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop) -> None:
        self._kept = app.kept_tasks
        self._loop = loop
        self._nothing = Context()
        self._before = sys.get_asyncgen_hooks()
        loop.set_task_factory(self._make_task)
        sys.set_asyncgen_hooks(firstiter=self._generator_began, finalizer=self._generator_lost)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
        call = current.get(None) if context is None else context.get(current)
        if call is None or getattr(coroutine, "__qualname__", "") in self._kept:
            return task
        if call.state == ENDED:
            log.warning("%r has ended, but what it left behind started a task: cancelled: %s", call, _name(task))
            task.cancel()
            return task
        if call.tasks is None:
            call.tasks = set()
        call.tasks.add(task)
        task.add_done_callback(call.tasks.discard)
        return task

    def _generator_began(self, generator: AsyncGenerator[Any, Any]) -> None:
        call = current.get(None)
        if call is not None:
            if call.generators is None:
                call.generators = weakref.WeakSet()
            call.generators.add(generator)
        if self._before.firstiter is not None:
            self._before.firstiter(generator)

    def _generator_lost(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Close a generator that nothing refers to any more, as asyncio does, but not as a task of the call."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close, generator, context=self._nothing)

    def _close(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._loop.create_task(_aclose(generator))


async def check_in(call: Call, grace: float) -> ProgramError | None:
    """End what the call left behind, waiting at most ``grace`` seconds for it.

    Returns the error that a call is answered with for leaving tasks running, None where it left none.
    """
    deadline = asyncio.get_running_loop().time() + grace
    names: list[str] = []
    while left := [task for task in call.tasks or () if not task.done()]:
        names += [_name(task) for task in left]
        for task in left:
            task.cancel()
        _, running = await asyncio.wait(left, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if running:
            log.error("%r: tasks go on although they were cancelled: %s", call, ", ".join(map(_name, running)))
            break
    for generator in list(call.generators or ()):
        if getattr(generator, "ag_frame", None) is not None and not getattr(generator, "ag_running", False):
            await _aclose(generator)
    if not names:
        return None
    log.error("%r left tasks running, which were cancelled: %s", call, ", ".join(names))
    return ProgramError(
        f"the call returned while tasks that it had started were running: {', '.join(names[:5])}; "
        "wait for them, or start them with app.background",
        details={"type": "TasksLeftRunning", "tasks": names[:20]},
    )


async def _aclose(generator: AsyncGenerator[Any, Any]) -> None:
    try:
        await generator.aclose()
    except Exception:
        log.exception("closing the async generator %s failed", getattr(generator, "__qualname__", generator))


def _name(task: asyncio.Task[Any]) -> str:
    coroutine: Coroutine[Any, Any, Any] | Any = task.get_coro()
    return f"{getattr(coroutine, '__qualname__', coroutine)} ({task.get_name()})"
