"""Plots of the results, as SVG in docs/performance/."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import matplotlib.ticker
import work as w
from measuring import place
from measuring.result import Result
from measuring.rounds import Samples

FOLDER = place.ROOT / "docs" / "performance"
OURS_NAME = "dspex"
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
    ratios(results)
    goals(results)
    processor_time(samples)


def ratios(results: list[Result]) -> None:
    """How many times faster than each peer: the median of the rounds, from the least to the most."""
    panels = {
        w.ONE: (f"{w.ONE.name}: their median time over ours", True),
        w.DEEP: (f"{w.DEEP.name}: our calls/s over theirs", False),
        w.WIDE: (f"{w.WIDE.name}: our calls/s over theirs", False),
    }
    figure, all_axes = plt.subplots(1, len(panels), figsize=(12, 3.8), sharey=True)
    for axes, (work, (title, inverse)) in zip(all_axes, panels.items(), strict=True):
        found = [
            one for one in results if one.theirs and one.name.startswith(f"{work.name}:") and ", beside " in one.name
        ]
        for at, one in enumerate(found):
            values = [1 / value if inverse else value for value in (one.value, *one.each)]
            axes.plot([min(values), max(values)], [at, at], color=OURS, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot(values[0], at, "o", color=OURS, markersize=4)
        axes.set_yticks(range(len(found)), [one.name.partition(", beside ")[2] for one in found])
        axes.set_title(title, fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8)
        logarithmic(axes.xaxis)
    all_axes[0].invert_yaxis()
    figure.tight_layout()
    save(figure, "ratios")


def short(value: float) -> str:
    """Write 1000 as 1k, and a million as 1M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def logarithmic(axis: Any, marks: tuple[int, ...] = (1, 2, 5)) -> None:
    """Make it a scale of plain numbers, with these in each power of ten."""
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_major_locator(mpl.ticker.LogLocator(subs=marks))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_locator(mpl.ticker.NullLocator())
    axis.grid(alpha=0.3)


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
    axes.margins(y=0.01)
    axes.invert_yaxis()
    logarithmic(axes.xaxis)
    axes.set_xlabel(
        "how far the goal is reached: median, least and most of the rounds; right of 1 is better than asked"
    )
    axes.grid(axis="x", alpha=0.3)
    save(figure, "goals")


def processor_time(samples: Samples) -> None:
    """Serving CPU a call of each peer: one call at a time, and 64."""
    panels = {"one call at a time": (w.ONE,), "64 calls at a time": (w.DEEP, w.WIDE)}
    figure, all_axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for axes, (title, works) in zip(all_axes, panels.items(), strict=True):
        bars = []
        for one in samples.medians():
            work = next((work for work in works if work.name == one["work"]), None)
            if work is not None:
                several = len(works) > 1 and one["peer"] in (OURS_NAME, "the worker called directly", "gRPC for Python")
                label = f"{one['peer']}, {work.connections} connections" if several else str(one["peer"])
                bars.append((float(str(one["cpu_us"])), label))
        bars.sort()
        colors = [OURS if label.startswith(OURS_NAME) else THEIRS for _, label in bars]
        axes.barh([label for _, label in bars], [value for value, _ in bars], color=colors)
        axes.set_title(f"512 B, {title}", fontsize=8)
        logarithmic(axes.xaxis, (1, 3))
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
            logarithmic(axes.xaxis, (1,))
            logarithmic(axes.yaxis, (1, 3))
            low, high = axes.get_ylim()
            middle = (low * high) ** 0.5  # a power of ten at least: what hardly changes is to look so
            axes.set_ylim(min(low, middle / 10**0.5), max(high, middle * 10**0.5))
            axes.set_xlabel(name, fontsize=8)
            axes.set_title(label, fontsize=8)
    figure.tight_layout()
    save(figure, "growth")
