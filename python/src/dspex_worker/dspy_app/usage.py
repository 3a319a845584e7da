"""What the LM requests of one call took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dspex_worker.dspy_app.counts import LmCounts

_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass
class Request:
    """One request to an LM, from the wait for its turn to its end."""

    model: str
    label: str  # what it is counted as
    prices: tuple[float, float] | None  # of a token of the prompt, and of the answer; None: as DSPy knows it
    began: float = field(default_factory=time.monotonic)
    tokens: int = 0
    entry: dict[str, Any] | None = None  # what DSPy tells of it once it is answered


request_now: ContextVar[Request | None] = ContextVar("dspex_lm_request", default=None)


@dataclass
class CallUsage:
    """Counts of one call; tokens are DSPy's own count, which knows LMs of the application's, too."""

    counts: LmCounts
    program: str = ""  # what it is counted as
    program_id: str = ""
    calls: int = 0  # requests sent, those that failed and were tried again included
    cost: float = 0.0  # US dollars
    unpriced: int = 0  # answers whose cost is not known
    cache_hits: int = 0
    seconds: float = 0.0  # that requests took, one after the other
    waited: float = 0.0  # seconds for the limits of models
    answered: dict[str, int] = field(default_factory=dict)  # requests by the model that answered them
    failed: list[dict[str, Any]] = field(default_factory=list)  # requests that failed, of the model that was asked last

    @contextmanager
    def request(self, request: Request) -> Iterator[None]:
        """Count the request that is made inside."""
        self.calls += 1
        token = request_now.set(request)
        result = "cancelled"
        try:
            yield
            result = "ok"
            self.answered[request.model] = self.answered.get(request.model, 0) + 1
        except Exception:
            result = "error"
            raise
        finally:
            request_now.reset(token)
            took = time.monotonic() - request.began
            self.seconds += took
            self.counts.requested(request.label, took, result)

    def wait(self, seconds: float) -> None:
        """Note that a request waited for a model's limits."""
        self.waited += seconds

    def hit(self, label: str) -> None:
        """Count an answer that was kept."""
        self.cache_hits += 1
        self.counts.hit(label)

    def add_answer(self, entry: dict[str, Any]) -> None:
        """Count one answer: DSPy's entry for its history."""
        request = request_now.get()
        usage: Mapping[str, Any] = entry.get("usage") or {}
        cost = entry.get("cost")
        if request is not None:
            request.tokens, request.entry = _count(usage, "total_tokens"), entry
            if request.prices is not None:
                prompt, completion = request.prices
                cost = prompt * _count(usage, "prompt_tokens") + completion * _count(usage, "completion_tokens")
                entry["cost"] = cost
            self.counts.took(request.label, self.program, usage, cost)
        if cost is None:
            self.unpriced += 1
        else:
            self.cost += cost

    def add_to(self, usage: dict[str, Any], tracker: Any) -> None:
        """Add to ``meta.usage`` as the protocol has it. ``tracker`` is DSPy's ``UsageTracker``."""
        entries = [entry for of_model in tracker.usage_data.values() for entry in of_model]
        calls = max(self.calls, len(entries))
        if self.cache_hits:
            usage["cache_hits"] = usage.get("cache_hits", 0) + self.cache_hits
        if self.waited:
            usage["lm_wait_us"] = usage.get("lm_wait_us", 0) + round(self.waited * 1e6)
        if not calls:
            return
        usage["lm_calls"] = usage.get("lm_calls", 0) + calls
        usage["lm_us"] = usage.get("lm_us", 0) + round(self.seconds * 1e6)
        for name in _TOKENS:
            usage[name] = usage.get(name, 0) + sum(int(entry.get(name) or 0) for entry in entries)
        if not self.unpriced and len(entries) <= self.calls:
            usage["cost"] = usage.get("cost", 0.0) + self.cost
        models = usage.setdefault("models", {})
        for model, count in self.answered.items():
            models[model] = models.get(model, 0) + count


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
