"""What a worker's life costs, with DSPy loaded: its memory, its end, and how many calls it holds.

    build/venv/bin/python bench/life.py

Prints a row a figure, with its goal; exit status 1 where one is not met. Times are of this machine, as it was then.
Its start, and its memory beside others', are in `make bench`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dspex
from dspex.errors import WorkerLost
from measuring import processes

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
PYTHON = str(ROOT / "build" / "venv" / "bin" / "python")
KILLS = 8
MIB = 1 << 20


@contextlib.contextmanager
def sidecar(folder: str, size: int, **pool: object) -> Iterator[tuple[subprocess.Popen[bytes], dspex.Client]]:
    socket_path = f"{folder}/dspex.sock"
    settings = {"app": "dspy_app:app", "python": PYTHON, "size": size, "max_overflow": 0, "concurrency": 512, **pool}
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in settings.items()
    ]
    config = Path(folder) / "dspex.toml"
    config.write_text(
        f'[listen]\nsocket = "{socket_path}"\n[pools.default]\n'
        + "\n".join(lines)
        + f'\nenv = {{ PYTHONPATH = "{BENCH}" }}\n'
    )
    with (Path(folder) / "log").open("w") as log:
        command = [str(ROOT / "build" / "dspex-sidecar"), "serve", "--config", str(config)]
        child = subprocess.Popen(command, cwd=BENCH, stderr=log)
        try:
            with contextlib.closing(dspex.Client(socket_path, timeout=60)) as client:
                client.connect(wait=30)
                yield child, client
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait()


def proportional(pid: int) -> dict[str, int]:
    """Bytes by name of /proc/PID/smaps_rollup."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) << 10
    return found


class Report:
    """Rows as they are measured."""

    def __init__(self) -> None:
        self.failed = False

    def row(self, name: str, value: float, goal: float, unit: str, note: str = "") -> None:
        met = value <= goal
        self.failed |= not met
        print(
            f"{value:9.1f} {goal:9.1f} {unit:4}  {'yes' if met else 'NO '}  {name}{'; ' + note if note else ''}",
            flush=True,
        )


def kills(report: Report, client: dspex.Client) -> None:
    """From kill -9 of the only worker to an answer by its replacement."""
    took = []
    for _ in range(KILLS):
        worker = client.call("sidecar.workers")["workers"][0]
        while worker["state"] != "ready":
            worker = client.call("sidecar.workers")["workers"][0]
        began = time.perf_counter()
        os.kill(worker["pid"], signal.SIGKILL)
        while True:  # the first call may still reach the dying worker
            try:
                if client.request("echo", {"value": 1}).meta["worker"] != worker["worker"]:
                    break
            except WorkerLost:
                continue
        took.append(time.perf_counter() - began)
    note = f"{KILLS} kills, slowest {max(took) * 1e3:.0f}"
    report.row("kill -9 of a worker to an answer by its replacement", statistics.median(took) * 1e3, 50, "ms", note)


async def idle_threads(report: Report, path: str) -> None:
    """What a method that computes takes beside 256 idle threads, and without."""

    async def spin() -> float:
        return statistics.median([float(await client.call("spin", {"n": 1_000_000})) for _ in range(15)])

    async with dspex.AsyncClient(path) as client:
        alone = await spin()
        await asyncio.gather(*[client.call("nap", {"seconds": 0.2}) for _ in range(256)])
        beside = await spin()
    report.row("a sync method that computes beside 256 idle threads, part of alone", beside / alone * 100, 110, "%")


def first_call(report: Report, client: dspex.Client) -> None:
    """The first DSPy call of a fresh worker, beside later ones."""
    first, later = [], []
    ask = {"program": "fast", "inputs": {"question": "?"}}
    for _ in range(KILLS):
        (worker,) = client.call("sidecar.workers")["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        while [w["worker"] for w in client.call("sidecar.workers")["workers"] if w["state"] == "ready"] in (
            [],
            [worker["worker"]],
        ):
            time.sleep(0.002)
        took = [client.request("execute_program", ask).meta["run_us"] for _ in range(20)]
        first.append(took[0])
        later.append(statistics.median(took[10:]))
    extra = statistics.median(first) - statistics.median(
        later
    )  # it copies pages that it shared; nothing is imported or built
    report.row("first DSPy call of a fresh worker, over a later one", extra / 1e3, 10, "ms")


def memory(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="dspex-life-") as folder, sidecar(folder, 16) as (child, client):
        wait_ready(client, 16)
        private = [
            found["Private_Dirty"] + found["Private_Clean"]
            for worker in client.call("sidecar.workers")["workers"]
            for found in [proportional(worker["pid"])]
        ]
        report.row("private memory of a fresh worker", statistics.median(private) / MIB, 10, "MiB")
        report.row("16 workers, zygote, keeper and sidecar", processes.proportional(child.pid) / MIB, 350, "MiB")


def wait_ready(client: dspex.Client, count: int) -> None:
    while client.call("sidecar.stats")["healthy_workers"] < count:
        time.sleep(0.02)


async def many(report: Report, path: str) -> None:
    """Calls at once on an LM that takes 200 ms, in one worker."""
    async with dspex.AsyncClient(path) as client:
        for count, goal in ((50, 300), (500, 800)):
            took = []
            for _ in range(5):
                began = time.perf_counter()
                calls = [
                    client.call("execute_program", {"program": "slow", "inputs": {"question": "?"}})
                    for _ in range(count)
                ]
                assert await asyncio.gather(*calls) == [{"answer": 42}] * count
                took.append(time.perf_counter() - began)
            name = f"{count} calls at once on an LM that takes 200 ms"
            report.row(name, statistics.median(took) * 1e3, goal, "ms", "one worker")


def main() -> int:
    report = Report()
    print(f"{'measured':>9} {'goal':>9}       met")
    with tempfile.TemporaryDirectory(prefix="dspex-life-") as folder, sidecar(folder, 1) as (_, client):
        kills(report, client)
        first_call(report, client)
        asyncio.run(many(report, f"{folder}/dspex.sock"))
        asyncio.run(idle_threads(report, f"{folder}/dspex.sock"))
    memory(report)
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
