"""Rounds in which all that is measured takes its turn, so that what the machine does besides falls on all alike."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from peers import Peer
from work import Work

from measuring.load import Sample, load
from measuring.running import Running, running


class Condition(NamedTuple):
    """One peer doing one work."""

    peer: Peer
    work: Work

    @property
    def key(self) -> tuple[object, ...]:
        """What it comes down to: one call a connection, or no connections, make two works the same."""
        work = self.work
        if self.peer.protocol in ("dspex", "grpc"):
            return self.peer.name, work
        return self.peer.name, work.method, work.body, work.in_flight


class Samples:
    """What was measured: for each condition a sample a round."""

    def __init__(self) -> None:
        self._of: dict[tuple[object, ...], list[Sample]] = {}
        self.conditions: dict[tuple[object, ...], Condition] = {}

    def add(self, condition: Condition, sample: Sample) -> None:
        self.conditions[condition.key] = condition
        self._of.setdefault(condition.key, []).append(sample)

    def values(self, condition: Condition, figure: str) -> list[float]:
        return [float(sample[figure]) for sample in self._of[condition.key]]

    def medians(self) -> list[dict[str, object]]:
        """A flat record a condition."""
        figures = ("per_second", "p50_us", "p99_us", "cpu_us", "load_cpu_us", "items_per_second", "first_us")
        return [
            {"peer": condition.peer.name, "work": condition.work.name}
            | {
                figure: float(f"{statistics.median(self.values(condition, figure)):.4g}")
                for figure in figures
                if figure in self._of[key][0]
            }
            for key, condition in self.conditions.items()
        ]


def measure(conditions: Iterable[Condition], rounds: int, seconds: float, say: Callable[[str], None]) -> Samples:
    """Start the peers and measure; the first round is a warm-up and not kept."""
    each = list({one.key: one for one in conditions}.values())
    samples = Samples()
    with contextlib.ExitStack() as stack:
        started: dict[str, Running] = {}
        for peer in {one.peer.name: one.peer for one in each}.values():
            started[peer.name] = stack.enter_context(running(peer))
        say(f"{len(started)} peers run, {len(each)} conditions")
        for number in range(rounds + 1):
            began = time.monotonic()
            for one in each:
                sample = load(started[one.peer.name], one.work, seconds)
                if number:
                    samples.add(one, sample)
            say(f"round {number} of {rounds}{' (warm-up)' if number == 0 else ''}: {time.monotonic() - began:.0f} s")
    return samples
