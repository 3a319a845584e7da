"""An application with DSPy loaded, for what a worker's life costs, and for calls of an LM."""

from __future__ import annotations

import time
from typing import Any

import dspy
from dspex_worker import App
from peers.dspy_program import Ask, behind_http, engine, fast

app = App()
slow = Ask(engine(0.2))
app.program("slow")(slow)
app.program("fast")(fast)


@app.program("http")
def http() -> Ask:
    return Ask(behind_http())


@app.program("asked")
class Asked(dspy.Module):
    """A program of a session's own; its LM, which answers at once, is not part of what is kept of it."""

    def __init__(self, signature: type[dspy.Signature]) -> None:
        super().__init__()
        self.predict = dspy.Predict(signature)

    async def aforward(self, **inputs: Any) -> Any:
        with dspy.context(lm=fast.predict.lm):
            return await self.predict.acall(**inputs)


@app.method(inline=True)
def echo(value: object) -> object:
    return value


@app.method
def nap(seconds: float) -> None:
    time.sleep(seconds)


@app.method
def spin(n: int) -> float:
    """Compute, and return the seconds that it took."""
    began = time.perf_counter()
    total = 0
    for i in range(n):
        total += i
    return time.perf_counter() - began
