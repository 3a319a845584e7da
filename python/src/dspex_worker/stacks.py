"""Where a worker's calls are: the stacks of their threads and tasks, as lines in faulthandler's form.

They are read by code that holds the interpreter's lock, so nothing moves meanwhile: by the loop, when the sidecar asks,
and where the loop is blocked by a thread that waits for a signal. faulthandler needs neither loop nor lock, and is how
a worker is asked that is about to be killed; but it reads stacks while they change, and that crashes the process once
in a few hundred to a few thousand times.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

from dspex_worker.calls import Call
from dspex_worker.threads import CALL_THREAD, Threads

SIGNAL = 50  # one that no application uses; the sidecar has its number, too
_FRAMES = 100  # of one stack
_TASKS = 10  # of one call
_LENGTH = 8192  # characters of one call's
_RUNTIME = "dspex_worker.runtime"


def hold_signal() -> None:
    """Hold the signal back, in all threads that are made from now on, too. It waits for the thread that takes it."""
    signal.signal(SIGNAL, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (SIGNAL,))


def answer_signal() -> None:
    """Start the thread that prints all stacks on standard error when the signal comes."""
    threading.Thread(target=_answer, name="dspex-stacks", daemon=True).start()


def of_calls(calls: Iterable[Call | None]) -> list[str]:
    """Return for each call the stack of its thread, or of its task and those that it started; "" where it has none."""
    frames = sys._current_frames()
    return ["" if call is None else "\n".join(_of_call(call, frames))[:_LENGTH] for call in calls]


def _answer() -> None:
    own = threading.get_ident()
    while True:
        signal.sigwait((SIGNAL,))
        lines = [
            line
            for ident, frame in sys._current_frames().items()
            if ident != own and frame.f_code is not Threads._work.__code__  # which waits for a call
            for line in _of_thread(ident, frame)
        ]
        with contextlib.suppress(OSError):
            os.write(2, "".join(line + "\n" for line in lines).encode(errors="backslashreplace"))


def _of_call(call: Call, frames: dict[int, FrameType]) -> Iterator[str]:
    thread = call.thread
    if thread is not None and (frame := frames.get(thread)) is not None:
        yield from _of_thread(thread, frame)
        for ident, other in frames.items():  # it may wait for one that it made
            name = _thread_name(ident)
            if not name.startswith((CALL_THREAD, "dspex-stacks", "MainThread")):
                yield from _of_thread(ident, other)
    tasks = [task for task in (call.task, *list(call.tasks or ())[:_TASKS]) if task is not None]
    for task in tasks:
        yield from _of_task(task)


def _of_thread(ident: int, frame: FrameType | None) -> Iterator[str]:
    yield f"Thread 0x{ident:016x} [{_thread_name(ident)}] (most recent call first):"
    for _ in range(_FRAMES):
        if frame is None or frame.f_globals.get("__name__") == _RUNTIME:
            return
        yield _line(frame.f_code, frame.f_lineno)
        frame = frame.f_back


def _of_task(task: asyncio.Task[Any]) -> Iterator[str]:
    yield f"Task {task.get_name()} (most recent call first):"
    stack: list[str] = []
    waits: Any = task.get_coro()
    while waits is not None and len(stack) < _FRAMES:
        frame = _own(waits, "frame")
        if frame is None:
            break
        if frame.f_globals.get("__name__") != _RUNTIME:
            stack.append(_line(frame.f_code, frame.f_lineno))
        waits = _own(waits, "await")
    yield from reversed(stack)


def _own(waits: Any, what: str) -> Any:
    """Return the frame of a coroutine or generator, or what it waits for."""
    for prefix in ("cr_", "gi_", "ag_"):
        name = prefix + what if (prefix, what) != ("gi_", "await") else "gi_yieldfrom"
        if hasattr(waits, name):
            return getattr(waits, name)
    return None


def _line(code: CodeType, number: int | None) -> str:
    return f'  File "{code.co_filename}", line {number or "???"} in {code.co_name}'


def _thread_name(ident: int) -> str:
    thread = threading._active.get(ident)  # type: ignore[attr-defined]  # enumerate() takes a lock, which may be held
    return re.sub(r"[^\w.:() -]", "?", thread.name) if thread is not None else "?"
