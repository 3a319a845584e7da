"""How long to wait between attempts to connect."""

from __future__ import annotations

import random
from collections.abc import Iterator

_FIRST = 0.02  # seconds
_LONGEST = 1.0


def delays() -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling, and each with full jitter, so that clients spread."""
    longest = _FIRST
    while True:
        yield random.uniform(_FIRST / 2, longest)  # noqa: S311 - no secret
        longest = min(2 * longest, _LONGEST)
