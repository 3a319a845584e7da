"""Runs an application's calls on the real runtime, in the test's own loop and without sockets."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from dspex import wire
from dspex.errors import Cancelled, DspexError
from dspex_worker import App
from dspex_worker.batch import Batch
from dspex_worker.calls import Call
from dspex_worker.runtime import Runtime
from dspex_worker.session import Changes, Copy, Session, freeze
from dspex_worker.worker import Worker

WAIT = 20.0  # seconds that a call of a test may take


class Answer(dict[str, Any]):
    """A call's result, with what else it came with."""

    value: Any  # where it is no map
    usage: dict[str, Any]
    streamed: list[Any]


class Driver:
    """The side of a front end: makes calls, keeps sessions, commits changes. It is the calls' ``Port``."""

    writable = True

    def __init__(self, app: App, tracebacks: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        self.app = app
        self.runtime = Runtime(app, Batch(self.loop), grace=5.0, tracebacks=tracebacks)
        self.sessions: dict[str, Copy] = {}
        self._ids = itertools.count(1)
        self._settled: dict[int, asyncio.Future[tuple[Any, Changes | None]]] = {}
        self._items: dict[int, list[Any]] = {}
        self.unsafe_calls: list[int] = []
        self.on_item: Callable[[Call, Any], None] | None = None

    def session(self, id: str) -> Copy:
        """The copy of a session, made where there is none."""
        return self.sessions.setdefault(id, Copy(len(self.sessions) + 1, id))

    def restored(self, id: str) -> None:
        """Replace a session's copy as a restore on another worker does: nothing of ``local`` is left."""
        held = self.sessions[id]
        self.sessions[id] = Copy(held.key, id, held.version + 1, dict(held.entries))

    async def call(self, method: str, session: str | None = None, **params: Any) -> Answer:
        """Make a call, wait for it, commit what it changed; raise what it was answered with.

        Calls of one session that write are to be made one after the other.
        """
        return await self.begin(method, session, **params)[1]

    async def stream(self, method: str, session: str | None = None, **params: Any) -> Answer:
        """The same for a stream; ``streamed`` of the answer has what was streamed."""
        return await self.begin(method, session, streamed=True, **params)[1]

    def begin(
        self,
        method: str,
        session: str | None = None,
        *,
        streamed: bool = False,
        timeout: float | None = None,
        **params: Any,
    ) -> tuple[Call, Awaitable[Answer]]:
        """Start a call; the second of what is returned waits for it."""
        spec = self.app.methods[method]
        call = Call(next(self._ids), spec, params, self)
        if timeout is not None:
            call.deadline = time.monotonic() + timeout
        if session is not None:
            call.session = Session(self.session(session))
        if streamed:
            call.stream = self.runtime.stream(1000)
        self._settled[call.id] = self.loop.create_future()
        self._items[call.id] = []
        try:
            spec.bind_call(call)
            if call.session is not None and spec.read_only and not (spec.writes is not None and spec.writes(call)):
                freeze(call.session)
        except DspexError as error:
            self.settle(call, None, error, None)
        else:
            self.runtime.start(call)
        return call, self._finished(call, session)

    def cancel(self, call: Call) -> None:
        self.runtime.cancel(call, Cancelled("by the test"))

    async def _finished(self, call: Call, session: str | None) -> Answer:
        try:
            result, changes = await asyncio.wait_for(self._settled[call.id], WAIT)
        finally:
            del self._settled[call.id]
        if changes is not None and session is not None:
            copy = self.sessions[session]
            copy.commit(changes, copy.version + 1)
        answer = Answer(result if isinstance(result, dict) else {})
        answer.value = result
        answer.usage = (call.meta() or {}).get("usage", {})
        answer.streamed = self._items.pop(call.id)
        return answer

    # As the runtime's port.

    def encode(self, call: Call, result: Any) -> bytes:
        return wire.pack_value(result, "result")

    def encode_item(self, call: Call, item: Any) -> bytes:
        return wire.pack_value(item, "item")

    def item(self, call: Call, item: bytes) -> None:
        self._items[call.id].append(wire.decode_value(item))
        if self.on_item is not None:
            self.on_item(call, self._items[call.id][-1])

    def flush(self) -> None:
        pass

    def settle(self, call: Call, answer: bytes | None, error: DspexError | None, changes: Changes | None) -> None:
        settled = self._settled[call.id]
        if error is not None:
            if call.session is not None and call.session.id in self.sessions:
                self.sessions[call.session.id].local = {}
            settled.set_exception(error)
        else:
            assert answer is not None
            settled.set_result((wire.decode_value(answer), changes))

    async def unsafe(self, call: Call) -> None:
        self.unsafe_calls.append(call.id)

    def ask(self, call: Call, method: str, params: dict[str, Any]) -> asyncio.Future[Any]:
        raise NotImplementedError


@asynccontextmanager
async def driving(
    app: App,
    models: dict[str, dict[str, Any]] | None = None,
    *,
    tracebacks: bool = False,
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[Driver]:
    """Install the DSPy application, run the hooks, and clean up as a worker does."""
    from dspex_worker import dspy_app

    await asyncio.to_thread(dspy_app.install, app)  # as before the loop of a worker runs
    app.init_worker(Worker("worker_1", concurrency=8, models=models or {}, dspy=settings or {}, **more))
    driver = Driver(app, tracebacks=tracebacks)
    await driver.runtime.start_worker()
    try:
        yield driver
    finally:
        await driver.runtime.stop_worker(5.0)
