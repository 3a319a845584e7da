"""Drive a running peer with bench/load, and see what that cost it."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import Any

from work import Work

from measuring import place
from measuring.processes import descendants
from measuring.running import Running

Sample = dict[str, Any]  # what bench/load prints, and cpu_us: serving CPU a call, all of the peer's processes


def build() -> None:
    """Compile bench/load."""
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", str(place.LOAD), "./bench/load"]
    subprocess.run(command, cwd=place.ROOT, check=True)


def command(it: Running, work: Work, *options: str) -> list[str]:
    peer = it.peer
    connections, outstanding = work.connections, work.outstanding
    if peer.protocol == "http":
        connections, outstanding = work.in_flight, 1
    elif peer.protocol == "pipes":  # as many as there are workers, which share what is in flight
        connections = min(work.in_flight, len(it.address.split(",")))
        outstanding = work.in_flight // connections
    return [
        *(str(place.LOAD), "-protocol", peer.protocol, "-address", it.address, "-path", peer.path),
        *("-connections", str(connections), "-outstanding", str(outstanding)),
        *(("-params", work.params) if work.params else ("-bytes", str(work.size))),
        *(("-method", work.method, *work.options) if peer.protocol == "dspex" else ()),
        *options,
    ]


def load(it: Running, work: Work, seconds: float, *options: str) -> Sample:
    """Run the work for so long; calls in flight at the end are waited for."""
    if it.peer.protocol == "own":
        argv = [*shlex.split(it.peer.commands[0].format(**it.values)), str(work.in_flight), str(seconds)]
    else:
        serving = ",".join(str(pid) for root in it.pids for pid in descendants(root))
        argv = command(it, work, "-duration", f"{seconds}s", "-processes", serving, *options)
    body = work.body.encode() if it.peer.protocol == "own" else b""
    done = subprocess.run(argv, cwd=place.BENCH, input=body, stdout=subprocess.PIPE, check=True, timeout=seconds + 120)
    found: Sample = json.loads(done.stdout)
    return found


def answers(it: Running) -> bool:
    """Say whether it answers a call within a few seconds."""
    try:
        done = subprocess.run(command(it, Work("a call"), "-calls", "1"), capture_output=True, timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
