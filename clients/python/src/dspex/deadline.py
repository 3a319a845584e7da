"""A call's time limit: a duration where it is given, an instant from then on."""

from __future__ import annotations

import math
from time import monotonic
from typing import Final

from .errors import DeadlineExceeded

GRACE: Final = 0.1
"""Seconds past its deadline, and what the sidecar itself takes to tell how the call ended, that a call waits for its
`deadline_exceeded`, which says more than the client's own."""

_LONGEST: Final = 1e9  # seconds, some thirty years: more makes no difference, and less than any clock can count


class Deadline:
    """The instant at which `timeout` seconds from now have passed."""

    __slots__ = ("_ends", "timeout")

    def __init__(self, timeout: float) -> None:
        if math.isnan(timeout):
            raise ValueError("timeout is a number of seconds, not nan")
        self.timeout = timeout
        self._ends = monotonic() + min(timeout, _LONGEST)

    def gives_up(self, stop_report: float) -> float:
        """The instant (`time.monotonic()`) at which the client waits no longer for the sidecar's own answer.

        Args:
            stop_report: seconds past the deadline that the sidecar may take to tell how the call ended.
        """
        return self._ends + stop_report + GRACE

    def left(self) -> float:
        """Seconds; 0 when it has passed."""
        return max(0.0, self._ends - monotonic())

    def milliseconds(self) -> int:
        """`left` as a request's meta has it, rounded up."""
        return math.ceil(round(self.left() * 1000, 3))

    def error(self, method: str) -> DeadlineExceeded:
        """What a call ends with that was not answered in time."""
        message = f"no answer to {method} within {self.timeout:g} s"
        return DeadlineExceeded(message, details={"ended_by": "client"})


def deadline_of(timeout: float | None) -> Deadline | None:
    """None where there is none."""
    return None if timeout is None else Deadline(timeout)
