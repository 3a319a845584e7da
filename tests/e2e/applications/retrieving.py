"""An application that looks things up by their vectors."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
from dspex_worker import App

app = App()
TEXTS = ["aaaa", "bbbb", "cccc", "abcd"]
index: list[Any] = []


@app.on_worker_start
async def build() -> None:
    embedder = app.embedder("main")
    index.append(await asyncio.to_thread(dspy.retrievers.Embeddings, corpus=TEXTS, embedder=embedder, k=1))


@app.program("look_up", signature="text -> found: list[str]")
class LookUp(dspy.Module):
    def forward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(found=index[0](text).passages)


@app.method
async def vector(text: str) -> list[float]:
    return [float(value) for value in await app.embedder().acall(text)]


@app.method
async def blocking(text: str) -> Any:
    return app.embedder()(text)


@app.method
def on_a_thread(text: str) -> list[float]:
    return [float(value) for value in app.embedder()(text)]


@app.program("measure", signature="text -> vector: list[float]")
class Measure(dspy.Module):
    def forward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(vector=on_a_thread(text))
