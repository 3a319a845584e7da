"""What one call grants its LM requests, and what they are counted in, wherever they are made."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from dspex_worker.calls import CallCancelled
from dspex_worker.dspy_app.history import History
from dspex_worker.dspy_app.usage import CallUsage
from dspex_worker.permits import Permits


class CallLimits:
    """One call's deadline, permits, usage and history; and its session, by which kept answers are told apart."""

    def __init__(
        self,
        ends: float | None,
        usage: CallUsage,
        *,
        permits: Permits | None = None,
        share: str = "",
        session: int | None = None,
        history: History | None = None,
    ) -> None:
        self.usage = usage
        self.permits = permits
        self.share = share  # whose turn its requests take
        self.session = session
        self.history = history
        self._ends = ends  # ``time.monotonic()`` at which the call's time is up
        self._loop = asyncio.get_running_loop()
        self._guard = threading.Lock()  # guards the three below
        self._requests: set[concurrent.futures.Future[Any]] = set()  # made by threads and not yet answered
        self._on_stop: set[Callable[[], None]] = set()
        self._stopped = False

    def left(self) -> float | None:
        """Seconds; None without a deadline."""
        return None if self._ends is None else self._ends - time.monotonic()

    def stop(self) -> None:
        """End the requests, and what else threads wait for, and let them make no more."""
        with self._guard:
            self._stopped = True
            requests, others = list(self._requests), list(self._on_stop)
        for request in requests:
            request.cancel()
        for other in others:
            other()

    def on_stop(self, end: Callable[[], None]) -> None:
        """Have ``stop`` call this, too, from another thread. Raises CallCancelled after it."""
        with self._guard:
            if self._stopped:
                raise CallCancelled
            self._on_stop.add(end)

    def off_stop(self, end: Callable[[], None]) -> None:
        with self._guard:
            self._on_stop.discard(end)

    def on_the_loop(self) -> bool:
        """Whether the loop's own thread asks, which cannot wait for the loop."""
        return asyncio._get_running_loop() is self._loop

    def request(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run an LM request on the loop for a thread, which waits for it. Raises CallCancelled after ``stop``."""
        with self._guard:
            if self._stopped:
                work.close()
                raise CallCancelled
            request = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._requests.add(request)
        try:
            return request.result()
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            raise CallCancelled from None
        finally:
            with self._guard:
                self._requests.discard(request)
