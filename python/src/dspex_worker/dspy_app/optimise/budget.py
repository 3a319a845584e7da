"""What a run may take, what it has taken, and its end when that is too much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dspex.errors import BudgetExceeded
from pydantic import BaseModel, ConfigDict, Field

from dspex_worker.calls import Call, CallCancelled
from dspex_worker.dspy_app.counts import LmCounts
from dspex_worker.dspy_app.usage import CallUsage, Request

_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


class Limits(BaseModel):
    """As a client gives them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seconds: float | None = Field(None, gt=0, le=7 * 86_400)
    lm_calls: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    cost: float | None = Field(None, gt=0, allow_inf_nan=False)


class Budget:
    """The limits of one run. ``stop`` is called once, on the loop, when one of them is reached."""

    def __init__(self, limits: Limits, deadline: float | None) -> None:
        self.limits = limits
        self.began = time.monotonic()
        ends = [] if limits.seconds is None else [self.began + limits.seconds]
        if deadline is not None:  # before it, so that there is time to tell the best so far
            ends.append(deadline - min(1.0, max(0.0, deadline - self.began) / 20))
        self.ends = min(ends, default=None)
        self.exceeded: str | None = None  # which limit
        self.why = ""
        self._stop: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        if self.ends is not None:
            loop = asyncio.get_running_loop()
            why = f"its time of {self.ends - self.began:.3g} s is over"
            self._timer = loop.call_later(max(0.0, self.ends - time.monotonic()), self.exceed, "seconds", why)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def exceed(self, limit: str, why: str) -> None:
        """End the run because of this limit; the first one is the one that is told."""
        if self.exceeded is None:
            self.exceeded, self.why = limit, why
            if self._stop is not None:
                self._stop()

    def left_ms(self) -> int | None:
        return None if self.ends is None else max(0, round((self.ends - time.monotonic()) * 1000))

    def error(self, what: str, usage: RunUsage, best: dict[str, Any] | None) -> BudgetExceeded:
        """What the call is answered with; ``best`` is what the run had come to."""
        details: dict[str, Any] = {"scope": "run", "resource": self.exceeded, "usage": usage.told()}
        got = ""
        if best is not None:
            details["best"] = best
            got = "; details.best has the best so far"
        return BudgetExceeded(f"the {what} ended before it was done: {self.why}{got}", details=details)


class RunUsage(CallUsage):
    """Counts into the call's usage while it goes on, and ends the run at its limits. On the loop's thread."""

    def __init__(self, counts: LmCounts, label: str, program: str, call: Call, budget: Budget) -> None:
        super().__init__(counts, label, program)
        self._call = call
        self._budget = budget
        self.tokens = dict.fromkeys(_TOKENS, 0)

    @contextmanager
    def request(self, request: Request) -> Iterator[None]:
        most = self._budget.limits.lm_calls
        if most is not None and self.calls >= most:
            self._budget.exceed("lm_calls", f"it has made the {most} LM calls that it may")
        if self._budget.exceeded is not None:
            raise CallCancelled
        with super().request(request):
            yield
        self._publish()

    def add_answer(self, entry: dict[str, Any]) -> None:
        super().add_answer(entry)
        usage = entry.get("usage") or {}
        for name in _TOKENS:
            value = usage.get(name)
            self.tokens[name] += value if isinstance(value, int) and value > 0 else 0
        limits = self._budget.limits
        if limits.tokens is not None and self.tokens["total_tokens"] >= limits.tokens:
            self._budget.exceed("tokens", f"it has used the {limits.tokens} tokens that it may")
        if limits.cost is not None and self.unpriced:
            self._budget.exceed("cost", "the price of a model is not known, and its cost is limited")
        elif limits.cost is not None and self.cost >= limits.cost:
            self._budget.exceed("cost", f"it has cost the {limits.cost:g} dollars that it may")

    def told(self) -> dict[str, Any]:
        """As progress and results have it; ``cost`` is None where the price of a model is not known."""
        cost = None if self.unpriced else round(self.cost, 8)
        return {"lm_calls": self.calls, "tokens": self.tokens["total_tokens"], "cost": cost}

    def _publish(self) -> None:
        usage = self._call.usage
        usage |= {"lm_calls": self.calls, "lm_us": round(self.seconds * 1e6), **self.tokens}
        if self.waited:
            usage["lm_wait_us"] = round(self.waited * 1e6)
        if self.cache_hits:
            usage["cache_hits"] = self.cache_hits
        if not self.unpriced:
            usage["cost"] = self.cost
        else:
            usage.pop("cost", None)
        usage["models"] = dict(self.answered)
