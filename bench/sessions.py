"""What sessions that outlive the sidecar cost: commits, a worker's death, many idle sessions.

    build/venv/bin/python bench/sessions.py

Commits are compared with a bare write and fdatasync of the same bytes in the same groups, on the same disk, in turns:
which records shared a sync is told by the journal itself. A row a figure, with its goal and the least and the most of
the rounds; exit status 1 where one is not met.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import dspex
from dspex.errors import WorkerLost

ROOT = Path(__file__).resolve().parent.parent
PYTHON = str(ROOT / "build" / "venv" / "bin" / "python")
LOAD = ROOT / "build" / "bench-load"
ROUNDS = 7
SECONDS = "700ms"
KILLS = 15
IDLE = 100_000
MIB = 1 << 20
VALUE = "x" * 500


class Figure(NamedTuple):
    name: str
    unit: str
    values: list[float]
    goal: float  # 0: none
    at_least: bool = True
    note: str = ""


@contextlib.contextmanager
def sidecar(folder: Path, app: str, store: str, **pool: Any) -> Iterator[tuple[subprocess.Popen[bytes], dspex.Client]]:
    """A sidecar whose store is in the folder."""
    settings = {"app": app, "python": PYTHON, "size": 2, "max_overflow": 0, "concurrency": 512, **pool}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    socket = str(folder / "s")
    path = f'path = "{folder / "store"}"' if store == "file" else ""
    text = f'[listen]\nsocket = "{socket}"\n[sessions]\nstore = "{store}"\n{path}\n[pools.default]\n'
    (folder / "dspex.toml").write_text(text + "\n".join(lines) + f'\nenv = {{ PYTHONPATH = "{ROOT / "bench"}" }}\n')
    with (folder / "log").open("w") as log:
        command = [str(ROOT / "build" / "dspex-sidecar"), "serve", "--config", str(folder / "dspex.toml")]
        child = subprocess.Popen(command, cwd=ROOT / "bench", stderr=log)
    try:
        with contextlib.closing(dspex.Client(socket, timeout=60)) as client:
            try:
                client.connect(wait=30)
            except dspex.errors.ConnectionLost:
                sys.stderr.write((folder / "log").read_text())
                raise
            yield child, client
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


@contextlib.contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dspex-bench-", dir=ROOT / "build") as folder:
        yield Path(folder)


def load(folder: Path, *options: str) -> float:
    """Calls a second."""
    command = [str(LOAD), "-address", str(folder / "s"), "-session", *options]
    found: float = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["per_second"]
    return found


def groups(store: Path, after: int) -> tuple[list[tuple[int, int]], int]:
    """How many records, and bytes, each group has in the journal after a number; and the number of the last record."""
    found: list[tuple[int, int, int]] = []  # number, up to which all was on disk when it was written, bytes
    for path in sorted(store.glob("*.journal")):
        data, at = path.read_bytes(), 40
        while at + 52 <= len(data):
            magic, length, number, synced = struct.unpack_from("<4s4xI8xQ16xQ", data, at)
            assert magic == b"\xd5drc", "this is not how the journal looks any more"
            found.append((number, synced, 52 + length))
            at += 52 + length
    new = [one for one in found if one[0] > after]
    whole = [[size for _, _, size in group] for _, group in groupby(new, key=lambda one: one[1])]
    return [(len(group), sum(group)) for group in whole], max((one[0] for one in found), default=0)


def bare(file: int, at: int, written: list[tuple[int, int]]) -> tuple[float, int]:
    """Records a second with nothing but the writes and the syncs; and where the file ends now."""
    data = bytes(max(size for _, size in written))
    began = time.perf_counter()
    for _, size in written:
        os.pwrite(file, memoryview(data)[:size], at)
        os.fdatasync(file)
        at += size
    return sum(count for count, _ in written) / (time.perf_counter() - began), at


def commits(ways: dict[str, list[str]]) -> Iterator[Figure]:
    """Commits/s through the sidecar, beside the bare disk and beside the same sidecar without a disk."""
    for connections in (1, 64):
        wide = ["-connections", str(connections), "-duration", SECONDS]
        with contextlib.ExitStack() as stack:
            on_disk, in_memory = stack.enter_context(place()), stack.enter_context(place())
            stack.enter_context(sidecar(on_disk, "app:app", "file"))
            stack.enter_context(sidecar(in_memory, "app:app", "memory"))
            file = os.open(on_disk / "bare", os.O_CREAT | os.O_RDWR)
            stack.callback(os.close, file)
            end = 0
            for way, options in ways.items():
                ours, disk, memory = list[float](), list[float](), list[float]()
                per_group = 0.0
                for number in range(ROUNDS + 1):
                    _, last = groups(on_disk / "store", 0)
                    a = load(on_disk, *options, *wide)
                    written, _ = groups(on_disk / "store", last)
                    b, end = bare(file, end, written)
                    c = load(in_memory, *options, *wide)
                    if number:  # the first is a warm-up
                        ours, disk, memory = [*ours, a], [*disk, b], [*memory, c]
                        per_group = sum(count for count, _ in written) / len(written)
                note = (
                    f"{statistics.median(ours):.0f}/s; bare {statistics.median(disk):.0f}/s, "
                    f"{per_group:.1f} a sync; without a disk {statistics.median(memory):.0f}/s"
                )
                # A commit takes the disk's time and the sidecar's, and with many sessions both on the same processors.
                both = [1 / (1 / b + 1 / c) for b, c in zip(disk, memory, strict=True)]
                name = f"{way}, {connections} session{'s' * (connections > 1)}: commits/s, part of"
                yield Figure(f"{name} what the disk's time and the sidecar's come to", "%", parts(ours, both), 70)
                yield Figure(f"{name} the bare disk's", "%", parts(ours, disk), 0, note=note)


def parts(ours: list[float], theirs: list[float]) -> list[float]:
    return [100 * a / b for a, b in zip(ours, theirs, strict=True)]


def store_alone() -> Iterator[Figure]:
    """The store's own benchmark, which compares in the same way."""
    command = [
        "go",
        "test",
        "-run",
        "-",
        "-bench",
        "Commit",
        "-benchtime",
        "300ms",
        "-count",
        str(ROUNDS),
        "./internal/store",
    ]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for connections in (1, 64):
        lines = [line for line in said.splitlines() if line.startswith(f"BenchmarkCommit/{connections}-")]
        shares = [100 * float(of) for line in lines for of in re.findall(r"(\S+) of-bare", line)]
        rate = statistics.median(float(of) for line in lines for of in re.findall(r"(\S+) commits/s", line))
        name = f"the store alone, {connections} session{'s' * (connections > 1)}: commits/s, part of the bare disk's"
        yield Figure(name, "%", shares, 70, note=f"{rate:.0f}/s")


