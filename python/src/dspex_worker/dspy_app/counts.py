"""What requests to LMs are counted as, by model and by program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dspex_worker.metrics import Counter, Histogram, Metrics

CLIENT: Final = "client"  # stands for all models that clients brought: their names are not the operator's choice
SESSION: Final = "session"  # stands for all programs that clients made, likewise

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class LmCounts:
    """The metrics ``dspex_lm_…`` of docs/metrics.md."""

    def __init__(self, metrics: Metrics) -> None:
        def counter(name: str, *labels: str) -> Counter:
            return metrics.named(Counter, name, labels, lambda: Counter(metrics, name, "", labels))

        self._requests = counter("dspex_lm_requests_total", "model", "result")
        self._tokens = counter("dspex_lm_tokens_total", "model", "kind")
        self._cost = counter("dspex_lm_cost_dollars_total", "model")
        self._hits = counter("dspex_lm_cache_hits_total", "model")
        self._program_requests = counter("dspex_lm_program_requests_total", "program")
        self._program_tokens = counter("dspex_lm_program_tokens_total", "program")
        self._program_cost = counter("dspex_lm_program_cost_dollars_total", "program")
        name = "dspex_lm_request_seconds"
        self._seconds = metrics.named(
            Histogram, name, ("model",), lambda: Histogram(metrics, name, "", ("model",), _SECONDS)
        )

    def requested(self, model: str, seconds: float, result: str) -> None:
        """Count a request that has ended: ``ok``, ``error`` or ``cancelled``."""
        self._requests.inc(model=model, result=result)
        self._seconds.observe(seconds, model=model)

    def hit(self, model: str) -> None:
        """Count an answer that was kept from an earlier request."""
        self._hits.inc(model=model)

    def took(self, model: str, program: str, usage: Mapping[str, Any], cost: float | None) -> None:
        """Count what an answer took; ``program`` is empty where none asked."""
        total = 0
        for kind in ("prompt", "completion"):
            tokens = usage.get(f"{kind}_tokens")
            if isinstance(tokens, int) and tokens > 0:
                self._tokens.inc(tokens, model=model, kind=kind)
                total += tokens
        paid = cost is not None and cost > 0
        if paid:
            self._cost.inc(cost or 0.0, model=model)
        if program:
            self._program_requests.inc(program=program)
            self._program_tokens.inc(total, program=program)
            if paid:
                self._program_cost.inc(cost or 0.0, program=program)
