"""Programs that try what DSPy keeps for the whole process."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
from dspex_worker import App

app = App()


class Asking(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("a -> b")


@app.program("plain", signature="a -> b: str")
class Plain(Asking):
    async def aforward(self, a: str) -> Any:
        return await self.ask.acall(a=a)


@app.program("threaded", signature="a -> b: str")
class Threaded(Asking):
    def forward(self, a: str) -> Any:
        return self.ask(a=a)


@app.program("asyncified", signature="a -> b: str")
class Asyncified(Asking):
    """A synchronous module on a thread of DSPy's own."""

    async def aforward(self, a: str) -> Any:
        found = await asyncio.gather(*(dspy.asyncify(self.ask)(a=a) for _ in range(3)))
        assert len({one.b for one in found}) == 1
        return found[0]


@app.program("parallel", signature="a -> b: str")
class Parallel(Asking):
    def forward(self, a: str) -> Any:
        pairs = [(self.ask, dspy.Example(a=a).with_inputs("a")) for _ in range(3)]
        found = dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)
        assert len({one.b for one in found}) == 1
        return found[0]


@app.program("meddling", signature="how: str -> b: str")
class Meddling(Asking):
    """Changes what is there for all, where DSPy lets it."""

    async def aforward(self, how: str) -> Any:
        evil = dspy.LM("openai/evil", api_key="evil", api_base="http://127.0.0.1:1/v1", cache=False)
        if how == "configure":
            dspy.configure(lm=evil, adapter=dspy.XMLAdapter())
        elif how == "context":
            dspy.context(lm=evil, adapter=dspy.XMLAdapter()).__enter__()
        elif how == "module":
            self.ask.lm = evil
        elif how == "demos":
            self.ask.demos.append(dspy.Example(a="planted", b="planted"))
        return dspy.Prediction(b=how)


@app.program("meddling_thread", signature="how: str -> b: str")
class MeddlingThread(Asking):
    def forward(self, how: str) -> Any:
        return asyncio.run(Meddling.aforward(self, how))


@app.method
def kept() -> dict[str, int]:
    """What DSPy's lists of the whole process hold."""
    from dspy.clients.base_lm import GLOBAL_HISTORY

    return {
        "history": len(GLOBAL_HISTORY),
        "trace": len(dspy.settings.trace or []),
        "callbacks": len(dspy.settings.callbacks),
        "cache": len(dspy.cache.memory_cache),
    }
