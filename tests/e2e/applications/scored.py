"""Programs and a metric that say where they ran; found by the nodes of a cluster, too."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import dspy
from dspex_worker import App

app = App()


@app.program("held", signature="text, folder -> answer", retry="safe")
class Held(dspy.Module):
    """Asks the LM once there is a file ``go`` in the folder; before that, a file named by its process tells of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("text -> answer")

    def forward(self, text: str, folder: str) -> dspy.Prediction:
        (Path(folder) / f"{os.getpid()}-{text}").touch()
        while not (Path(folder) / "go").exists():
            time.sleep(0.01)
        answer: dspy.Prediction = self.ask(text=text)
        return answer


@app.metric
def where(example: Any, prediction: Any, trace: Any = None) -> dict[str, Any]:
    return {"score": float(example.answer == prediction.answer), "feedback": str(os.getpid())}
