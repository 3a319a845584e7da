"""Functions that a client offers to its calls' workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .errors import Cancelled, DspexError, ProgramError


class Offers:
    """What is offered, by session (None: to all) and name. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _offered
        self._offered: dict[tuple[str | None, str], Callable[..., Any]] = {}

    def add(self, session: str | None, name: str, function: Callable[..., Any]) -> Callable[[], None]:
        """Returns what takes the function back. Raises TypeError where it is none."""
        if not callable(function):
            raise TypeError(f"what is offered as {name!r} is a function, not a {type(function).__name__}")
        key = session, name
        with self._lock:
            self._offered[key] = function

        def take_back() -> None:
            with self._lock:
                if self._offered.get(key) is function:
                    del self._offered[key]

        return take_back

    def find(self, session: str | None, name: str) -> Callable[..., Any] | None:
        """A session's own go before those that are offered to all."""
        with self._lock:
            return self._offered.get((session, name)) or self._offered.get((None, name))


def offered_error(error: BaseException) -> DspexError:
    """What an offered function raised, as it goes out."""
    if isinstance(error, DspexError):
        return error
    if not isinstance(error, Exception):  # asyncio's, say
        return Cancelled("the function was cancelled")
    return ProgramError(str(error) or type(error).__name__, details={"type": type(error).__name__})
