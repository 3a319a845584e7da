"""The demo's application: what a worker offers beside the DSPy methods."""

from __future__ import annotations

import re
from collections.abc import Iterator

import dspy
from dspex_worker import App, Session

app = App()


@app.program("digest", signature="text -> names: list[str], places: list[str], explanation: list[str]")
class Digest(dspy.Module):
    """Two LM requests, one after the other: the facts of a text, then an explanation."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = dspy.Predict("text -> names: list[str], places: list[str]")
        self.explain = dspy.Predict(dspy.Signature("text -> explanation: list[str]", "Explain the text to a child."))

    def forward(self, text: str) -> dspy.Prediction:
        facts = self.facts(text=text)
        explained = self.explain(text=text)
        return dspy.Prediction(names=facts.names, places=facts.places, explanation=explained.explanation)


@app.method(retry="safe")
def count_words(text: str) -> dict[str, int]:
    """Count the words of a text. Any Python function can be a method."""
    words = re.findall(r"\w+", text)
    return {"words": len(words), "different": len({word.lower() for word in words})}


@app.method
def remember(note: str, session: Session) -> int:
    """Keep a note in the session's state; the session takes it along to whichever worker it is on."""
    notes = session.state.setdefault("notes", [])
    notes.append(note)
    return len(notes)


@app.method
def sentences(text: str) -> Iterator[str]:
    """Stream a text sentence by sentence: a generator is a streaming method."""
    yield from re.split(r"(?<=[.!?])\s+", text.strip())
