"""An application whose sessions are looked at after kills: each answer holds all that its worker's copy holds then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from dspex_worker import App, Session

app = App(use_dspy=False)


@app.on_session_start
def begin(session: Session) -> None:
    session.state["log"] = []
    session.state["n"] = 0


def seen(session: Session) -> dict[str, Any]:
    state, secrets = session.state, session.secrets
    assert len(state["log"]) == state["n"], "half a change"
    return {
        "log": list(state["log"]),
        "made": state.get("made", 0),
        "set": state.get("set", 0),
        "pad": len(state.get("pad", b"")),
        "secret": secrets.get("last", 0),
        "lost": session.lost_secrets,
    }


def change(session: Session, id: int, pad: int, secret: bool) -> dict[str, Any]:
    """Change several keys, one of them in place."""
    session.state["log"].append(id)
    session.state["n"] += 1
    if pad:
        session.state["pad"] = bytes([id % 256]) * pad
    if secret:
        session.secrets["last"] = id
    return seen(session)


@app.method(read_only=True)
def look(session: Session) -> dict[str, Any]:
    return seen(session)


@app.method
async def add(session: Session, id: int, pad: int = 0, secret: bool = False) -> dict[str, Any]:
    return change(session, id, pad, secret)


@app.method
def add_in_thread(session: Session, id: int, pad: int = 0, secret: bool = False) -> dict[str, Any]:
    return change(session, id, pad, secret)


@app.method(retry="safe")
async def add_safe(session: Session, id: int, pad: int = 0, secret: bool = False) -> dict[str, Any]:
    return change(session, id, pad, secret)


@app.method
async def add_slow(session: Session, id: int, seconds: float) -> dict[str, Any]:
    change(session, id, 0, False)
    await asyncio.sleep(seconds)
    return seen(session)


@app.method
def add_streamed(session: Session, id: int) -> Iterator[int]:
    change(session, id, 0, False)
    yield from range(3)


@app.method
async def fail(session: Session, id: int) -> None:
    change(session, id, 0, True)
    raise ValueError(str(id))
