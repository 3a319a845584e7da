"""Counters, gauges and histograms of an application, which the sidecar sums over its workers."""

from __future__ import annotations

import bisect
import math
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

APPLICATION = "dspex_app_"

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,90}")
_LABEL = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,40}")
_MOST_LABELS = 8
_MOST_BUCKETS = 50
_MOST_SERIES = 200  # of one metric, as in the sidecar
_PARTS = ("_bucket", "_sum", "_count")  # a histogram's samples have names that end so
_TAKEN = frozenset({APPLICATION + "samples_dropped_total"})  # the sidecar's own

Kind = Literal["counter", "gauge", "histogram"]
Values = tuple[str, ...]


class Metric:
    """What counters, gauges and histograms have in common: a name, labels, and a series for each of their values."""

    def __init__(self, owner: Metrics, name: str, kind: Kind, doc: str, labels: Sequence[str]) -> None:
        self.name = name
        self.kind: Kind = kind
        self.doc = doc
        self.labels = tuple(labels)
        self._owner = owner

    def _values(self, given: dict[str, object]) -> Values:
        if given.keys() != set(self.labels):
            raise ValueError(f"the metric {self.name!r} has the labels {self.labels}, not {tuple(given)}")
        return tuple(str(given[label]) for label in self.labels)

    def _take(self) -> list[dict[str, Any]]:
        """Return what has changed since the last time, and begin anew. With the owner's lock."""
        raise NotImplementedError

    def report(self) -> dict[str, Any] | None:
        series = self._take()
        if not series:
            return None
        return {"name": self.name, "kind": self.kind, "help": self.doc, "labels": list(self.labels), "series": series}


AnyMetric = TypeVar("AnyMetric", bound=Metric)


class Counter(Metric):
    """A number that only grows: ``counter.inc()``, ``counter.inc(3, kind="pdf")``."""

    def __init__(self, owner: Metrics, name: str, doc: str, labels: Sequence[str]) -> None:
        super().__init__(owner, name, "counter", doc, labels)
        self._grown: dict[Values, float] = {}

    def inc(self, amount: float = 1, /, **labels: object) -> None:
        """Add to it. Raises ValueError for less than 0, or for labels that it does not have."""
        if not 0 <= amount < math.inf:
            raise ValueError(f"the counter {self.name!r} grows by 0 or more, not by {amount}")
        values = self._values(labels)
        with self._owner.changing():
            self._grown[values] = self._grown.get(values, 0.0) + amount

    def _take(self) -> list[dict[str, Any]]:
        grown, self._grown = self._grown, {}
        return [{"values": list(values), "value": amount} for values, amount in grown.items()]


class Gauge(Metric):
    """A number that goes up and down: ``gauge.set(7)``. The sidecar tells the sum of what its workers have."""

    def __init__(self, owner: Metrics, name: str, doc: str, labels: Sequence[str]) -> None:
        super().__init__(owner, name, "gauge", doc, labels)
        self._stands: dict[Values, float] = {}
        self._moved: set[Values] = set()
        self._beyond: dict[Values, float] = {}  # one that is too many: the sidecar counts it as dropped

    def set(self, value: float, /, **labels: object) -> None:
        """Say where it stands in this worker."""
        self._move(value, labels, False)

    def inc(self, amount: float = 1, /, **labels: object) -> None:
        """Add to where it stands; ``amount`` may be less than 0."""
        self._move(amount, labels, True)

    def _move(self, value: float, labels: dict[str, object], add: bool) -> None:
        if not math.isfinite(value):
            raise ValueError(f"the gauge {self.name!r} stands at a number, not at {value}")
        values = self._values(labels)
        with self._owner.changing():
            if values not in self._stands and len(self._stands) >= _MOST_SERIES:
                self._beyond = {values: value}
                return
            self._stands[values] = value + (self._stands.get(values, 0.0) if add else 0.0)
            self._moved.add(values)

    def _take(self) -> list[dict[str, Any]]:
        moved, self._moved = self._moved, set()
        beyond, self._beyond = self._beyond, {}
        told = {values: self._stands[values] for values in moved} | beyond
        return [{"values": list(values), "value": value} for values, value in told.items()]


