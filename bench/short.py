"""A short form for `make test`: the main ratios, beside the limit measured in the same run.

    build/venv/bin/python bench/short.py

It fails only where every one of the rounds says that a ratio is worse than a part of its goal, and does so a second
time: a busy machine falls on both sides of a ratio, but not evenly in each round.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator

import work as w
from goals import Row
from measuring import load
from measuring.result import Result
from measuring.rounds import Condition, measure
from peers import DIRECT, ECHO, OURS
from report.table import number

ROUNDS = 3
SECONDS = 0.4
PART = 0.7  # of the goal


def rows() -> Iterator[Row]:
    """Those that need no other peers. Rates and CPU are told beside the echo, without a goal."""
    yield Row(w.ONE, "p50_us", Condition(DIRECT, w.ONE), 2.1)
    yield Row(w.ONE, "p50_us", Condition(ECHO, w.ONE))
    for work in (w.DEEP, w.WIDE):
        yield Row(work, "per_second", Condition(ECHO, work), None, at_least=True)
        yield Row(work, "cpu_us", Condition(ECHO, work))
    yield Row(w.LARGE_ONE, "p50_us", Condition(DIRECT, w.LARGE_ONE), 1.3)
    yield Row(w.NAP, "per_second", Condition(DIRECT, w.NAP), 0.97, at_least=True)
    yield Row(w.pinned(w.ONE), "p50_us", Condition(OURS, w.ONE), 1.1, label="beside the same without")
    yield Row(w.pinned(w.DEEP), "cpu_us", Condition(OURS, w.DEEP), label="beside the same without")
    yield Row(
        w.STREAM_ONE, "first_us", Condition(OURS, w.ASYNC_ONE), None, False, "p50_us", label="beside a plain call"
    )


def failed(one: Result) -> bool:
    return one.goal is not None and not any(one.reaches(value, PART) for value in one.each)


def measured(chosen: list[Row]) -> list[Result]:
    samples = measure((one for row in chosen for one in row.conditions), ROUNDS, SECONDS, lambda _: None)
    return [row.result(samples) for row in chosen]


def main() -> int:
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the peers end, however this does
    load.build()
    results = measured(list(rows()))
    if any(failed(one) for one in results):
        results = measured(list(rows()))
    for one in results:
        rounds = " ".join(f"{number(value):>5}" for value in one.each)
        goal = "" if one.goal is None else f"{'≥' if one.at_least else '≤'} {one.goal}"
        print(f"{rounds}  {goal:7} {'WORSE' if failed(one) else '     '} {one.name}")
    worse = [one for one in results if failed(one)]
    for one in worse:
        print(
            f"bench: all {ROUNDS} rounds are worse than {PART} of the goal: {one.name}. `make bench` measures in full."
        )
    print(f"{len(results) - len(worse)} passed, {len(worse)} failed ({time.monotonic() - began:.0f} s)")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
