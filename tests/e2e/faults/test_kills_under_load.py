"""Kill -9 again and again while clients work: each call settles once, and sessions hold what was answered."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from dspex import Client
from dspex.errors import DspexError
from e2e.support.machine import until
from e2e.support.servers import Server

CONFIG = {"pools": {"default": {"size": 4, "concurrency": 4}}}
KILLS = 50
THREADS = 8


def ready(client: Client) -> list[int]:
    return [one["pid"] for one in client.call("sidecar.workers")["workers"] if one["state"] == "ready"]


def test_fifty_kills_under_load(server: Server) -> None:
    """Each call settles once; what was answered is there, and nothing else is."""
    done = threading.Event()
    outcomes: Counter[str] = Counter()
    sums: list[tuple[int, int]] = []

    def work(number: int) -> None:
        with Client(server.path, timeout=30) as client, client.create_session(f"load {number}") as session:
            answered = 0
            while not done.is_set():
                try:
                    got = session.call(("increment", "increment_in_thread")[answered % 2])
                except DspexError as error:
                    outcomes[error.code] += 1
                else:
                    answered += 1
                    assert got == answered
                    outcomes["answered"] += 1
            sums.append((answered, session.state().get("n", 0)))
            assert session.call("get")["n"] == answered

    client, choice, killed = server.client(), random.Random(1), set[int]()
    with ThreadPoolExecutor(THREADS) as pool:
        work_done = [pool.submit(work, number) for number in range(THREADS)]
        try:
            while len(killed) < KILLS:
                found = until(lambda: [pid for pid in ready(client) if pid not in killed], "a worker is ready")
                before = outcomes.total()
                pid = choice.choice(found)
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
                until(lambda before=before: outcomes.total() > before + 20, "calls go on")  # type: ignore[misc]
        finally:
            done.set()
        for one in work_done:
            one.result(60)
    assert len(sums) == THREADS
    assert [answered for answered, _ in sums] == [state for _, state in sums]
    assert outcomes["answered"] > KILLS * 10
    assert set(outcomes) <= {"answered", "worker_lost"}, outcomes
