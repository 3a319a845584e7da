"""What the LM requests of one call took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dspex_worker.dspy_app.counts import LmCounts

_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass
class CallUsage:
    """Counts of one call; tokens are DSPy's own count, which knows LMs of the application's, too."""

    counts: LmCounts
    model: str  # what it is counted as
    calls: int = 0  # requests sent, those that failed and were tried again included
    cost: float = 0.0  # US dollars
    unpriced: int = 0  # answers whose cost is not known

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count the request that is made inside."""
        began, result = time.monotonic(), "cancelled"
        try:
            yield
            result = "ok"
        except Exception:
            result = "error"
            raise
        finally:
            self.counts.requested(self.model, time.monotonic() - began, result)

    def add_answer(self, usage: Mapping[str, Any], cost: float | None) -> None:
        """Count one answer."""
        self.counts.took(self.model, usage, cost)
        if cost is None:
            self.unpriced += 1
        else:
            self.cost += cost

    def add_to(self, usage: dict[str, Any], tracker: Any) -> None:
        """Add to ``meta.usage`` as the protocol has it. ``tracker`` is DSPy's ``UsageTracker``."""
        entries = [entry for of_model in tracker.usage_data.values() for entry in of_model]
        calls = max(self.calls, len(entries))
        if not calls:
            return
        usage["lm_calls"] = usage.get("lm_calls", 0) + calls
        for name in _TOKENS:
            usage[name] = usage.get(name, 0) + sum(int(entry.get(name) or 0) for entry in entries)
        if not self.unpriced and len(entries) <= self.calls:
            usage["cost"] = usage.get("cost", 0.0) + self.cost
