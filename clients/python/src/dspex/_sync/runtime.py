"""What threads have; `_async.runtime` has the same names for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.cancel import CancelToken

sleep = time.sleep


def run_blocking(function: Callable[..., Any], *args: Any) -> Any:
    """Call what takes a while."""
    return function(*args)


class Turn:
    """A lock that is waited for no longer than one likes. Whoever took it calls `leave`, in a `finally`.

    It is no context manager: a KeyboardInterrupt may come between any two steps, and would leave one that is written in
    Python half entered or half left.
    """

    def __init__(self) -> None:
        lock = threading.Lock()
        self._acquire = lock.acquire
        self.leave = lock.release

    def take(self, taken: list[bool], seconds: float | None) -> None:
        """Append True to `taken` once it is held, False where it did not come free within `seconds`."""
        # In one step: no interrupt comes between taking the lock and noting it.
        taken.extend(map(self._acquire, [True], [-1 if seconds is None else seconds]))


class Beside:
    """Runs what is done beside the callers, each on a thread of its own, which does not keep the process alive."""

    def start(self, work: Callable[[], None], token: CancelToken) -> None:  # noqa: ARG002 - a thread cannot be cancelled
        threading.Thread(target=work, name="dspex-ask", daemon=True).start()


def invoke(function: Callable[..., Any], params: Any, asked: Any, token: CancelToken) -> Any:
    """Call an offered function; an async one on an event loop of its own, in which a cancel reaches it."""
    result = function(params, asked)
    return asyncio.run(_awaited(result, token)) if inspect.isawaitable(result) else result


async def _awaited(result: Awaitable[Any], token: CancelToken) -> Any:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def cancel() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(task.cancel)

    with token.attached(cancel):
        return await result
