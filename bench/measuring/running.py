"""A peer that runs: its processes, its folder and its address."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from peers import Peer

from measuring import place
from measuring.processes import proportional

START_WITHIN = 90.0


@dataclass
class Running:
    """Attributes:
    folder: of its files; ``values``: what the braces in its commands stand for.
    """

    peer: Peer
    folder: Path
    values: dict[str, object]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.peer.address.format(**self.values)

    @property
    def pids(self) -> list[int]:
        return [one.pid for one in self.processes]

    def memory(self) -> int:
        return proportional(*self.pids)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def running(peer: Peer, workers: int = 2, wait: bool = True) -> Iterator[Running]:
    """Start it, and wait until it answers; afterwards end all that it started."""
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as folder:
        it = start(peer, Path(folder), workers)
        try:
            if wait:
                wait_for(it)
            yield it
        finally:
            stop(it)


def start(peer: Peer, folder: Path, workers: int = 2) -> Running:
    paths = {name.lower(): getattr(place, name) for name in ("BENCH", "PYTHON", "PEERS_PYTHON", "SIDECAR", "LOAD")}
    it = Running(peer, folder, {**paths, "folder": folder, "port": free_port(), "workers": workers})
    for name, text in peer.files:
        if name.endswith("|"):
            os.mkfifo(folder / name.removesuffix("|"))
        else:
            (folder / name).write_text(text.format(**it.values))
    if peer.protocol == "own":
        return it
    place.LOGS.mkdir(exist_ok=True)
    with log_of(peer).open("wb") as log:
        for command in peer.commands:
            argv = shlex.split(command.format(**it.values))
            it.processes.append(subprocess.Popen(argv, cwd=place.BENCH, stdout=log, stderr=log, start_new_session=True))
    return it


def log_of(peer: Peer) -> Path:
    return place.LOGS / f"bench-{peer.name.replace(' ', '-')}.log"


def wait_for(it: Running, every: float = 0.05) -> None:
    """Wait until it answers a call."""
    from measuring.load import answers

    end = time.monotonic() + START_WITHIN
    while it.peer.protocol != "own" and not answers(it):
        if time.monotonic() > end or any(one.poll() is not None for one in it.processes):
            raise SystemExit(f"bench: {it.peer.name} did not start; see {log_of(it.peer)}")
        time.sleep(every)


def stop(it: Running) -> None:
    for one in it.processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGTERM)
    for one in it.processes:
        try:
            one.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(one.pid, signal.SIGKILL)
            one.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)  # what it left behind
