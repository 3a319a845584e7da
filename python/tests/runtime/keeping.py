"""An application that keeps objects for its sessions."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from dspex.errors import InvalidParams
from dspex_worker import App, Session, current_call

app = App(use_dspy=False)
told: list[str] = []  # what load and dump were called for, in this process
gate = threading.Event()


class Counter:
    def __init__(self, start: int) -> None:
        self.total = start
        self.refuses_to_dump = False


def load(value: Any) -> Counter:
    told.append(f"load {value}")
    if value == "bad":
        raise ValueError("cannot be read")
    if value == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if value == "slow":
        gate.wait()
        value = 0
    return Counter(value or 0)


def dump(counter: Counter) -> Any:
    told.append(f"dump {counter.total}")
    if counter.refuses_to_dump:
        raise ValueError("cannot be written")
    return object() if counter.total == -1 else counter.total


app.session_object("counter", load=load, dump=dump)
app.session_object("never asked for", load=load, dump=dump)


@app.method
def add(session: Session, n: int = 1) -> int:
    counter: Counter = session.objects["counter"]
    counter.total += n
    return counter.total


@app.method
async def add_and_fail(session: Session) -> None:
    session.objects["counter"].total += 1000
    raise InvalidParams("after all")


@app.method(inline=True)
def refuse(session: Session) -> None:
    session.objects["counter"].refuses_to_dump = True


@app.method
async def add_and_wait(session: Session) -> None:
    session.objects["counter"].total += 1000
    await current_call().ask("began")


@app.method(read_only=True)
async def look(session: Session) -> int:
    total: int = session.objects["counter"].total
    return total


@app.method
def unknown(session: Session) -> Any:
    return session.objects["nothing"]


@app.method(inline=True)
def names(session: Session) -> list[str]:
    return list(session.objects)


@app.method(inline=True)
def so_far() -> list[str]:
    return told


@app.method(inline=True)
def open_gate() -> None:
    gate.set()


@app.on_session_end
def ended(session: Session) -> None:
    print("ended with", session.objects["counter"].total)
