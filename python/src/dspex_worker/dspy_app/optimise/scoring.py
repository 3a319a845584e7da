"""Scores a program on rows: so many at once, each by itself."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final

import dspy
from dspex.errors import DspexError

from dspex_worker.calls import failure
from dspex_worker.dspy_app.optimise.metrics import Metric, Score

_LOOK: Final = 0.2  # seconds after which a thread that waits lets itself be interrupted
_TOLD: Final = 5  # rows that are named of each kind of error

Translate = Callable[[BaseException], DspexError]


@dataclass
class Scored:
    """One row's: its score, or what went wrong, which counts as 0."""

    index: int
    score: float = 0.0
    feedback: str | None = None
    outputs: dict[str, Any] | None = None
    error: DspexError | None = None


@dataclass
class Scores:
    """Those of all rows, in their order."""

    rows: list[Scored] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return round(sum(one.score for one in self.rows) / max(1, len(self.rows)), 4)

    def errors(self) -> dict[str, Any]:
        """How many rows failed, and of what."""
        kinds: dict[tuple[str, str], dict[str, Any]] = {}
        failed = [one for one in self.rows if one.error is not None]
        for one in failed:
            assert one.error is not None
            message = one.error.message[:500]
            told = kinds.setdefault(
                (one.error.code, message[:80]), {"code": one.error.code, "message": message, "count": 0, "rows": []}
            )
            told["count"] += 1
            told["rows"] += [one.index] if len(told["rows"]) < _TOLD else []
        most = sorted(kinds.values(), key=lambda kind: -int(kind["count"]))
        return {"count": len(failed), "kinds": most[:20]}


class Scorer:
    """Runs programs on rows, in this thread's DSPy settings. Raises what the last row raised, once too many failed."""

    def __init__(self, metric: Metric, concurrency: int, max_errors: int | None, translate: Translate) -> None:
        self._metric = metric
        self._concurrency = concurrency
        self._max_errors = max_errors
        self._translate = translate

    def run(
        self,
        module: dspy.Module,
        examples: Sequence[dspy.Example],
        told: Callable[[Scores], None],
        scores: Scores | None = None,
    ) -> Scores:
        """``told`` is called after each row, with all that are done; they are added to ``scores`` as they come."""
        most = max(10, len(examples) // 2) if self._max_errors is None else self._max_errors
        scores, failed = scores or Scores(), 0
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="dspex-score")
        waiting: set[Future[Scored]] = set()
        rows = iter(enumerate(examples))
        try:
            while True:
                while len(waiting) < self._concurrency and (row := next(rows, None)) is not None:
                    context = contextvars.copy_context()
                    waiting.add(pool.submit(context.run, self._one, module, *row))
                if not waiting:
                    break
                done, waiting = wait(waiting, _LOOK, FIRST_COMPLETED)
                for one in done:
                    scored = one.result()
                    scores.rows.append(scored)
                    if scored.error is not None:
                        failed += 1
                        if failed > most:
                            raise too_many(scores, scored.error)
                    told(scores)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        scores.rows.sort(key=lambda one: one.index)
        return scores

    def _one(self, module: dspy.Module, index: int, example: dspy.Example) -> Scored:
        try:
            prediction = module(**example.inputs())
            found: Score = self._metric.measure(example, prediction, None, None, None)
        except Exception as error:  # noqa: BLE001 - whatever a program or a metric raises is its row's result
            return Scored(index, error=self._translate(error))
        outputs = (
            dict(prediction.items(include_dspy=True))
            if isinstance(prediction, dspy.Example)
            else {"output": prediction}
        )
        return Scored(index, found.score, found.feedback, outputs)


def too_many(scores: Scores, last: DspexError) -> DspexError:
    """The error of a row, with how many others failed."""
    errors = scores.errors()
    told = f"{errors['count']} of the {len(scores.rows)} rows so far failed; the last one: {last.message}"
    made: DspexError = type(last)(told, retryable=last.retryable, details={**last.details, "failed": errors})
    return made


def translated(
    error: BaseException, known: Callable[[BaseException], DspexError | None], tracebacks: bool
) -> DspexError:
    """What a row's error is told as."""
    return known(error) or failure(error, tracebacks)
