"""An application with a program that keeps a conversation."""

from __future__ import annotations

import dspy
from dspex_worker import App

app = App()


class Talk(dspy.Signature):
    """Answer, knowing what was said."""

    question: str = dspy.InputField()
    history: dspy.History = dspy.InputField()
    answer: str = dspy.OutputField()


app.program("talk", memory={"turns": 10})(dspy.Predict(Talk))
