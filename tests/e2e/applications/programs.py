"""The DSPy side of the conformance suite: an application with programs of its own."""

from __future__ import annotations

from typing import Any

import dspy
from dspex_worker import App, Session

app = App()


@app.program("twice", signature="text -> first: str, second: list[str]")
class Twice(dspy.Module):
    """Two LM requests, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("text -> first: str")
        self.second = dspy.Predict("text, first -> second: list[str]")

    def forward(self, text: str) -> dspy.Prediction:
        first = self.first(text=text).first
        return dspy.Prediction(first=first, second=self.second(text=text, first=first).second)


@app.program("crashing", signature="a -> b")
class Crashing(dspy.Module):
    def forward(self, a: str) -> dspy.Prediction:
        raise ValueError(f"cannot do {a}")


@app.program("unpackable", signature="a -> b")
class Unpackable(dspy.Module):
    def forward(self, a: str) -> dspy.Prediction:
        return dspy.Prediction(b=[{"deep": object()}])


@app.method
def note(key: str, value: Any, session: Session) -> None:
    session.state[key] = value
