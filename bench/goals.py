"""What is asked of the sidecar beside its peers: a row a goal, and rows without one for what else is of interest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import work as w
from measuring.result import Result
from measuring.rounds import Condition, Samples
from peers import (
    ASGI,
    DIRECT,
    FASTAPI,
    GRPC,
    MOSEC,
    OURS,
    PEERS,
    PIPES,
    PROCESS_POOL,
    Peer,
)
from work import Work

LABELS = {
    "p50_us": ("median time", "µs"),
    "p99_us": ("p99", "µs"),
    "per_second": ("calls/s", "1/s"),
    "cpu_us": ("serving CPU a call", "µs"),
    "items_per_second": ("items/s", "1/s"),
    "first_us": ("median time to the first item", "µs"),
}


@dataclass(frozen=True)
class Row:
    """Attributes:
    theirs: what our figure is divided by: a peer's, or ours at another work, or a number; None: nothing.
    their_figure: where it is another one than ours.
    """

    work: Work
    figure: str
    theirs: Condition | float | None = None
    goal: float | None = None
    at_least: bool = False
    their_figure: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        name = f"{self.work.name}: {LABELS[self.figure][0]}"
        if self.label or not isinstance(self.theirs, Condition):
            return f"{name}{', ' * bool(self.label)}{self.label}"
        return f"{name}, beside {self.theirs.peer.name}"

    @property
    def conditions(self) -> list[Condition]:
        theirs = [self.theirs] if isinstance(self.theirs, Condition) else []
        return [Condition(OURS, self.work), *theirs]

    def result(self, samples: Samples) -> Result:
        ours, theirs = samples.values(Condition(OURS, self.work), self.figure), None
        if isinstance(self.theirs, Condition):
            theirs = samples.values(self.theirs, self.their_figure or self.figure)
        elif self.theirs is not None:
            theirs = [self.theirs] * len(ours)
        return Result(self.name, LABELS[self.figure][1], ours, theirs, self.goal, self.at_least)


def times(work: Work, figure: str, at_least: bool, goals: dict[Peer, float]) -> Iterator[Row]:
    """A row a peer; those that the goals do not name are there to be seen."""
    for peer in PEERS:
        yield Row(work, figure, Condition(peer, work), goals.get(peer), at_least)


def rows() -> Iterator[Row]:
    """All of them, in the order of the table."""
    alone = {DIRECT: 2.1, FASTAPI: 0.8, MOSEC: 0.6, GRPC: 0.4, PROCESS_POOL: 0.8}
    yield from times(w.ONE, "p50_us", False, alone)
    deep = {FASTAPI: 14.0, ASGI: 4.5, MOSEC: 11.0, PROCESS_POOL: 12.0, GRPC: 20.0, PIPES: 3.5}
    yield from times(w.DEEP, "per_second", True, deep)
    wide = {FASTAPI: 6.0, ASGI: 1.9, MOSEC: 5.0, PROCESS_POOL: 5.0, GRPC: 10.0, PIPES: 1.6}
    yield from times(w.WIDE, "per_second", True, wide)
    yield Row(w.WIDE, "cpu_us", None, 15.0)
    yield Row(w.DEEP, "cpu_us", None, 7.5)
    yield from times(w.SMALL_ONE, "p50_us", False, {})
    yield from times(w.SMALL_DEEP, "per_second", True, {})
    yield from times(w.LARGE_ONE, "p50_us", False, {DIRECT: 1.3})
    yield Row(w.LARGE_MANY, "p99_us", Condition(DIRECT, w.LARGE_MANY), 2.0)
    yield Row(w.NAP, "per_second", 64 / 0.02, 0.97, True, label="part of 64 calls every 20 ms")
    yield from times(w.NAP, "per_second", True, {})
    yield Row(w.BURN, "per_second", 2 / 0.005, 0.97, True, label="part of two processors' every 5 ms")
    yield from times(w.BURN, "p99_us", False, {MOSEC: 1.0})
    for work in (w.ONE, w.DEEP, w.WIDE, w.LARGE_MANY, w.NAP, w.BURN):
        unpinned = Condition(OURS, work)
        yield Row(w.pinned(work), "per_second", unpinned, 0.9, True, label="part of those without sessions")
    yield Row(w.STREAM, "items_per_second", None, 300_000, True)
    one = Condition(OURS, w.ASYNC_ONE)
    yield Row(
        w.STREAM_ONE,
        "first_us",
        one,
        1.3,
        False,
        "p50_us",
        label="beside the median of a plain call of an async method",
    )
    yield Row(w.STREAM, "items_per_second", Condition(DIRECT, w.STREAM), None, True)
    yield Row(w.STREAM_ONE, "first_us", Condition(DIRECT, w.STREAM_ONE))