def deaths() -> Iterator[Figure]:
    """From kill -9 of a session's worker to the session's next answer, with a DSPy program of its own."""
    for size, where in ((1, "at the worker that takes its place"), (2, "at another worker")):
        with place() as folder, sidecar(folder, "dspy_app:app", "file", size=size) as (_, client):
            session = client.create_session("s")
            session.create_program(
                "p", "question -> answer: int", module="asked", demos=[{"question": "?", "answer": 7}]
            )
            took = []
            for _ in range(KILLS):
                assert ask(session) == 42
                workers = ready(client, size)
                worker = session.info()["worker"]
                began = time.perf_counter()
                os.kill(workers[worker], signal.SIGKILL)
                while True:
                    try:
                        assert ask(session) == 42
                    except WorkerLost:
                        continue
                    if session.info()["worker"] != worker:  # else it was answered before it died
                        break
                took.append((time.perf_counter() - began) * 1e3)
            yield Figure(f"a worker's death to its session's next answer, {where}", "ms", took, 60, at_least=False)


def ask(session: dspex.Session) -> Any:
    return session.call("execute_program", {"program": "p", "inputs": {"question": "?"}}, retry="safe")["answer"]


def ready(client: dspex.Client, size: int) -> dict[str, int]:
    while True:
        found = client.call("sidecar.workers")["workers"]
        pids = {one["worker"]: one["pid"] for one in found if one["state"] == "ready"}
        if len(pids) == size:
            return pids
        time.sleep(0.005)


def idle() -> Iterator[Figure]:
    """Many sessions that nobody uses: their memory, and the start with them."""
    with place() as folder:
        with sidecar(folder, "app:app", "file", lazy=True) as (child, _):
            empty = memory(child.pid)
            state = {"session": "#" * 16, "state": {"history": "x" * 1500, "settings": "x" * 400, "name": "x" * 100}}
            options = [
                "-method",
                "session.create",
                "-params",
                json.dumps(state),
                "-calls",
                str(IDLE),
                "-outstanding",
                "512",
            ]
            command = [str(LOAD), "-address", str(folder / "s"), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            made = memory(child.pid)
        seconds, held, fresh = [], [], []
        for _ in range(3):
            began = time.perf_counter()
            with sidecar(folder, "app:app", "file", lazy=True) as (child, client):
                assert client.call("sidecar.stats")["active_sessions"] == IDLE
                seconds.append(time.perf_counter() - began)
                held.append((memory(child.pid) - empty) / MIB)
            with place() as none:
                began = time.perf_counter()
                with sidecar(none, "app:app", "file", lazy=True) as (_, client):
                    client.call("sidecar.stats")
                    fresh.append(time.perf_counter() - began)
    note = f"without sessions {statistics.median(fresh):.2f} s"
    yield Figure(f"start with {IDLE} idle sessions of 2 KB", "s", seconds, 2, at_least=False, note=note)
    note = f"{statistics.median(held) * MIB / IDLE:.0f} bytes each; {(made - empty) / MIB:.0f} MiB where they were made"
    yield Figure(f"memory of {IDLE} idle sessions of 2 KB", "MiB", held, 0, note=note)


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    subprocess.run(["go", "build", "-o", str(LOAD), "./bench/load"], cwd=ROOT, check=True)
    update = {"set": {"number": "#" * 16, "value": VALUE}}
    ways = {
        "session.update": ["-method", "session.update", "-params", json.dumps(update)],
        "calls": ["-method", "keep", "-params", json.dumps({"value": VALUE})],
    }
    failed = False
    print(f"{'median':>9} {'min':>9} {'max':>9} {'goal':>9}       met")
    for part in (store_alone(), commits(ways), deaths(), idle()):
        for f in part:
            middle = statistics.median(f.values)
            met = middle >= f.goal if f.at_least else middle <= f.goal
            failed |= not met
            verdict = "   " if f.goal == 0 else "yes" if met else "NO "
            figures = f"{middle:9.2f} {min(f.values):9.2f} {max(f.values):9.2f} {f.goal:9.1f} {f.unit:4}"
            print(f"{figures}  {verdict}  {f.name}{'; ' + f.note if f.note else ''}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
