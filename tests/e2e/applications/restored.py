"""An application whose workers are killed: what is run again, and what a session gets back on another worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import dspy
from dspex_worker import App, Session

app = App()


def note(path: str) -> str:
    """Note that this worker was here, and go on when the file says so."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while "go" not in Path(path).read_text():
        time.sleep(0.01)
    return "noted"


@app.program("clerk", signature="path -> answer")
def clerk() -> dspy.Module:
    return dspy.ReAct("path -> answer", tools=[note], max_iters=3)


def look_up(word: str) -> str:
    """Say what a word means."""
    return f"{word} means a lot"


@app.program("helped")
def helped(signature: type[dspy.Signature]) -> dspy.Module:
    return dspy.ReAct(signature, tools=[look_up], max_iters=3)


@app.program("declared", signature="path -> answer", retry="safe")
def declared() -> dspy.Module:
    return clerk()


@app.program("own code", signature="path -> answer")
class OwnCode(dspy.Module):
    async def aforward(self, path: str) -> dspy.Prediction:
        note(path)
        return dspy.Prediction(answer="noted")


@app.method(retry="safe")
def count(path: str, session: Session) -> int:
    total: int = session.state.get("count", 0) + 1
    session.state["count"] = total
    note(path)
    return total


class Chat:
    def __init__(self, said: list[str] | None) -> None:
        self.said = said or []
        if "die" in self.said:
            os.kill(os.getpid(), signal.SIGKILL)


app.session_object("chat", load=Chat, dump=lambda chat: chat.said)


@app.method
def say(text: str, session: Session) -> tuple[int, list[str]]:
    session.objects["chat"].said.append(text)
    return os.getpid(), session.objects["chat"].said


@app.method(inline=True)
def kept(session: Session) -> dict[str, Any]:
    return dict(session.state)
