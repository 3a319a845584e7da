"""`make bench`: what a call costs through the sidecar, beside what one could use in its place.

    build/bench-venv/bin/python bench/run.py [--only PATTERN] [--rounds N] [--seconds S] [--publish]

Everything runs on this machine, two workers each, in rounds in which the sides take turns; what counts is the ratio of
the medians over the rounds. Results: a table, and bench/results/latest.json. --publish puts table and plots into
docs/performance.md.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator

import goals
from measuring import load
from measuring.result import Result
from measuring.rounds import Samples, measure
from parts import cold_start, faults, lm_calls, memory, public_tool
from report import machine, plots, publish, table

Part = Callable[[int, float], Iterator[Result]]
# By what its rows' names begin with: a part is left out where the pattern fits none of these.
PARTS: dict[str, Part] = {
    "DSPy Predict": lm_calls.measure,
    "start with DSPy": cold_start.measure,
    "memory of workers with DSPy": memory.measure,
    "a worker killed; a reload": faults.measure,
    "checked with a public load tool": public_tool.measure,
}


def say(what: str) -> None:
    print(what, flush=True)


def in_rounds(pattern: re.Pattern[str], rounds: int, seconds: float) -> tuple[list[Result], Samples]:
    rows = [row for row in goals.rows() if pattern.search(row.name)]
    samples = measure((one for row in rows for one in row.conditions), rounds, seconds, say) if rows else Samples()
    return [row.result(samples) for row in rows], samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="rows whose names it is found in")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s), and one for warming up")
    parser.add_argument("--seconds", type=float, default=0.7, help="of each load (default: %(default)s)")
    parser.add_argument("--publish", action="store_true", help="put table and plots into docs/performance.md")
    options = parser.parse_args()
    pattern = re.compile(options.only)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the peers end, however this does
    load.build()
    before = machine.describe()
    results, samples = in_rounds(pattern, options.rounds, options.seconds)
    described = before
    for name, part in PARTS.items():
        if pattern.search(name):
            say(f"{name} ({time.monotonic() - began:.0f} s so far)")
            results += [one for one in part(options.rounds, options.seconds) if pattern.search(one.name)]
        described = {**before, "load_after": machine.load_average(), "seconds": round(time.monotonic() - began)}
        table.write(results, samples, described)  # after each: a part that fails leaves what was measured before it
    print(table.text(results, described))
    if options.publish:
        publish.publish(results, samples, described)
        plots.draw(results, samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
