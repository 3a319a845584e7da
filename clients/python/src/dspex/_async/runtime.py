"""What asyncio gives; `_sync.runtime` has the same names for threads."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.cancel import CancelToken

sleep = asyncio.sleep


async def run_blocking(function: Callable[..., Any], *args: Any) -> Any:
    """Call what takes a while."""
    return await asyncio.to_thread(function, *args)


class Turn:
    """A lock that is waited for no longer than one likes. Whoever took it calls `leave`, in a `finally`."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.leave = self._lock.release

    async def take(self, taken: list[bool], seconds: float | None) -> None:
        """Append True to `taken` once it is held, False where it did not come free within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._lock.acquire()
                taken.append(True)
        except TimeoutError:
            taken.append(False)


class Beside:
    """Runs what is done beside the callers, each in a task that ends when its token is cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()  # else nothing would hold them

    def start(self, work: Callable[[], Coroutine[Any, Any, None]], token: CancelToken) -> None:
        task = asyncio.create_task(self._run(work, token))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Callable[[], Coroutine[Any, Any, None]], token: CancelToken) -> None:
        task = asyncio.current_task()
        assert task is not None
        with token.attached(task.cancel):
            await work()


async def invoke(function: Callable[..., Any], params: Any, asked: Any, token: CancelToken) -> Any:  # noqa: ARG001
    """Call an offered function; a plain one on a thread, since it may wait for something."""
    if inspect.iscoroutinefunction(function):
        return await function(params, asked)
    result = await asyncio.to_thread(function, params, asked)
    return await result if inspect.isawaitable(result) else result
