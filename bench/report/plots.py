"""Plots of the results, as SVG in docs/performance/."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from measuring import place
from measuring.result import Result
from measuring.rounds import Samples

FOLDER = place.ROOT / "docs" / "performance"
OURS, THEIRS, GOOD, BAD = "#2563a8", "#9aa5b1", "#2f855a", "#c05621"


def prepare() -> None:
    """The same input makes the same file: no dates, no random ids, text as text."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "dspex", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True})
    FOLDER.mkdir(exist_ok=True)


def save(figure: Any, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def draw(results: list[Result], samples: Samples) -> None:
    prepare()
    goals(results)
    processor_time(samples)


def goals(results: list[Result]) -> None:
    """Each goal as a bar from its least to its most, as a multiple of the goal; over 1 is better than asked."""
    asked = [one for one in results if one.goal and min(one.each) > 0]
    shares = [
        [value / one.goal if one.at_least else one.goal / value for value in (one.value, *one.each)]
        for one in asked
        if one.goal
    ]
    figure, axes = plt.subplots(figsize=(9, 0.26 * len(asked) + 1))
    for place_, (one, share) in enumerate(zip(asked, shares, strict=True)):
        color = GOOD if one.met else BAD
        axes.plot(
            [min(share), max(share)], [place_, place_], color=color, linewidth=5, alpha=0.4, solid_capstyle="butt"
        )
        axes.plot(share[0], place_, "o", color=color, markersize=4)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(asked)), [one.name for one in asked], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(
        "how far the goal is reached: median, least and most of the rounds; right of 1 is better than asked"
    )
    axes.grid(axis="x", alpha=0.3)
    save(figure, "goals")


def processor_time(samples: Samples) -> None:
    """Serving CPU a call of each peer, at the two trivial loads."""
    found = [one for one in samples.medians() if str(one["work"]).startswith("512 B") and one.get("cpu_us")]
    works = list(dict.fromkeys(str(one["work"]) for one in found))
    figure, all_axes = plt.subplots(1, len(works), figsize=(3.4 * len(works), 3.6), squeeze=False)
    for axes, work in zip(all_axes[0], works, strict=True):
        bars = sorted((float(str(one["cpu_us"])), str(one["peer"])) for one in found if one["work"] == work)
        colors = [OURS if peer == "dspex" else THEIRS for _, peer in bars]
        axes.barh([peer for _, peer in bars], [value for value, _ in bars], color=colors)
        axes.set_title(work, fontsize=8)
        axes.set_xscale("log")
        axes.set_xlabel("µs of CPU a call, all serving processes")
    figure.tight_layout()
    save(figure, "cpu")


def growth(found: dict[str, dict[int, dict[str, float]]]) -> None:
    """Calls/s, p99 and CPU a call along each axis."""
    prepare()
    labels = {"per_second": "calls/s", "p99_us": "p99, µs", "cpu_us": "CPU a call, µs"}
    figure, rows = plt.subplots(len(found), 3, figsize=(10, 2.3 * len(found)), squeeze=False)
    for (name, points), row in zip(found.items(), rows, strict=True):
        for axes, (key, label) in zip(row, labels.items(), strict=True):
            axes.plot(list(points), [one[key] for one in points.values()], "o-", color=OURS, markersize=3)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(name, fontsize=8)
            axes.set_title(label, fontsize=8)
            axes.grid(alpha=0.3)
    figure.tight_layout()
    save(figure, "growth")
