"""A worker that is killed under load, and a reload under load: what the clients see."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

import dspex
from measuring import place
from measuring.load import Sample, command
from measuring.result import Result
from measuring.running import Running, running
from peers import OURS
from work import DEEP, Work, pinned

BUCKET = 0.01  # seconds: of bench/load's timeline
WINDOW = 5  # buckets over which the throughput is taken


def measure(rounds: int, seconds: float) -> Iterator[Result]:
    """Faults are made in the middle of a load of 64 calls at a time."""
    with running(OURS) as it:
        for work in (DEEP, pinned(DEEP)):
            yield from kills(it, work, rounds, seconds)
            yield from reloads(it, work, rounds, seconds)


def kills(it: Running, work: Work, rounds: int, seconds: float) -> Iterator[Result]:
    plain, safe = [], []
    for _ in range(rounds):
        plain.append(under_load(it, work, seconds, kill, "-tolerate"))
        safe.append(under_load(it, work, seconds, kill, "-tolerate", "-safe"))
    name = f"a worker killed, {work.name}"
    failed = [float(sum(one["failed"].values())) for one in plain]
    codes = ", ".join(sorted({code for one in plain for code in one["failed"]}))
    yield Result(f"{name}: calls that fail", "calls", failed, goal=work.in_flight, note=codes)
    slowest = [one["failed_max_us"] / 1e3 for one in plain]
    yield Result(f"{name}: the slowest of these", "ms", slowest, goal=100)
    again = [float(sum(one["failed"].values())) for one in safe]
    yield Result(f"{name}: calls that fail where they may be run again", "calls", again, goal=0)
    recovery = [one["recovery_ms"] for one in (*plain, *safe)]
    yield Result(f"{name}: to the full throughput", "ms", recovery, goal=100)


def reloads(it: Running, work: Work, rounds: int, seconds: float) -> Iterator[Result]:
    found = [under_load(it, work, seconds, renew, "-tolerate") for _ in range(rounds)]
    name = f"a reload, {work.name}"
    failed = [float(sum(one["failed"].values())) for one in found]
    yield Result(f"{name}: calls that fail", "calls", failed, goal=0)
    yield Result(f"{name}: longest time without an answer", "ms", [one["gap_us"] / 1e3 for one in found], goal=50)
    yield Result(f"{name}: slowest call", "ms", [one["max_us"] / 1e3 for one in found])


def under_load(it: Running, work: Work, seconds: float, fault: Callable[[Running], None], *options: str) -> Sample:
    """Make the fault when half of the time is over; it says how long the throughput took to be what it was."""
    each = max(seconds, 0.6)
    argv = command(it, work, "-duration", f"{2 * each}s", "-timeline", *options)
    child = subprocess.Popen(argv, cwd=place.BENCH, stdout=subprocess.PIPE)
    time.sleep(each)
    at = time.time_ns()
    fault(it)
    output, _ = child.communicate(timeout=60)
    if child.returncode != 0:
        raise SystemExit("bench: the load failed")
    found: Sample = json.loads(output)
    found["recovery_ms"] = recovery(found["timeline"], (at - found["began_ns"]) / 1e9, 2 * each) * 1e3
    settled(it)
    return found


def recovery(timeline: list[int], at: float, end: float) -> float:
    """Seconds from the fault until the throughput is, over a window, 90 % of its median before."""
    fault, last = int(at / BUCKET), int(end / BUCKET)
    before = statistics.median(sum(timeline[n : n + WINDOW]) for n in range(max(fault - 40, 0), fault - WINDOW))
    for n in range(fault, last - WINDOW):
        if sum(timeline[n : n + WINDOW]) >= 0.9 * before:
            return (n - fault) * BUCKET
    return end - at


def kill(it: Running) -> None:
    with dspex.Client(it.address) as client:
        os.kill(client.call("sidecar.workers")["workers"][0]["pid"], signal.SIGKILL)


def renew(it: Running) -> None:
    with dspex.Client(it.address, timeout=60) as client:
        client.call("admin.reload", {"renew": True, "wait": True})


def settled(it: Running) -> None:
    """Wait for both workers to be ready again."""
    with dspex.Client(it.address) as client:
        while client.call("sidecar.stats")["healthy_workers"] < 2:
            time.sleep(0.02)
