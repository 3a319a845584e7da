"""Cancelling a call from elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CancelToken:
    """Cancels the calls that it was given to, from any thread: they raise Cancelled.

    token = CancelToken()
    threading.Timer(5.0, token.cancel).start()
    client.call("long", cancel=token)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._hooks: list[Callable[[], object]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancel the calls in flight, and each that is made with this token later."""
        with self._lock:
            self._cancelled = True
            hooks = list(self._hooks)
        for hook in hooks:
            hook()

    @contextmanager
    def attached(self, hook: Callable[[], object]) -> Iterator[None]:
        """`hook` is called by `cancel` while the block runs; at once where it was cancelled before."""
        with self._lock:
            self._hooks.append(hook)
            late = self._cancelled
        if late:
            hook()
        try:
            yield
        finally:
            with self._lock:
                self._hooks.remove(hook)
