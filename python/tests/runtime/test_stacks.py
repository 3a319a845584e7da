"""A worker that goes on says where its calls are, and is none the worse for it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dspex import wire
from dspex_worker import stacks
from runtime.harness import TIMEOUT, Worker

APPLICATION = """
import asyncio, sys, threading, time
from dspex_worker import App, current_call

app = App(use_dspy=False)


@app.method
def echo(value):
    return value


@app.method
def sleeps():
    current_call().ask_blocking("began")
    inner_sleep()


def inner_sleep():
    time.sleep(60)


@app.method
def waits_for_a_thread():
    thread = threading.Thread(target=inner_sleep, name="the application's", daemon=True)
    thread.start()
    current_call().ask_blocking("began")
    thread.join()


@app.method
async def suppresses():
    task = asyncio.create_task(inner_wait())
    try:
        await current_call().ask("began")
    except asyncio.CancelledError:  # it came with the answer
        pass
    while True:
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            pass


async def inner_wait():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass


@app.method
async def blocks_the_loop():
    await current_call().ask("began")
    inner_sleep()


@app.method
def busy(seconds: float):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        deep(200)
        sum(x for x in range(50))
    return "done"


def deep(n):
    return deep(n - 1) if n else 0
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    (tmp_path / "made.py").write_text(APPLICATION)
    worker = Worker("made:app", cwd=tmp_path).ready()
    yield worker
    worker.close()


def begin(worker: Worker, id: int, method: str) -> None:
    worker.request(id, method)
    worker.question()


def where(worker: Worker, *ids: int) -> list[str]:
    result = worker.call("sidecar.stacks", None, calls=list(ids))
    found: list[str] = result["stacks"]
    return found


def test_where_calls_are(worker: Worker) -> None:
    for id, method in enumerate(("sleeps", "waits_for_a_thread", "suppresses"), 10):
        begin(worker, id, method)
    worker.send(wire.encode_cancel(12))
    deadline = time.monotonic() + TIMEOUT
    found = where(worker, 10, 11, 12, 13)
    while not all("in inner_sleep" in text for text in found[:2]):
        assert time.monotonic() < deadline, found
        found = where(worker, 10, 11, 12, 13)
    thread, joins, task, unknown = found
    assert re.match(r"Thread 0x[0-9a-f]{16} \[dspex-call-\d+\] \(most recent call first\):\n", thread)
    lines = [line.partition(" in ")[2] for line in thread.splitlines()[1:]]
    assert lines[:2] == ["inner_sleep", "sleeps"]  # and not the runtime's own, nor other calls'
    assert "waits_for_a_thread" not in thread
    assert "in waits_for_a_thread" in joins
    assert re.search(r"\[the application.s\] \(most recent call first\):\n.*in inner_sleep", joins)
    assert task.count("Task ") == 2
    assert "in suppresses" in task
    assert "in inner_wait" in task
    assert unknown == ""


def test_a_blocked_loop(worker: Worker) -> None:
    begin(worker, 10, "blocks_the_loop")
    deadline = time.monotonic() + TIMEOUT
    while "in inner_sleep" not in worker.output:  # it may not have come to that yet
        assert time.monotonic() < deadline
        os.kill(worker.process.pid, stacks.SIGNAL)
        worker.line("(most recent call first)")
    assert re.search(
        r"\[MainThread\] \(most recent call first\):\n.*in inner_sleep\n.*in blocks_the_loop", worker.output
    )


def test_a_worker_whose_threads_run_survives_being_asked_often(worker: Worker) -> None:
    """faulthandler, asked by a signal, crashes such a process within some thousand times."""
    for id in range(10, 13):
        worker.request(id, "busy", seconds=3)
    times = 0
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        os.kill(worker.process.pid, stacks.SIGNAL)
        where(worker, 10, 11, 12)
        times += 1
    assert times > 5
    for id in range(10, 13):
        assert worker.response(id).result == "done"
    assert worker.call("echo", value=1) == 1
