"""What requests to LMs are counted as, by model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dspex_worker.metrics import Counter, Histogram, Metrics

CLIENT: Final = "client"  # stands for all models that clients brought: their names are not the operator's choice

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class LmCounts:
    """The metrics ``dspex_lm_…`` of docs/metrics.md."""

    def __init__(self, metrics: Metrics) -> None:
        def counter(name: str, *labels: str) -> Counter:
            return metrics.named(Counter, name, labels, lambda: Counter(metrics, name, "", labels))

        self._requests = counter("dspex_lm_requests_total", "model", "result")
        self._tokens = counter("dspex_lm_tokens_total", "model", "kind")
        self._cost = counter("dspex_lm_cost_dollars_total", "model")
        name = "dspex_lm_request_seconds"
        self._seconds = metrics.named(
            Histogram, name, ("model",), lambda: Histogram(metrics, name, "", ("model",), _SECONDS)
        )

    def requested(self, model: str, seconds: float, result: str) -> None:
        """Count a request that has ended: ``ok``, ``error`` or ``cancelled``."""
        self._requests.inc(model=model, result=result)
        self._seconds.observe(seconds, model=model)

    def took(self, model: str, usage: Mapping[str, Any], cost: float | None) -> None:
        """Count what an answer took."""
        for kind in ("prompt", "completion"):
            tokens = usage.get(f"{kind}_tokens")
            if isinstance(tokens, int) and tokens > 0:
                self._tokens.inc(tokens, model=model, kind=kind)
        if cost is not None and cost > 0:
            self._cost.inc(cost, model=model)
