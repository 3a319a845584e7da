"""The DSPy application with two methods beside it, for tests of what a container gives."""

from __future__ import annotations

import asyncio
import os

from dspex_worker import App, Session

app = App()


@app.method
async def sleep(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@app.method
def increment(session: Session) -> int:
    session.state["n"] = session.state.get("n", 0) + 1
    return int(session.state["n"])


@app.method
def user() -> list[object]:
    """Who a worker is, and where its home is."""
    return [os.getuid(), os.getgid(), os.environ.get("HOME")]
