"""The application of the runtime's tests. A method that asks the client `began` has begun when the question arrives."""

import asyncio
import contextvars
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

from dspex.errors import ProgramNotFound
from dspex_worker import App, CallCancelled, Session, current_call

app = App(use_dspy=False)
note: contextvars.ContextVar[str] = contextvars.ContextVar("note", default="clean")
produced: dict[str, int] = {}
closed: list[str] = []
gate = threading.Event()


@app.on_worker_start
def started() -> None:
    print("worker started")
    note.set("from the start hook")


@app.on_worker_stop
async def stopped() -> None:
    await asyncio.sleep(0)
    print("worker stopped")


@app.on_session_start
async def session_started(session: Session) -> None:
    session.state["begun"] = session.state.get("begun", 0) + 1


@app.on_session_end
def session_ended(session: Session) -> None:
    print("session ended", session.id, dict(session.state))


@app.method(inline=True)
def echo(value: Any) -> Any:
    return value


@app.method
async def echo_async(value: Any) -> Any:
    return value


@app.method
def echo_sync(value: Any) -> Any:
    return value


@app.method
def typed(a: int, b: list[float], c: Literal["x", "y"] = "x", d: str | None = None) -> dict[str, Any]:
    """Has checked parameters."""
    return {"a": a, "b": b, "c": c, "d": d}


@app.method
def end_children() -> list[Any]:
    """Children that are ended by signals, as `multiprocessing` ends them; they end, and not this worker."""
    forking = multiprocessing.get_context("fork")
    child = forking.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(10)
    with forking.Pool(2) as pool:
        squares = pool.map(_square, range(4))
    own = os.fork()
    if own == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(own, signal.SIGINT)
    os.kill(own, signal.SIGTERM)
    return [child.exitcode, squares, os.waitstatus_to_exitcode(os.waitpid(own, 0)[1]) != 0]


def _square(n: int) -> int:
    return n * n


@app.method
def pid() -> int:
    return os.getpid()


@app.method
async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.method
async def begin_and_wait() -> None:
    await current_call().ask("began")
    await asyncio.Event().wait()


@app.method
async def suppress_cancel() -> str:
    await current_call().ask("began")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "went on"
    return ""


@app.method
def spin() -> None:
    call = current_call()
    try:
        call.ask_blocking("began")
        while True:
            time.sleep(0.001)
    except CallCancelled:
        closed.append("spin" if call.cancelled.is_set() else "not set")
        raise


@app.method
def ask_in_thread(value: Any) -> Any:
    return current_call().ask_blocking("double", {"value": value})


@app.method
async def ask(value: Any) -> Any:
    return await current_call().ask("double", {"value": value})


@app.method(inline=True)
def was_closed() -> list[str]:
    return closed


@app.method(inline=True)
def models() -> dict[str, Any]:
    assert app.worker is not None
    return app.worker.models


@app.method
def hold_thread() -> None:
    current_call().ask_blocking("began")
    gate.wait()


@app.method(inline=True)
def open_gate() -> None:
    gate.set()


@app.method
async def set_note(value: str) -> list[str]:
    before = note.get()
    note.set(value)
    await asyncio.sleep(0)
    return [before, note.get()]


@app.method
def set_note_sync(value: str) -> list[str]:
    before = note.get()
    note.set(value)
    return [before, note.get()]


@app.method(inline=True)
def set_note_inline(value: str) -> list[str]:
    before = note.get()
    note.set(value)
    return [before, note.get()]


@app.method
def boom(message: str = "boom") -> None:
    raise KeyError(message)


@app.method
async def leave_by_exit() -> None:
    sys.exit(7)


@app.method
def known_error() -> None:
    raise ProgramNotFound("no such thing", details={"name": "x"})


@app.method
def unpackable(inline: bool = True) -> Any:
    return {"a": [1, {"b": {1, 2}}]}


@app.method
async def about() -> dict[str, Any]:
    call = current_call()
    call.usage["lm_calls"] = 2
    call.reply_app["seen"] = call.app
    return {"id": call.id, "method": call.method, "left": call.time_left()}


@app.method
async def big(size: int) -> bytes:
    return bytes(size)


# What a call leaves behind.


@app.method
async def leave_task() -> str:
    asyncio.create_task(asyncio.sleep(3600), name="left over")  # noqa: RUF006
    return "done"


@app.method
def leave_task_from_thread() -> str:
    began = threading.Event()

    async def wait() -> None:
        began.set()
        await asyncio.sleep(3600)

    asyncio.run_coroutine_threadsafe(wait(), current_call().port.loop)
    began.wait()
    return "done"


