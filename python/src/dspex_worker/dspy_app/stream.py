"""Streamed execution: pieces of the fields and status messages, as the LM's answer comes.

DSPy's ``streamify`` puts a buffer of 16 items between the program and its reader, which status messages from the loop's
own thread can fill and stop the loop for good. Here the program's LM requests hand their pieces to an object made for
this call, which puts them into a queue without bounds; the client's credit acts behind that queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import dspy
from dspy.streaming import StatusMessage
from dspy.utils.callback import BaseCallback

from dspex_worker.dspy_app.deltas import ChatSplitter, JsonSplitter, Splitter, XmlSplitter
from dspex_worker.dspy_app.modules import predictors
from dspex_worker.dspy_app.settings import Adapter

Item = dict[str, Any]

# The model that reads another's answer, for "two_step", writes as the chat adapter has it.
_SPLITTERS: dict[str, type[JsonSplitter | XmlSplitter]] = {"json": JsonSplitter, "xml": XmlSplitter}


class Sink(BaseCallback):
    """Where one call's program streams to: DSPy's ``send_stream`` and a callback for status messages."""

    def __init__(self) -> None:
        self.sent = 0  # pieces of LM answers so far
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()
        self._adapter: Adapter = "chat"
        self._fields: dict[int, dict[str, str]] = {}  # by predictor: its outputs, and what each is called in items
        self._splitters: dict[int | None, Splitter] = {}
        self._names: dict[int, str] = {}

    def watch(self, module: dspy.Module, adapter: Adapter) -> None:
        """Say whose answers will come, and in which form."""
        self._adapter = adapter
        found = predictors(module)
        owners: dict[str, int] = {}
        for _, predictor in found:
            for field in predictor.signature.output_fields:
                owners[field] = owners.get(field, 0) + 1
        for name, predictor in found:
            outputs = predictor.signature.output_fields
            self._fields[id(predictor)] = {f: f if owners[f] == 1 else f"{name}.{f}" for f in outputs}
            if len(found) > 1:
                self._names[id(predictor)] = name

    async def run(self, work: Awaitable[Any]) -> AsyncGenerator[Item, None]:
        """Run ``work`` in a task of its own and yield what it streams; raise what it raises.

        The task is cancelled, and has ended, when the iteration is left in whatever way.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._items.put_nowait(None))
        try:
            while (item := await self._items.get()) is not None:
                yield item
            task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # it has been seen: asyncio need not report it

    async def send(self, chunk: Any) -> None:
        """Take what DSPy streams: a piece of an LM's answer, or what a module of the application's sends itself."""
        if isinstance(chunk, (str, StatusMessage)):
            self._put_status(chunk if isinstance(chunk, str) else chunk.message)
            return
        choices = getattr(chunk, "choices", None)
        if not choices:
            return
        self.sent += 1
        predictor = getattr(chunk, "predict_id", None)
        names = self._fields.get(predictor, {}) if predictor is not None else {}
        splitter = self._splitters.get(predictor)
        if splitter is None:
            splitter = self._splitters[predictor] = _SPLITTERS.get(self._adapter, ChatSplitter)(names)
        deltas = splitter.feed(choices[0].delta.content or "")
        if choices[0].finish_reason:
            del self._splitters[predictor]  # the predictor's next answer begins anew
            deltas += splitter.finish()
        for field, text in deltas:
            self._items.put_nowait({"type": "delta", "field": names[field], "text": text})

    def broken(self, predictor: int | None) -> None:
        """Forget an answer that was cut off: a module that asks again itself gets another, which begins anew."""
        self._splitters.pop(predictor, None)

    def _put_status(self, message: str) -> None:
        self.put({"type": "status", "message": message})

    def put(self, item: Item) -> None:
        """Put an item, from any thread."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._items.put_nowait(item)
        else:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:  # noqa: ARG002
        if name := self._names.get(id(instance)):
            self._put_status(f"{name} started")

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:  # noqa: ARG002
        self._put_status(f"tool {instance.name} started")

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:  # noqa: ARG002
        self._put_status("tool ended" if exception is None else f"tool failed: {type(exception).__name__}")
