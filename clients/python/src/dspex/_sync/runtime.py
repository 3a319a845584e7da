"""What threads have; `_async.runtime` has the same names for asyncio."""

from __future__ import annotations

import threading
import time

sleep = time.sleep


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
