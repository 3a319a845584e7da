"""`make bench-growth`: how cost grows with connections, sessions, workers and payload.

    build/bench-venv/bin/python bench/growth.py [--only AXIS] [--rounds N] [--seconds S] [--publish]

Prints calls/s, the 99th percentile and CPU a call along each axis, and keeps them in bench/results/growth.json; with
--publish the plots go to docs/performance/. Exit status 1 where a cost grows worse than linearly.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import signal
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

from measuring import load, place
from measuring.running import Running, running
from peers import OURS
from report.table import number
from work import MIB, Work

NOISE = 2.0  # a cost may grow by so much more than the axis from one point to the next
FIGURES = ("per_second", "p99_us", "cpu_us")


@dataclass(frozen=True)
class Axis:
    """Attributes:
    of: the work at a point; ``sized``: the point is the number of workers.
    flat: the cost of a call (CPU) is to stay as it is; else it is to be at most linear.
    """

    name: str
    points: tuple[int, ...]
    of: Callable[[int], Work]
    flat: bool = True
    sized: bool = False


def busy(connections: int) -> Work:
    return Work(f"{connections} connections, all busy", connections=connections)


def mostly_idle(connections: int) -> Work:
    return Work(f"{connections} connections, 64 busy", connections=connections, options=("-busy", "64"))


def in_sessions(sessions: int) -> Work:
    return Work(f"{sessions} sessions", connections=8, outstanding=8, options=("-sessions", str(sessions)))


def with_workers(workers: int) -> Work:
    return Work(f"{workers} workers", connections=8, outstanding=8)


def with_payload(size: int) -> Work:
    return Work(f"{size} bytes", size=size, connections=2)


AXES = (
    Axis("connections, all busy", (1, 10, 100, 1000, 10_000), busy),
    Axis("connections, 64 busy", (64, 1000, 10_000), mostly_idle),
    Axis("sessions", (1, 10, 100, 1000, 10_000, 100_000), in_sessions),
    Axis("workers", (1, 2, 4, 8, 16, 32), with_workers, flat=False, sized=True),
    Axis("bytes of payload", (64, 512, 4096, 32 << 10, 256 << 10, 2 * MIB, 16 * MIB), with_payload, flat=False),
)
Found = dict[str, dict[int, dict[str, float]]]  # by axis, point and figure


def measure(axes: list[Axis], rounds: int, seconds: float) -> Found:
    samples: dict[tuple[str, int], list[load.Sample]] = {}
    with contextlib.ExitStack() as stack:
        sizes = {2} | {point for axis in axes if axis.sized for point in axis.points}
        by_size: dict[int, Running] = {size: stack.enter_context(running(OURS, size)) for size in sorted(sizes)}
        for round_ in range(rounds + 1):
            print(f"round {round_} of {rounds}{' (warm-up)' if round_ == 0 else ''}", flush=True)
            for axis in axes:
                for point in axis.points:
                    sample = load.load(by_size[point if axis.sized else 2], axis.of(point), seconds)
                    if round_:
                        samples.setdefault((axis.name, point), []).append(sample)
    found: Found = {axis.name: {} for axis in axes}
    for (name, point), each in samples.items():
        found[name][point] = {figure: statistics.median(one[figure] for one in each) for figure in FIGURES}
    return found


def worse(axis: Axis, points: dict[int, dict[str, float]]) -> list[str]:
    """Where the cost grows worse than it may. With all calls of all connections waiting, times grow with them."""
    said = []
    for a, b in itertools.pairwise(axis.points):
        grown = points[b]["cpu_us"] / points[a]["cpu_us"]
        if grown > NOISE * (1 if axis.flat else b / a):
            said.append(f"{axis.name}: CPU a call grows {grown:.1f} times from {a:,} to {b:,}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="AXIS", help="axes whose names it is found in")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s), and one for warming up")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each load (default: %(default)s)")
    parser.add_argument("--publish", action="store_true", help="draw the plots into docs/performance/")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the peers end, however this does
    load.build()
    axes = [axis for axis in AXES if options.only in axis.name]
    found = measure(axes, options.rounds, options.seconds)
    results = place.BENCH / "results"
    results.mkdir(exist_ok=True)
    (results / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    for axis in axes:
        print(f"\n{axis.name:>24} {'calls/s':>10} {'p99 µs':>10} {'CPU µs a call':>14}")
        for point, figures in found[axis.name].items():
            rate, p99, cpu = (number(figures[figure]) for figure in FIGURES)
            print(f"{point:24,} {rate:>10} {p99:>10} {cpu:>14}")
    said = [line for axis in axes for line in worse(axis, found[axis.name])]
    print("\n" + "\n".join(said or ["nothing grows worse than linearly"]))
    if options.publish:
        from report import plots

        plots.growth(found)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