class Histogram(Metric):
    """Numbers counted by size: ``histogram.observe(0.2)``. ``buckets`` are upper bounds, rising."""

    def __init__(self, owner: Metrics, name: str, doc: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        super().__init__(owner, name, "histogram", doc, labels)
        self.buckets = [float(bound) for bound in buckets]
        rising = all(a < b for a, b in zip(self.buckets, self.buckets[1:], strict=False))
        if not 1 <= len(self.buckets) <= _MOST_BUCKETS or not rising or not all(map(math.isfinite, self.buckets)):
            raise ValueError(f"the histogram {name!r} has 1 to {_MOST_BUCKETS} buckets: numbers that rise")
        self._seen: dict[Values, tuple[list[int], list[float]]] = {}  # by bucket, and the sum

    def observe(self, value: float, /, **labels: object) -> None:
        """Count a number."""
        if not math.isfinite(value):
            raise ValueError(f"the histogram {self.name!r} counts numbers, not {value}")
        values = self._values(labels)
        with self._owner.changing():
            if (seen := self._seen.get(values)) is None:
                seen = self._seen[values] = ([0] * (len(self.buckets) + 1), [0.0])
            seen[0][bisect.bisect_left(self.buckets, value)] += 1
            seen[1][0] += value

    def _take(self) -> list[dict[str, Any]]:
        seen, self._seen = self._seen, {}
        return [
            {"values": list(values), "value": total[0], "counts": counts} for values, (counts, total) in seen.items()
        ]

    def report(self) -> dict[str, Any] | None:
        report = super().report()
        return None if report is None else {**report, "buckets": self.buckets}


class Metrics:
    """An application's metrics, as ``app.metrics``; any thread may count. Making one that is there returns that.

    Labels hold what has few values, never ids: the sidecar keeps 200 series of a metric, and counts all others as
    ``other``; those of a gauge it drops.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # guards what follows, and the metrics
        self._metrics: dict[str, Metric] = {}
        self._changed = False
        self._on_change: Callable[[], None] | None = None

    def counter(self, name: str, doc: str = "", *, labels: Sequence[str] = ()) -> Counter:
        """Return the counter, ``dspex_app_NAME_total`` for Prometheus."""
        full = APPLICATION + name + ("" if name.endswith("_total") else "_total")
        return self.named(Counter, full, labels, lambda: Counter(self, full, doc, labels))

    def gauge(self, name: str, doc: str = "", *, labels: Sequence[str] = ()) -> Gauge:
        """Return the gauge, ``dspex_app_NAME``."""
        full = APPLICATION + name
        return self.named(Gauge, full, labels, lambda: Gauge(self, full, doc, labels))

    def histogram(
        self, name: str, doc: str = "", *, labels: Sequence[str] = (), buckets: Sequence[float] = DEFAULT_BUCKETS
    ) -> Histogram:
        """Return the histogram, ``dspex_app_NAME``."""
        full = APPLICATION + name
        return self.named(Histogram, full, labels, lambda: Histogram(self, full, doc, labels, buckets))

    def named(
        self, kind: type[AnyMetric], name: str, labels: Sequence[str], make: Callable[[], AnyMetric]
    ) -> AnyMetric:
        """Return the metric of this full name, made where there is none. Raises ValueError where it is another."""
        wrong = [label for label in labels if not _LABEL.fullmatch(label) or label == "le"]
        if not _NAME.fullmatch(name) or wrong or len(labels) > _MOST_LABELS:
            raise ValueError(f"a metric's name and its labels have letters, digits and '_': {name!r}, {tuple(labels)}")
        if len(set(labels)) < len(labels):
            raise ValueError(f"the metric {name!r} has a label twice: {tuple(labels)}")
        with self._guard:
            found = self._metrics.get(name)
            if found is None:
                self._refuse_taken(kind, name)
                found = self._metrics[name] = make()
            if not isinstance(found, kind) or found.labels != tuple(labels):
                raise ValueError(f"the metric {name!r} is a {found.kind} with the labels {found.labels}")
            return found

    def _refuse_taken(self, kind: type[Metric], name: str) -> None:
        """Raise ValueError where a sample of this metric would have the name of another one's. With the lock."""
        ends = tuple(part for part in _PARTS if name.endswith(part))
        whole = [found for part in ends if isinstance(found := self._metrics.get(name.removesuffix(part)), Histogram)]
        parts = [self._metrics[name + part] for part in _PARTS if name + part in self._metrics]
        if name in _TAKEN or whole or (parts and issubclass(kind, Histogram)):
            other = [metric.name for metric in whole or parts] or [name]
            raise ValueError(f"the metric {name!r} has samples of the same name as {other[0]!r}: choose another name")

    def begin(self, on_change: Callable[[], None] | None) -> None:
        """Forget what was counted before, and have ``on_change`` called, on any thread, once before each ``take``."""
        with self._guard:
            self._reports()
            self._changed = False
            self._on_change = on_change

    def changing(self) -> _Change:
        return _Change(self)

    def take(self) -> list[dict[str, Any]]:
        """Return what has been counted since the last time, as ``sidecar.metrics`` has it."""
        with self._guard:
            self._changed = False
            return self._reports()

    def _reports(self) -> list[dict[str, Any]]:
        return [report for metric in self._metrics.values() if (report := metric.report()) is not None]


class _Change:
    """Holds the lock while a metric changes, and tells of the first change when it is released."""

    __slots__ = ("_of",)

    def __init__(self, of: Metrics) -> None:
        self._of = of

    def __enter__(self) -> None:
        self._of._guard.acquire()

    def __exit__(self, *_: object) -> None:
        of = self._of
        first, of._changed = not of._changed, True
        tell = of._on_change
        of._guard.release()
        if first and tell is not None:
            tell()
