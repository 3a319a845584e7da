"""DSPy's Predict on an LM of 200 ms behind HTTP, 500 calls outstanding, beside plain DSPy with asyncio."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

from measuring import place
from measuring.load import Sample, load
from measuring.result import Result
from measuring.running import running
from peers.with_dspy import MODEL, OURS, PLAIN
from work import Work

OUTSTANDING = 500
THINK = 0.2
WORK = Work(
    f"DSPy Predict on an LM of 200 ms, {OUTSTANDING} calls at a time",
    "execute_program",
    params=json.dumps({"program": "http", "inputs": {"question": "?"}}),
    connections=10,
    outstanding=OUTSTANDING // 10,
)


def measure(rounds: int, seconds: float) -> Iterator[Result]:
    """What is possible: what two processes of plain DSPy with asyncio do, or what the LM allows where that is less."""
    ours: list[Sample] = []
    one: list[Sample] = []
    two: list[float] = []
    seconds = max(seconds, 2.0)  # ten times what the LM takes
    with running(MODEL) as model:
        os.environ["BENCH_LM"] = model.address
        with running(OURS) as it:
            for number in range(rounds + 1):
                found = (
                    load(it, WORK, seconds),
                    plain(OUTSTANDING // 2, seconds, 1),
                    plain(OUTSTANDING // 2, seconds, 2),
                )
                if number:
                    ours.append(found[0])
                    one += found[1]
                    two.append(min(sum(each["per_second"] for each in found[2]), OUTSTANDING / THINK))
    rates = [each["per_second"] for each in ours]
    yield Result(f"{WORK.name}: calls/s, part of what is possible", "1/s", rates, two, 0.9, at_least=True)
    mine, theirs = [each["cpu_us"] for each in ours], [each["cpu_us"] for each in one]
    yield Result(f"{WORK.name}: serving CPU a call, beside {PLAIN.name} in one process", "µs", mine, theirs, 1.15)


def plain(outstanding: int, seconds: float, processes: int) -> list[Sample]:
    command = shlex.split(PLAIN.commands[0].format(peers_python=place.PEERS_PYTHON))
    argv = [*command, str(outstanding), str(seconds)]
    children = [subprocess.Popen(argv, cwd=place.BENCH, stdout=subprocess.PIPE) for _ in range(processes)]
    found = [json.loads(child.communicate(timeout=seconds + 60)[0]) for child in children]
    if any(child.returncode for child in children):
        sys.exit("bench: plain DSPy failed")
    return found
