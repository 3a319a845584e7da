"""How far a run is: DSPy's callbacks count on whatever thread, the call's stream tells."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import dspy
from dspy.utils.callback import BaseCallback

from dspex_worker.dspy_app.optimise.budget import Budget, RunUsage

_EVERY: Final = 0.5  # seconds between items that tell of nothing but counts
_WAITING: Final = 100  # items that a slow reader has not taken; older ones are dropped

Item = dict[str, Any]


class Progress(BaseCallback):
    """Makes the stream's items, and notes the best candidate of an optimiser."""

    def __init__(self, usage: RunUsage, budget: Budget, state_of: Callable[[dspy.Module], Any]) -> None:
        self._usage = usage
        self._budget = budget
        self._state_of = state_of
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._guard = threading.Lock()  # guards all below
        self._items: deque[Item] = deque(maxlen=_WAITING)
        self._phase = "start"
        self._about: Item = {}  # trial, trials, done, examples
        self._score: float | None = None
        self._open: dict[str, tuple[Any, int]] = {}  # evaluations that go on: their programs and numbers of rows
        self._best_of = 0  # rows that the best candidate was scored on
        self.best: float | None = None
        self.best_state: Any = None  # of the best candidate of the optimiser

    def phase(self, name: str, **about: int) -> None:
        """A new phase begins; ``about`` is what is known of its size: trials, examples."""
        with self._guard:
            self._phase, self._about, self._score = name, dict(about), None
            self._note()

    def example(self, done: int, score: float) -> None:
        """So many examples of the phase are scored; ``score`` is their mean so far."""
        with self._guard:
            self._about["done"] = done
            self._score = score

    def scored(self, score: float) -> None:
        """The phase has come to this."""
        with self._guard:
            self._score = score
            self._note()

    def item(self) -> Item:
        """What is told now."""
        with self._guard:
            return self._item()

    def wake(self) -> None:
        """Have ``next`` return. On the loop's thread."""
        self._changed.set()

    async def next(self) -> list[Item]:
        """Those that have come since, or after a while one of how things stand."""
        try:
            await asyncio.wait_for(self._changed.wait(), _EVERY)
        except TimeoutError:
            return [self.item()]
        self._changed.clear()
        with self._guard:
            items = list(self._items)
            self._items.clear()
        return items

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        rows = len(inputs.get("devset") or instance.devset)
        with self._guard:
            self._about["trial"] = self._about.get("trial", 0) + 1
            self._open[call_id] = inputs.get("program"), rows

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        with self._guard:
            program, rows = self._open.pop(call_id, (None, 0))
        if exception is not None or outputs is None:
            return
        score = round(float(outputs.score) / 100, 4)
        better = (rows, score) > (self._best_of, -1.0 if self.best is None else self.best)
        state = self._state_of(program) if better and isinstance(program, dspy.Module) else None
        with self._guard:
            self._score = score
            if state is not None:
                self._best_of, self.best, self.best_state = rows, score, state
            self._note()

    def _note(self) -> None:
        """Have an item told. The guard is held."""
        self._items.append(self._item())
        self._loop.call_soon_threadsafe(self._changed.set)

    def _item(self) -> Item:
        item: Item = {"type": "progress", "phase": self._phase, **self._about, **self._usage.told()}
        if self._score is not None:
            item["score"] = self._score
        if self.best is not None:
            item["best"] = self.best
        item["elapsed_ms"] = round((time.monotonic() - self._budget.began) * 1000)
        if (left := self._budget.left_ms()) is not None:
            item["left_ms"] = left
        return item
