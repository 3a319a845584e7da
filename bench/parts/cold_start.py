"""From the start of the processes to the first answer, with DSPy and eight workers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

from measuring import place
from measuring.result import Result
from measuring.running import running, wait_for
from peers import Peer
from peers.with_dspy import MOSEC, OURS, PRELOAD, UVICORN

WORKERS = 8


def measure(rounds: int, seconds: float) -> Iterator[Result]:  # noqa: ARG001 - a start takes what it takes
    """The goal is of what a start takes beyond importing the application."""
    took: dict[str, list[float]] = {}
    imports: list[float] = []
    for number in range(rounds + 1):
        imported, found = import_time(), {one.name: start_time(one) for one in (OURS, PRELOAD, UVICORN, MOSEC)}
        if number:
            imports.append(imported)
            for name, value in found.items():
                took.setdefault(name, []).append(value)
    ours = took[OURS.name]
    over = [a - b for a, b in zip(ours, imports, strict=True)]
    yield Result(
        "start with DSPy, 8 workers: to the first answer, over the import of the application", "s", over, goal=0.3
    )
    for name in (PRELOAD.name, UVICORN.name, MOSEC.name):
        yield Result(f"start with DSPy, 8 workers: to the first answer, beside {name}", "s", ours, took[name])


def import_time() -> float:
    began = time.perf_counter()
    subprocess.run([place.PYTHON, "-c", "import dspy_app"], cwd=place.BENCH, check=True)
    return time.perf_counter() - began


def start_time(peer: Peer) -> float:
    began = time.perf_counter()
    with running(peer, WORKERS, wait=False) as it:
        wait_for(it, every=0.01)
        return time.perf_counter() - began
