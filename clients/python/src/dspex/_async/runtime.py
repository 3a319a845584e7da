"""What asyncio gives; `_sync.runtime` has the same names for threads."""

from __future__ import annotations

import asyncio

sleep = asyncio.sleep


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
