"""An application with DSPy loaded, for what a worker's life costs; and the same behind WSGI, for gunicorn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import dspy
from dspex_worker import App
from dspy.lm15 import Message, Request, Response, Usage

app = App()


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
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer: int")
        self.predict.lm = dspy.LM(f"fake/{seconds}", engine=Engine(), async_engine=AsyncEngine(), cache=False)

    def forward(self, question: str) -> Any:
        return self.predict(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.predict.acall(question=question)


slow, fast = Ask(0.2), Ask(0.0)
app.program("slow")(slow)
app.program("fast")(fast)


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


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:  # noqa: ARG001 - WSGI gives it
    answer = str(fast(question="?").answer).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
