"""Memory of 2, 8 and 16 workers with DSPy, fresh and after calls, by PSS: all processes of each side."""

from __future__ import annotations

import time
from collections.abc import Iterator

from measuring.load import load
from measuring.processes import descendants
from measuring.result import Result
from measuring.running import Running, running
from peers import Peer
from peers.with_dspy import OURS, PRELOAD, UVICORN
from work import MIB, Work

CALLS = 2500  # a worker: by then a collection of all that lives has come by, which copies what was shared
SIZES = (2, 8, 16)
PROGRAM = '{"program": "fast", "inputs": {"question": "?"}}'


def measure(rounds: int, seconds: float) -> Iterator[Result]:  # noqa: ARG001 - it hardly varies
    """What is fresh has copied little of what it shares: what counts is memory in use."""
    for workers in SIZES:
        ours = memory(OURS, workers)
        for peer in (PRELOAD, UVICORN):
            theirs = memory(peer, workers)
            for state, a, b in zip(("fresh", "in use"), ours, theirs, strict=True):
                goal = 0.75 if (workers, peer, state) == (8, PRELOAD, "in use") else None
                name = f"memory of {workers} workers with DSPy, {state}: beside {peer.name}"
                yield Result(name, "MiB", [a], [b], goal)


def memory(peer: Peer, workers: int) -> tuple[float, float]:
    """MiB when ready and after calls."""
    with running(peer, workers) as it:
        settle(it)
        fresh = it.memory() / MIB
        work = Work("calls of a program", "execute_program", params=PROGRAM, connections=2 * workers)
        load(it, work, 0, "-calls", str(CALLS // 2))
        return fresh, it.memory() / MIB


def settle(it: Running) -> None:
    """Wait until no process has come for half a second: not all say when they are ready."""
    seen, since = 0, time.monotonic()
    while time.monotonic() - since < 0.5:
        found = sum(len(descendants(pid)) for pid in it.pids)
        if found != seen:
            seen, since = found, time.monotonic()
        time.sleep(0.05)
