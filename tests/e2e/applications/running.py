"""An application some of whose methods have a process of their own for each call."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from dspex_worker import App, Session, current_call

app = App(use_dspy=False)


@app.on_session_start
def begin(session: Session) -> None:
    session.state["began"] = True


@app.method
def echo(value: Any) -> Any:
    return value


@app.method
async def put(key: str, value: Any, session: Session) -> dict[str, Any]:
    session.state[key] = value
    return dict(session.state)


@app.method(read_only=True)
def pid() -> int:
    return os.getpid()


@app.method(process="own")
def alone(fail: bool = False) -> dict[str, Any]:
    print("a run prints")
    if fail:
        raise ValueError("as it was told")
    return {"pid": os.getpid(), "parent": os.getppid(), "nice": os.nice(0), "threads": threading.active_count()}


@app.method(process="own")
async def wait(marker: str | None = None) -> None:
    if marker:
        await asyncio.to_thread(Path(marker).write_text, str(os.getpid()))
    await asyncio.Event().wait()


@app.method(process="own")
def steps(folder: str, n: int, session: Session | None = None) -> Iterator[dict[str, Any]]:
    """Say how far it is, and go on when the test says so: with a file of that number."""
    for i in range(n):
        yield {"type": "progress", "step": i, "pid": os.getpid()}
        while not Path(folder, str(i)).exists():
            time.sleep(0.002)
        if session is not None:
            session.state[f"step {i}"] = session.state.get("seen")
    return {"steps": n}  # type: ignore[return-value]  # what the response holds


@app.method(process="own")
def stubborn(marker: str) -> None:
    """Neither a cancel nor a SIGTERM ends it, and it has children that left their session."""
    child = subprocess.Popen(["setsid", "sleep", "3600"])
    Path(marker).write_text(f"{os.getpid()} {child.pid}")
    while True:
        try:
            time.sleep(3600)
        except BaseException:  # noqa: BLE001 - that is what it is for
            continue


@app.method(process="own")
async def spend(tokens: int) -> None:
    usage = current_call().usage
    while True:
        usage["total_tokens"] = usage.get("total_tokens", 0) + tokens
        await asyncio.sleep(0.05)


@app.method(process="own")
async def grow() -> None:
    held = []
    while True:
        held.append(bytearray(8 << 20))
        await asyncio.sleep(0.001)


@app.method(process="own", read_only=True)
async def look(session: Session) -> AsyncIterator[dict[str, Any]]:
    yield dict(session.state)


@app.method(process="own")
def busy(seconds: float) -> int:
    n, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        n += sum(range(1000)) > 0
    return n
