"""The results as JSON and as text."""

from __future__ import annotations

import json

from measuring import place
from measuring.result import Result
from measuring.rounds import Samples

RESULTS = place.BENCH / "results"


def write(results: list[Result], samples: Samples, described: dict[str, object]) -> None:
    """latest.json: ``rows``, one a goal or comparison; ``samples``, one a peer and work; ``machine``."""
    RESULTS.mkdir(exist_ok=True)
    found = {"machine": described, "rows": [one.flat() for one in results], "samples": samples.medians()}
    (RESULTS / "latest.json").write_text(json.dumps(found, indent=1) + "\n")


def text(results: list[Result], described: dict[str, object]) -> str:
    lines = [f"{'ours':>10} {'theirs':>10} {'ratio':>8} {'min':>8} {'max':>8} {'goal':>10}  met"]
    for one in results:
        row = one.flat()
        figures = " ".join(
            f"{'' if value is None else number(value):>{width}}"
            for value, width in (
                (row["ours"], 10),
                (row["theirs"], 10),
                (row["ratio"], 8),
                (row["min"], 8),
                (row["max"], 8),
            )
        )
        lines.append(f"{figures} {goal(one):>10}  {verdict(one):3}  {one.name}{'; ' + one.note if one.note else ''}")
    asked = [one for one in results if one.goal is not None]
    lines.append(f"{sum(bool(one.met) for one in asked)} of {len(asked)} goals met; load average before and after: ")
    lines[-1] += f"{described['load_before']:.1f}, {described['load_after']:.1f}; {described['seconds']} s"
    return "\n".join(lines)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def goal(one: Result) -> str:
    return "" if one.goal is None else f"{'≥' if one.at_least else '≤'} {number(one.goal)}"


def verdict(one: Result) -> str:
    return "" if one.met is None else "yes" if one.met else "NO"
