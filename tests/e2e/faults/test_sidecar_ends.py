"""The sidecar's own end: killed, so that nothing outlives it; asked to, under load."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
from dspex import Client
from dspex.errors import ConnectionLost, Draining, DspexError, NoWorkers, WorkerLost
from e2e.faults.conftest import BASE
from e2e.support.configuration import merged
from e2e.support.machine import WAIT, until
from e2e.support.servers import Server

START = ("zygote", "spawn")


def started(**pool: Any) -> Server:
    return Server("sidecar", merged(BASE, {"pools": {"default": {"size": 3, **pool}}}))


def kill_everything(server: Server) -> float:
    """Kill the sidecar; returns the seconds after which no process of it was left."""
    server.family()
    server.disconnect()
    began = time.monotonic()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.left(), f"no process is left: {server.left()}")
    return time.monotonic() - began


@pytest.mark.parametrize("start", START)
def test_killed_nothing_is_left_a_second_later(start: Literal["zygote", "spawn"]) -> None:
    server = started(start=start)
    try:
        client = server.client()
        left = client.call("leave_children")
        assert {one.pid for one in server.family()} >= set(left)
        assert kill_everything(server) < 1.0
    finally:
        server.kill()


@pytest.mark.parametrize("start", START)
def test_killed_while_workers_start(start: Literal["zygote", "spawn"]) -> None:
    for moment in range(4):
        server = Server("sidecar", merged(BASE, {"pools": {"default": {"size": 6, "start": start}}}), wait=False)
        try:
            until(lambda server=server, moment=moment: len(server.family()) >= moment, "some have been started")  # type: ignore[misc]
            assert kill_everything(server) < 1.0
        finally:
            server.kill()


def test_killed_in_the_middle_of_calls_that_do_not_end(tmp_path: Path) -> None:
    server = started()
    try:
        connection = server.raw()
        for id, method in ((50, "hold_interpreter"), (51, "block")):
            connection.request(id, method, marker=str(tmp_path / method))
            until((tmp_path / method).exists, f"{method} has begun")
        for one in server.family():
            if "worker_3" in one.command:
                os.kill(one.pid, signal.SIGSTOP)
        assert kill_everything(server) < 1.0
        assert connection.socket.fileno() == -1
    finally:
        server.kill()


def test_the_keeper_is_killed() -> None:
    """Its workers go with it, the sidecar begins anew, and sessions are restored."""
    with started() as server:
        client = server.client()
        session = client.create_session()
        assert session.call("increment") == 1
        before = server.family()
        (keeper,) = (one for one in before if "keeper" in one.command)
        os.kill(keeper.pid, signal.SIGKILL)
        until(lambda: not [one for one in before if one.lives], "what it kept is gone")

        refused: list[DspexError] = []

        def increment() -> int | None:
            try:
                count: int = session.call("increment")
            except (NoWorkers, WorkerLost) as error:  # it may meet a worker whose death is not known yet
                refused.append(error)
                return None
            return count

        assert until(increment, "workers are there again") == 2
        assert all(error.retryable for error in refused if isinstance(error, NoWorkers))
        server.healthy()


def test_sigterm_under_load() -> None:
    """Who is told goes elsewhere; what was taken in is finished; nothing is done that is not answered."""
    outcomes: Counter[str] = Counter()
    going = threading.Event()

    def work(path: str, number: int) -> tuple[int, int]:
        answered = 0
        with Client(path, timeout=20, reconnect=0.2) as client:
            while True:
                try:
                    got = client.session(f"s{number}").call("increment", {"seconds": 0.005})
                except (Draining, ConnectionLost) as error:
                    outcomes[error.code] += 1
                    return answered, number
                answered += 1
                outcomes["answered"] += 1
                assert got == answered
                if outcomes["answered"] > 100:
                    going.set()

    with started() as server:
        client = server.client()
        for number in range(8):
            client.create_session(f"s{number}")
        slow = server.raw()
        slow.request(50, "sleep", seconds=0.5)
        until(lambda: slow.call("sidecar.calls")["calls"], "it runs")
        with ThreadPoolExecutor(8) as pool:
            work_done = [pool.submit(work, server.path, number) for number in range(8)]
            assert going.wait(WAIT)
            server.family()
            server.process.terminate()
            assert slow.notification().method == "goaway"
            assert slow.response(50).error is None  # it was in flight
            for one in work_done:
                one.result(30)
        assert slow.receive() is None
        assert server.process.wait(WAIT) == 0
    assert outcomes["draining"] + outcomes["connection_lost"] == 8


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    with started(shutdown_timeout="30s") as server:
        connection = server.raw()
        connection.request(50, "hold_interpreter", marker=str(tmp_path / "began"))
        until((tmp_path / "began").exists, "it has begun")
        server.family()
        server.process.terminate()
        assert connection.notification().method == "goaway"
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(WAIT) == 0
        assert time.monotonic() - began < 5


def test_sigint_is_the_same() -> None:
    with started() as server:
        client = server.client()
        assert client.call("echo", {"value": 1}) == 1
        server.family()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(WAIT) == 0
        with pytest.raises(DspexError):
            client.call("echo", {"value": 1}, timeout=1)


def test_a_log_that_nobody_reads_any_more_ends_nothing() -> None:
    prefix = ("bash", "-c", 'exec "$@" 2> >(head -n 1 > first; touch gone)', "bash")
    with Server("sidecar", BASE, prefix=prefix) as server:
        until((server.folder / "gone").exists, "nobody reads the log")
        with server.client() as client:
            for level in ("debug", "info") * 5:
                client.call("admin.log_level", {"level": level})
            assert client.call("echo", {"value": 1}) == 1
        assert "listening" in (server.folder / "first").read_text()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0
