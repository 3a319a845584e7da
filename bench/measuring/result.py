"""One row of what was measured: ours, theirs, the ratio, and whether that is what it must be."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """Attributes:
    ours, theirs: one value a round. Without theirs, the goal is of our value itself and not of the ratio.
    goal: None: told, and nothing asked of it.
    at_least: the goal is the least that is good enough, not the most.
    """

    name: str
    unit: str
    ours: list[float]
    theirs: list[float] | None = None
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def each(self) -> list[float]:
        """What the goal is of, round by round."""
        if self.theirs is None:
            return self.ours
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def value(self) -> float:
        """What the goal is of: our median, or the ratio of the medians."""
        ours = statistics.median(self.ours)
        return ours if self.theirs is None else ours / statistics.median(self.theirs)

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.reaches(self.value)

    def reaches(self, value: float, share: float = 1.0) -> bool:
        """Say whether a value reaches the goal, or so much of it."""
        assert self.goal is not None
        return value >= self.goal * share if self.at_least else value * share <= self.goal

    def flat(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": _short(statistics.median(self.ours)),
            "theirs": None if self.theirs is None else _short(statistics.median(self.theirs)),
            "ratio": None if self.theirs is None else _short(self.value),
            "min": _short(min(self.each)),
            "max": _short(max(self.each)),
            "goal": self.goal,
            "direction": "at least" if self.at_least else "at most",
            "met": self.met,
            "rounds": len(self.ours),
            "note": self.note,
        }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
