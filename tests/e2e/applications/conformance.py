"""The application that both servers serve for the conformance suite.

A method that asks the client `began` has begun when the question arrives.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, Literal

from dspex.errors import ProgramNotFound
from dspex_worker import App, CallCancelled, Session, current_call

app = App(use_dspy=False)

made: dict[str, int] = {}  # items that a stream of that name has made, in this process
appended: list[Any] = []  # in this process
closed: list[str] = []  # streams and methods that have been closed, in this process


@app.on_session_start
def begin_session(session: Session) -> None:
    session.state["begun"] = session.state.get("begun", 0) + 1


# Methods of each kind.


@app.method(inline=True)
def echo_inline(value: Any) -> Any:
    return value


@app.method
def echo(value: Any) -> Any:
    return value


@app.method
async def echo_async(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@app.method
def typed(a: int, b: list[float], c: Literal["x", "y"] = "x", d: str | None = None) -> dict[str, Any]:
    """Has checked parameters."""
    return {"a": a, "b": b, "c": c, "d": d}


@app.method
async def about() -> dict[str, Any]:
    call = current_call()
    call.usage["lm_calls"] = 2
    call.reply_app["seen"] = call.app
    return {"method": call.method, "left": call.time_left()}


@app.method
async def ask(question: str, value: Any) -> Any:
    return await current_call().ask(question, {"value": value})


@app.method
def append_once(value: Any, session: Session | None) -> int:
    appended.append(value)
    return len(appended)


@app.method
def ask_in_thread(question: str, value: Any) -> Any:
    return current_call().ask_blocking(question, {"value": value})


# What goes on until it is stopped.


@app.method
async def wait() -> None:
    await current_call().ask("began")
    await asyncio.Event().wait()


@app.method
async def wait_quietly() -> None:
    await asyncio.Event().wait()


@app.method
def spin() -> None:
    current_call().ask_blocking("began")
    try:
        while True:
            time.sleep(0.001)
    except CallCancelled:
        closed.append("spin")
        raise


@app.method
def spin_without_pause() -> None:
    current_call().ask_blocking("began")
    while True:
        pass


@app.method(inline=True)
def was_closed() -> list[str]:
    return closed


# Failures.


class Refused(Exception):
    pass


@app.method
def boom(message: str = "boom") -> None:
    raise KeyError(message)


@app.method
async def boom_async() -> None:
    raise Refused("not today")


@app.method
def known_error() -> None:
    raise ProgramNotFound("no such thing", details={"name": "x"})


@app.method
def unpackable() -> Any:
    return {"a": [1, {"b": {1, 2}}]}


@app.method
async def leave_task() -> str:
    asyncio.create_task(asyncio.sleep(3600), name="left over")  # noqa: RUF006 - what the test is about
    return "done"


@app.method
def big(size: int) -> bytes:
    return bytes(size)


# Sessions.


@app.method(inline=True)
def put(key: str, value: Any, session: Session) -> int:
    session.state[key] = value
    return len(session.state)


app.session_object("list", load=lambda value: value or [], dump=lambda made: made)


@app.method
def push(value: Any, session: Session, fail: bool = False) -> list[Any]:
    session.objects["list"].append(value)
    if fail:
        raise Refused("after the change")
    made: list[Any] = session.objects["list"]
    return made


@app.method
async def append(key: str, value: Any, session: Session) -> int:
    session.state.setdefault(key, []).append(value)
    await asyncio.sleep(0)
    return len(session.state[key])


@app.method
def append_in_thread(key: str, value: Any, session: Session) -> int:
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


@app.method
def put_reserved(session: Session) -> None:
    session.state["dspex.programs"] = 1


@app.method
async def put_and_fail(session: Session) -> None:
    session.state["failed"] = True
    raise ValueError("after the write")


@app.method
def put_unpackable(session: Session) -> None:
    session.state["bad"] = object()


@app.method
async def put_and_wait(key: str, session: Session) -> None:
    session.state[key] = 1
    await current_call().ask("began")
    await asyncio.Event().wait()


@app.method
async def in_background(session: Session) -> None:
    async def later() -> None:
        await session.update(set={"from the background": True})

    app.background(later())


@app.method
def without_session(session: Session | None) -> str | None:
    return None if session is None else session.id


# Streams.


@app.method
def count(n: int, size: int = 0, name: str = "count") -> Generator[Any, None, str]:
    try:
        for number in range(n):
            made[name] = number + 1
            yield bytes(size) if size else number
    finally:
        closed.append(name)
    return f"{n} in all"


@app.method
async def count_async(n: int, size: int = 0, name: str = "count_async") -> AsyncIterator[Any]:
    try:
        for number in range(n):
            made[name] = number + 1
            yield bytes(size) if size else number
    finally:
        closed.append(name)


@app.method
async def count_and_put(n: int, session: Session) -> AsyncIterator[int]:
    for number in range(n):
        session.state["at"] = number
        yield number


@app.method
def count_and_fail(n: int) -> Iterator[int]:
    yield from range(n)
    raise Refused("in the middle")


@app.method
async def bad_item() -> AsyncIterator[Any]:
    yield 1
    yield {"x": [object()]}


@app.method(inline=True)
def how_many(name: str) -> int:
    return made.get(name, 0)


@app.method
def threads() -> int:
    return threading.active_count()