@app.method
async def wait_for_tasks() -> list[int]:
    async def one(n: int) -> int:
        await asyncio.sleep(0)
        return n

    return list(await asyncio.gather(*(one(n) for n in range(5))))


async def numbers(name: str) -> AsyncIterator[int]:
    try:
        for n in range(10):
            yield n
    finally:
        closed.append(name)


kept: list[Any] = []


@app.method
async def leave_generator(name: str) -> None:
    generator = numbers(name)
    kept.append(generator)
    await generator.__anext__()


@app.method
async def in_background(session: Session) -> None:
    async def later() -> None:
        await session.update(set={"from the background": True})
        closed.append("updated")

    app.background(later())


# Sessions.


@app.method(inline=True)
def put(key: str, value: Any, session: Session) -> int:
    session.state[key] = value
    return len(session.state)


@app.method
async def append(key: str, value: Any, session: Session) -> int:
    session.state.setdefault(key, []).append(value)
    await asyncio.sleep(0)
    return len(session.state[key])


@app.method
def append_sync(key: str, value: Any, session: Session) -> int:
    session.state.setdefault(key, []).append(value)
    return len(session.state[key])


@app.method(read_only=True)
async def get(session: Session, wait: bool = False) -> dict[str, Any]:
    if wait:
        await current_call().ask("began")
    return dict(session.state)


@app.method(read_only=True)
def write_although_read_only(session: Session) -> None:
    session.state["x"] = 1


@app.method(read_only=True)
def change_although_read_only(session: Session) -> None:
    session.state["list"].append(1)


@app.method
async def put_and_fail(session: Session) -> None:
    session.state["failed"] = True
    session.local["failed"] = True
    raise ValueError("after the write")


@app.method
async def put_and_wait(key: str, session: Session) -> None:
    session.state[key] = 1
    await current_call().ask("began")
    await asyncio.Event().wait()


@app.method
def put_unpackable(session: Session) -> None:
    session.state["bad"] = object()


@app.method(inline=True)
def put_secret(session: Session) -> None:
    session.secrets["key"] = "sk-12345"
    session.reserved["program"] = {"a": 1}


@app.method(inline=True)
def read_all(session: Session) -> dict[str, Any]:
    return {"state": dict(session.state), "reserved": dict(session.reserved), "secrets": dict(session.secrets)}


@app.method
def lost(session: Session, forget: str | None = None) -> list[str]:
    if forget is not None:
        session.forget_secret(forget)
    return sorted(session.lost_secrets)


@app.method(inline=True)
def local(session: Session, value: Any = None) -> Any:
    before = session.local.get("value")
    session.local["value"] = value
    return before


@app.method(inline=True)
def put_many(count: int, size: int, session: Session) -> None:
    for number in range(count):
        session.state[f"k{number}"] = f"{number}" * size


@app.method(inline=True, read_only=True)
def get_keys(session: Session) -> list[str]:
    return list(session.state)


@app.method
def run_child(argv: list[str]) -> int:
    return int(subprocess.run(argv, capture_output=True, check=True, close_fds=False).stdout)


leaked: list[Session] = []


@app.method(inline=True)
def leak_session(session: Session) -> None:
    leaked.append(session)


@app.method(inline=True)
def use_leaked() -> None:
    leaked[0].state["x"] = 1


@app.method
def nested_call(session: Session, question: str) -> Any:
    return current_call().ask_blocking(question, {"session": session.id})


# Streams.


@app.method
def count(n: int, size: int = 0, name: str = "count") -> Iterator[Any]:
    try:
        for i in range(n):
            produced[name] = i + 1
            yield bytes(size) if size else i
    finally:
        closed.append(name)


@app.method
async def count_async(n: int, size: int = 0, name: str = "count_async") -> AsyncIterator[Any]:
    try:
        for i in range(n):
            produced[name] = i + 1
            yield bytes(size) if size else i
    finally:
        closed.append(name)


@app.method
async def count_slowly() -> AsyncIterator[int]:
    try:
        for i in range(1000):
            yield i
            await asyncio.sleep(0.001)
    finally:
        closed.append("count_slowly")


@app.method(inline=True)
def made(name: str) -> int:
    return produced.get(name, 0)


@app.method
async def block_after_one(path: str) -> AsyncIterator[int]:
    yield 1
    while not os.path.exists(path):  # noqa: ASYNC240 - the loop does nothing else meanwhile
        time.sleep(0.001)  # noqa: ASYNC251
    yield 2


@app.method
async def bad_item() -> AsyncIterator[Any]:
    yield 1
    yield {"x": object()}


@app.method(process="own")
async def spend(tokens: int) -> None:
    current_call().usage["total_tokens"] = tokens
    await asyncio.Event().wait()
