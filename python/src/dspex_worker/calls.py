"""One call while it is in flight: what its method sees of it, and what the runtime keeps of it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import traceback
import weakref
from collections.abc import AsyncGenerator, Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from dspex.errors import Cancelled, DspexError, ProgramError

from dspex_worker.session import Changes, Session

if TYPE_CHECKING:
    from dspex_worker.app import Method
    from dspex_worker.streams import Stream

_MESSAGE_LENGTH = 10_000  # characters of an exception's text that go out
_RUNTIME = "dspex_worker.runtime"

QUEUED, RUNNING, ENDED = range(3)  # states of a call: its method has not begun; may be running; has stopped


class CallCancelled(BaseException):
    """Raised in the thread of a sync method whose call was cancelled. Let it pass, as one lets asyncio's pass."""


class Port(Protocol):
    """Where a call came from and its answer goes: the front end's side of a call. All on the loop's thread."""

    loop: asyncio.AbstractEventLoop

    @property
    def writable(self) -> bool:
        """False while too much waits to be sent: streams pause."""

    def encode(self, call: Call, result: Any) -> bytes:
        """Pack a call's result, on the thread that ran it; raise NotSerializable or FrameTooLarge."""

    def encode_item(self, call: Call, item: Any) -> bytes:
        """Pack an item of its stream likewise."""

    def item(self, call: Call, item: bytes) -> None:
        """Send what ``encode_item`` made."""

    def flush(self) -> None:
        """Send what waits to be sent with others."""

    def settle(self, call: Call, answer: bytes | None, error: DspexError | None, changes: Changes | None) -> None:
        """Take what became of a call: what ``encode`` made, and the session's changes, or an error."""

    def ask(self, call: Call, method: str, params: dict[str, Any]) -> asyncio.Future[Any]:
        """Send a request to the client that made the call."""

    def unsafe(self, call: Call) -> Awaitable[Any]:
        """Have it noted that the call is not to be run again; it has been when this returns."""


class Call:
    """A call in flight, as ``current_call()`` gives it to its method.

    Attributes:
        id: the request id, unique among the calls that this worker runs.
        method: the method's name.
        session: the session that the call runs in, or None.
        deadline: the instant (``time.monotonic()``) after which the answer is worth nothing, or None.
        app: the caller's ``meta.app``, as it came.
        usage: what the call's LM requests took; numbers by name (``lm_calls``, ``prompt_tokens``, …).
        reply_app: goes out as ``meta.app`` of the response where it is not empty.
        result: of a call that streams from an async generator, which cannot return one: what the response holds.
    """

    __slots__ = (
        "_event",
        "_reply_app",
        "_usage",
        "app",
        "arguments",
        "asks",
        "began",
        "cancelled_with",
        "deadline",
        "ended_by",
        "first",
        "front",
        "generators",
        "id",
        "port",
        "result",
        "session",
        "spec",
        "state",
        "stream",
        "task",
        "tasks",
        "thread",
        "writes",
    )

    def __init__(self, id: int, spec: Method, arguments: dict[str, Any], port: Port) -> None:
        self.id = id
        self.spec = spec
        self.arguments = arguments
        self.port = port
        self.session: Session | None = None
        self.front: Any = None  # the front end's own note on the call
        self.writes = False  # its method is read-only, but this call of it writes, and has the session for itself
        self.first = False  # the session's first call: its start hooks run before it
        self.deadline: float | None = None
        self.app: dict[str, Any] | None = None
        self.stream: Stream | None = None
        self.result: Any = None
        self.state = QUEUED
        self.began = (
            False  # code of the application's has run for it: what it did to the session's objects is not known
        )
        self.cancelled_with: DspexError | None = None  # what a cancelled call is answered with
        self.ended_by = "queue"  # what stopped a cancelled call: queue, task or thread
        self.task: asyncio.Task[None] | None = None
        self.thread: int | None = None  # the ident of the thread that runs it, while it may be interrupted
        self.tasks: set[asyncio.Task[Any]] | None = None  # tasks that the call started and that still run
        self.generators: weakref.WeakSet[AsyncGenerator[Any, Any]] | None = None  # async generators that it began
        self.asks: set[asyncio.Future[Any]] | None = None
        self._event: threading.Event | None = None
        self._usage: dict[str, Any] | None = None
        self._reply_app: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Call {self.id} of {self.spec.name}>"

    def begin(self, ended_by: str) -> None:
        """Note that code of the application's runs from here on, and what a cancel will have stopped."""
        self.state = RUNNING
        self.began = True
        self.ended_by = ended_by

    @property
    def method(self) -> str:
        return self.spec.name

    @property
    def usage(self) -> dict[str, Any]:
        if self._usage is None:
            self._usage = {}
        return self._usage

    @property
    def reply_app(self) -> dict[str, Any]:
        if self._reply_app is None:
            self._reply_app = {}
        return self._reply_app

    @property
    def cancelled(self) -> threading.Event:
        """Set once the call was cancelled: for sync methods that look for themselves."""
        if self._event is None:
            self._event = threading.Event()
            if self.cancelled_with is not None:
                self._event.set()
        return self._event

    def time_left(self) -> float | None:
        """Seconds until the deadline, 0 when it has passed; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    async def ask(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call a method of the client that made this call, from an async method.

        Raises DspexError as the client answers, ``unknown_method`` where it does not offer the method.
        """
        return await self.port.ask(self, method, params or {})

    def ask_blocking(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Do the same from a sync method, on whose thread it waits."""
        if asyncio._get_running_loop() is self.port.loop:
            raise RuntimeError("ask_blocking would stop the worker's loop: use `await call.ask(…)`")
        return asyncio.run_coroutine_threadsafe(self.ask(method, params), self.port.loop).result()

    async def unsafe(self) -> None:
        """Say that what follows may not happen twice: if the worker dies now, the call is not run again by itself.

        For a method declared ``retry="safe"``. Where the caller said so itself (``meta.retry``), nothing changes.
        """
        await self.port.unsafe(self)

    def meta(self) -> dict[str, Any] | None:
        """What the response's meta says of the call, or None."""
        if self._usage is None and self._reply_app is None:
            return None
        meta: dict[str, Any] = {}
        if self._usage:
            meta["usage"] = self._usage
        if self._reply_app:
            meta["app"] = self._reply_app
        return meta or None


current: contextvars.ContextVar[Call] = contextvars.ContextVar("dspex_call")


def current_call() -> Call:
    """Return the call that runs here; raise RuntimeError outside of one."""
    try:
        return current.get()
    except LookupError:
        raise RuntimeError("current_call() is for code that runs inside a method's call") from None


def failure(error: BaseException, tracebacks: bool) -> DspexError:
    """Return what a call that raised ``error`` is answered with."""
    if isinstance(error, DspexError):
        return error.with_traceback(None)  # whose frames would keep the call's objects
    details = {"type": type_name(error)}
    if tracebacks:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_RUNTIME):
            trace = trace.tb_next  # the application's own frames are what matters
        text = "".join(traceback.format_exception(type(error), error, trace))
        details["traceback"] = clean(text[-_MESSAGE_LENGTH:])
    return ProgramError(message_of(error), details=details)


def type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as second:  # noqa: BLE001 - an exception's own __str__ may raise anything
        text = f"(its message cannot be had: {type_name(second)})"
    return clean(text[:_MESSAGE_LENGTH]) or type_name(error)


def clean(text: str) -> str:
    """Return the text without lone surrogates, which cannot be sent."""
    return text.encode(errors="backslashreplace").decode()


def cancelled(reason: str | None) -> Cancelled:
    return Cancelled(reason or "the call was cancelled")
