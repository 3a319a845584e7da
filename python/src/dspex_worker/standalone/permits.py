"""Limits of models and embedders in stand-alone mode, where one process holds them for itself."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspex.errors import LMError

from dspex_worker.permits import within

_MINUTE = 60.0
_LONGEST_PAUSE = 600.0  # seconds
_BRIEF = 0.05  # seconds of a pause that are waited for by all: who slept as long as the provider wanted may be early


@dataclass(eq=False)
class _Asked:
    """One that waits."""

    granted: asyncio.Future[None]
    no_pause: bool
    ends: float | None  # ``time.monotonic()`` until which it may wait


class _Model:
    """What waits and what is in flight for one model; in the order in which it was asked for."""

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self._name = name
        self.concurrency = int(given.get("concurrency") or 0)
        self.requests = int(given.get("requests_per_minute") or 0)
        self.tokens = int(given.get("tokens_per_minute") or 0)
        self.in_use = 0
        self.until = 0.0  # the provider wants to be left alone
        self.waiting: deque[_Asked] = deque()
        self.clock: asyncio.TimerHandle | None = None
        self._began: deque[float] = deque()
        self._took: deque[tuple[float, int]] = deque()

    def ask(self, asked: _Asked) -> None:
        """Have one wait, or refuse it at once."""
        self.waiting.append(asked)
        self._refuse()
        self.grant()

    def _refuse(self) -> None:
        """Refuse what would wait in vain, or need not wait, while the provider wants to be left alone."""
        now = time.monotonic()
        if (paused := self.until - now) <= 0:
            return
        for asked in self.waiting:
            in_vain = asked.ends is not None and self.until > asked.ends
            if not asked.granted.done() and (in_vain or (asked.no_pause and paused > _BRIEF)):
                message = f"the provider of model {self._name!r} wants to be left alone for another {paused:.3g} s"
                details = {"retry_after_ms": round(paused * 1000)}
                asked.granted.set_exception(LMError(message, retryable=True, details=details))
        self.waiting = deque(asked for asked in self.waiting if not asked.granted.done())

    def grant(self) -> None:
        """Let through what the limits allow, and look again when time will allow more."""
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None
        while self.waiting and (not self.concurrency or self.in_use < self.concurrency):
            if (wait := self._wait(time.monotonic())) > 0:
                self.clock = asyncio.get_running_loop().call_later(wait, self.grant)
                return
            asked = self.waiting.popleft().granted
            if not asked.done():
                self.in_use += 1
                self._began.append(time.monotonic())
                asked.set_result(None)

    def ended(self, tokens: int, pause: float | None) -> None:
        """Note the end of a request."""
        now = time.monotonic()
        self.in_use -= 1
        if tokens:
            self._took.append((now, tokens))
        if pause is not None:
            self.until = max(self.until, now + min(pause, _LONGEST_PAUSE))
            self._refuse()
        self.grant()

    def _wait(self, now: float) -> float:
        while self._began and self._began[0] <= now - _MINUTE:
            self._began.popleft()
        while self._took and self._took[0][0] <= now - _MINUTE:
            self._took.popleft()
        wait = self.until - now
        if self.requests and len(self._began) >= self.requests:
            wait = max(wait, self._began[-self.requests] + _MINUTE - now)
        if self.tokens and sum(tokens for _, tokens in self._took) >= self.tokens:
            wait = max(wait, self._took[0][0] + _MINUTE - now)
        return wait


class LocalPermits:
    """Those of this process. Models by name, embedders by ``embedder:`` and theirs."""

    def __init__(self, given: Mapping[str, Mapping[str, Any]]) -> None:
        self._models = {name: _Model(name, one) for name, one in given.items()}
        self._numbers = itertools.count(1)
        self._held: dict[int, _Model] = {}

    async def acquire(self, model: str, share: str, *, no_pause: bool, left: float | None) -> int:  # noqa: ARG002
        found = self._models[model]
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asked = _Asked(granted, no_pause, None if left is None else time.monotonic() + left)
        found.ask(asked)
        try:
            await within(granted, model, left)
        except BaseException:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                found.ended(0, None)
            elif asked in found.waiting:
                found.waiting.remove(asked)
            granted.cancel()
            raise
        permit = next(self._numbers)
        self._held[permit] = found
        return permit

    def release(self, permit: int, tokens: int = 0, pause: float | None = None) -> None:
        self._held.pop(permit).ended(tokens, pause)


def is_limited(given: Mapping[str, Any]) -> bool:
    """Whether a model or an embedder has limits."""
    return any(given.get(key) for key in ("concurrency", "requests_per_minute", "tokens_per_minute"))
