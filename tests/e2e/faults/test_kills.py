"""Workers that are killed: idle, in a call, in a stream, again and again under load."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dspex import Client
from dspex.errors import WorkerLost
from e2e.support.machine import until
from e2e.support.servers import Server

SIZE = 4
CONFIG = {"pools": {"default": {"size": SIZE, "concurrency": 4}}}


def pids(client: Client) -> dict[str, int]:
    return {w["worker"]: w["pid"] for w in client.call("sidecar.workers")["workers"] if w["state"] == "ready"}


def running(client: Client, method: str) -> dict[str, Any]:
    """Wait until a call of this method runs."""

    def find() -> dict[str, Any]:
        calls = client.call("sidecar.calls")["calls"]
        return next((c for c in calls if c["method"] == method and c["state"] == "running"), {})

    return until(find, f"{method} runs")


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def go(path: Path) -> None:
    with path.open("a") as file:
        file.write("go\n")


def test_idle(server: Server) -> None:
    client = server.client()
    sessions = [client.create_session() for _ in range(SIZE * 2)]
    for session in sessions:
        assert session.call("increment") == 1
    before = pids(client)
    pinned = {session: session.info()["worker"] for session in sessions}
    assert set(pinned.values()) == set(before)
    for worker, pid in before.items():
        os.kill(pid, signal.SIGKILL)
        for (
            session
        ) in sessions:  # restored elsewhere; a call that meets a worker before its death is known is run again
            if pinned[session] == worker:
                assert session.call("increment", retry="safe") == 2
    until(lambda: len(pids(client)) == SIZE, "the workers are replaced")
    assert not set(before.values()) & set(pids(client).values())
    (pool,) = client.call("sidecar.pools")["pools"]
    assert "SIGKILL" in pool["last_failure"]


def test_in_a_call(server: Server) -> None:
    client = server.client()
    session = client.create_session()
    session.call("increment")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(session.call, "increment", {"seconds": 3600})
        worker = running(client, "increment")["worker"]
        os.kill(pids(client)[worker], signal.SIGKILL)
        with pytest.raises(WorkerLost) as caught:
            call.result(20)
    error = caught.value
    assert (error.details["worker"], error.details["maybe_executed"], error.retryable) == (worker, True, False)
    assert "SIGKILL" in error.details["reason"]
    assert session.state() == {"n": 1}
    assert session.call("increment") == 2


@pytest.mark.parametrize("how", ["declared", "asked for"])
def test_a_call_that_is_safe_is_run_again_once(server: Server, tmp_path: Path, how: str) -> None:
    client, marker = server.client(), tmp_path / "marker"

    def work() -> int:
        if how == "declared":
            pid: int = client.call("safe", {"marker": str(marker)})
        else:
            pid = client.call("unsafe", {"marker": str(marker)}, retry="safe")
        return pid

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(work)
        until(lambda: len(lines(marker)) == 1, "it runs")
        os.kill(int(lines(marker)[0]), signal.SIGKILL)
        until(lambda: len(lines(marker)) == 2, "it runs again")
        go(marker)
        assert call.result(20) == int(lines(marker)[1])
        marker.unlink()
        call = pool.submit(work)
        for times in (1, 2):
            until(lambda times=times: len(lines(marker)) == times, "it runs")  # type: ignore[misc]
            os.kill(int(lines(marker)[-1]), signal.SIGKILL)
        with pytest.raises(WorkerLost):
            call.result(20)
    assert len(lines(marker)) == 2


def test_a_call_that_is_not_safe_is_not_run_again(server: Server, tmp_path: Path) -> None:
    client, marker = server.client(), tmp_path / "marker"
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.call, "unsafe", {"marker": str(marker)})
        until(lambda: lines(marker), "it runs")
        os.kill(int(lines(marker)[0]), signal.SIGKILL)
        with pytest.raises(WorkerLost):
            call.result(20)
    assert len(lines(marker)) == 1


def test_in_a_stream(server: Server, tmp_path: Path) -> None:
    """A stream of which nothing was delivered is run again where it is safe, and else not."""
    client, marker = server.client(), tmp_path / "marker"
    stream = client.stream("safe_stream", {"marker": str(marker), "before": 3})
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    until(lambda: lines(marker), "it runs")
    os.kill(int(lines(marker)[0]), signal.SIGKILL)
    with pytest.raises(WorkerLost):
        next(stream)
    marker.unlink()
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(list, client.stream("safe_stream", {"marker": str(marker), "before": 0}))
        until(lambda: lines(marker), "it runs")
        os.kill(int(lines(marker)[0]), signal.SIGKILL)
        until(lambda: len(lines(marker)) == 2, "it runs again")
        go(marker)
        assert got.result(20) == [0]


def test_a_call_that_ends_its_worker_is_not_taken_for_a_restore(server: Server) -> None:
    """It has begun, though the session's state came right before it; the session is not quarantined for it."""
    session = server.client().create_session(state={"n": 7})
    for _ in range(3):
        with pytest.raises(WorkerLost) as caught:
            session.call("end_at_once")
        assert caught.value.details["maybe_executed"] is True
    assert session.call("increment") == 8


@pytest.mark.parametrize(
    ("how", "reason"), [("segfault", "SIGSEGV"), ("exit", "7"), ("kill", "SIGKILL"), ("abort", "SIGABRT")]
)
def test_a_worker_that_ends_by_itself(server: Server, how: str, reason: str) -> None:
    with pytest.raises(WorkerLost) as caught:
        server.client().call("end", {"how": how})
    assert reason in caught.value.details["reason"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\0", "a frame of length 0"),
        (b"\0\0\0\6\x95\x01\x7f\xc0\xc0\xc0", "a response to 127"),
    ],
    ids=["structure", "id"],
)
def test_a_worker_that_writes_garbage(server: Server, data: bytes, reason: str) -> None:
    client = server.client()
    with pytest.raises(WorkerLost) as caught:
        client.call("write_garbage", {"data": data})
    assert reason in caught.value.details["reason"]


def test_a_worker_that_closes_its_channel_and_lives(server: Server) -> None:
    client = server.client()
    before = server.family()
    with pytest.raises(WorkerLost) as caught:
        client.call("close_channel")
    assert "closed its channel" in caught.value.details["reason"]
    until(lambda: len([one for one in before if one.lives]) < len(before), "it is gone")


def test_a_workers_children_go_with_it(server: Server) -> None:
    client = server.client()
    left = client.call("leave_children")
    children = {one for one in server.family() if one.pid in left}
    assert len(children) == 3
    session = client.create_session()
    session.call("increment")
    for pid in pids(client).values():
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: not [one for one in children if one.lives], "the children are gone", 1.5
    )  # 1 s, and some for a busy machine
