"""The DSPy program that is measured: one Predict, on an LM that is no more than an engine, or on one behind HTTP."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # else it asks the network for prices

import dspy
from dspy.lm15 import Message, Request, Response, Usage


class Engine:
    """An LM that takes as long as the last part of its model's name says: fake/0.2."""

    def _answer(self, request: Request) -> Response:
        usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        message = Message.assistant("[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]")
        return Response(id="1", model=request.model, message=message, finish_reason="stop", usage=usage)

    def complete(self, request: Request) -> Response:
        time.sleep(float(request.model.rpartition("/")[2]))
        return self._answer(request)


class AsyncEngine(Engine):
    async def complete(self, request: Request) -> Response:
        await asyncio.sleep(float(request.model.rpartition("/")[2]))
        return self._answer(request)


class Ask(dspy.Module):
    def __init__(self, lm: dspy.LM) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer: int")
        self.predict.lm = lm

    def forward(self, question: str) -> Any:
        return self.predict(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.predict.acall(question=question)


def engine(seconds: float) -> dspy.LM:
    return dspy.LM(f"fake/{seconds}", engine=Engine(), async_engine=AsyncEngine(), cache=False)


def behind_http() -> dspy.LM:
    """The LM at BENCH_LM (HOST:PORT)."""
    base = f"http://{os.environ.get('BENCH_LM', '127.0.0.1:9')}/v1"
    return dspy.LM("openai/bench", api_base=base, api_key="none", cache=False, num_retries=0)


fast = Ask(engine(0.0))
