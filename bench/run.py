"""`make bench`: what a call costs through the sidecar, beside what one could use in its place.

Everything runs on this machine, two workers each, in rounds in which the sides take turns; what counts is the ratio of
the medians over the rounds. Results: a table, and bench/results/latest.json.
"""

from __future__ import annotations

import contextlib
import json
import os
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

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PYTHON = str(BUILD / "venv" / "bin" / "python")
LOAD = BUILD / "bench-load"
ROUNDS = 5
SECONDS = 1.5


class Goal(NamedTuple):
    name: str
    ours: list[str]  # options of bench/load
    theirs: list[str] | None  # None: the goal is a share of what is possible; [] of what bare asyncio does
    figure: str
    possible: float
    limit: float
    at_least: bool


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


def load(options: list[str]) -> dict[str, float]:
    argv = [str(LOAD), "-duration", f"{SECONDS}s", *options]
    if not options:
        argv = [PYTHON, str(ROOT / "bench" / "naps.py"), str(SECONDS)]
    result: dict[str, float] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    return result


def goals(sidecar: str, direct: str, web: str) -> list[Goal]:
    through, beside, http = ["-address", sidecar], ["-address", direct], ["-protocol", "http", "-address", web]
    many = ["-connections", "8", "-outstanding", "8"]
    wide = ["-connections", "64"]
    mib = ["-bytes", str(1 << 20)]
    nap = ["-method", "nap", "-params", '{"seconds": 0.02}', *many]
    alone = "512 B, one outstanding: median time, beside the worker called directly"
    deep = "512 B, 8 connections of 8: calls/s, beside FastAPI with 64"
    broad = "512 B, 64 connections: calls/s, beside FastAPI with 64"
    sleep = "20 ms sleep, 64 outstanding: calls/s, beside what bare asyncio does in two processes"
    ideal = "20 ms sleep, 64 outstanding: calls/s, beside 64 / 20 ms"
    large = "1 MiB each way: median time, beside the worker called directly"
    return [
        Goal(alone, through, beside, "p50_us", 0, 2.5, False),
        Goal(deep, [*through, *many], [*http, *wide], "per_second", 0, 8, True),
        Goal(broad, [*through, *wide], [*http, *wide], "per_second", 0, 4, True),
        Goal(sleep, [*through, *nap], [], "per_second", 0, 0.95, True),
        Goal(ideal, [*through, *nap], None, "per_second", 3200, 0.95, True),
        Goal(large, [*through, *mib], [*beside, *mib], "p50_us", 0, 2, False),
    ]


def measure(found: list[Goal]) -> list[dict[str, Any]]:
    ours: dict[str, list[float]] = {g.name: [] for g in found}
    theirs: dict[str, list[float]] = {g.name: [] for g in found}
    for number in range(ROUNDS + 1):
        print(f"round {number} of {ROUNDS}" + (" (warm-up)" if number == 0 else ""), flush=True)
        for g in found:
            a = load(g.ours)[g.figure]
            b = g.possible if g.theirs is None else load(g.theirs)[g.figure]
            if number:
                ours[g.name].append(a)
                theirs[g.name].append(b)
    rows = []
    for g in found:
        ratios = sorted(a / b for a, b in zip(ours[g.name], theirs[g.name], strict=True))
        ratio = statistics.median(ours[g.name]) / statistics.median(theirs[g.name])
        rows.append(
            {
                "name": g.name,
                "ours": statistics.median(ours[g.name]),
                "theirs": statistics.median(theirs[g.name]),
                "ratio": ratio,
                "min": ratios[0],
                "max": ratios[-1],
                "goal": g.limit,
                "met": ratio >= g.limit if g.at_least else ratio <= g.limit,
            }
        )
    return rows


def main() -> int:
    subprocess.run(["go", "build", "-o", str(LOAD), "./bench/load"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as folder, contextlib.ExitStack() as stack:
        sidecar, direct = f"{folder}/sidecar.sock", f"{folder}/direct.sock"
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        config = Path(folder) / "dspex.toml"
        config.write_text(
            f'[listen]\nsocket = "{sidecar}"\n'
            f'[pools.default]\napp = "app:app"\npython = "{PYTHON}"\nsize = 2\nmax_overflow = 0\n'
            f'env = {{ PYTHONPATH = "{ROOT / "bench"}" }}\n'
        )
        bench = ROOT / "bench"
        stack.enter_context(process("sidecar", [str(BUILD / "dspex-sidecar"), "serve", "--config", str(config)], bench))
        stack.enter_context(process("direct", [PYTHON, "-m", "dspex_worker", "app:app", "--socket", direct], bench))
        uvicorn = [PYTHON, "-m", "uvicorn", "web:app", "--workers", "2", "--port", str(port), "--no-access-log"]
        stack.enter_context(process("web", uvicorn, bench))
        wait_for(lambda: connects(socket.AF_UNIX, sidecar), "the sidecar")
        wait_for(lambda: connects(socket.AF_UNIX, direct), "the worker")
        wait_for(lambda: connects(socket.AF_INET, ("127.0.0.1", port)), "FastAPI")
        rows = measure(goals(sidecar, direct, f"127.0.0.1:{port}"))
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(f"\n{'ratio':>8} {'min':>7} {'max':>7} {'goal':>7}  met")
    for r in rows:
        figures = f"{r['ratio']:8.2f} {r['min']:7.2f} {r['max']:7.2f} {r['goal']:7.2f}"
        print(f"{figures}  {'yes' if r['met'] else 'NO '}  {r['name']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
