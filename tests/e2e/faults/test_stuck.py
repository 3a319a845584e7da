"""Workers that do not answer: stopped, in C code that keeps the interpreter, in methods that do not let go."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from dspex import Client, wire
from dspex.errors import DeadlineExceeded
from e2e.support.machine import until
from e2e.support.servers import Server
from runtime.harness import Connection

CONFIG: dict[str, Any] = {
    "pools": {
        "default": {
            "concurrency": 4,
            "cancel_grace": "500ms",
            "health_check_interval": "500ms",
            "health_check_timeout": "3s",
        }
    }
}


def pid_of(client: Client, worker: str) -> int:
    workers = client.call("sidecar.workers")["workers"]
    return next((one["pid"] for one in workers if one["worker"] == worker), 0)


def worker_of(connection: Connection, id: int) -> str:
    (call,) = (one for one in connection.call("sidecar.calls")["calls"] if one["id"] == id)
    worker: str = call["worker"]
    return worker


def in_c(connection: Connection, id: int, method: str, marker: Path, meta: dict[str, Any] | None = None) -> str:
    """Send a call, wait until it is in C code, and return its worker."""
    connection.request(id, method, meta, marker=str(marker))
    until(marker.exists, f"{method} has begun")
    return worker_of(connection, id)


def error_of(connection: Connection, id: int) -> dict[str, Any]:
    error = connection.response(id).error
    assert error is not None
    return error


def gone(client: Client, worker: str) -> None:
    until(lambda: not pid_of(client, worker), f"{worker} is replaced")


def test_a_stopped_worker_is_noticed_by_its_heartbeat(server: Server) -> None:
    client, connection = server.client(), server.raw()
    session = client.create_session()
    assert session.call("increment") == 1
    worker = session.info()["worker"]
    connection.request(50, "increment", {"session": session.id}, seconds=3600)
    until(lambda: connection.call("sidecar.calls")["calls"], "it runs")
    os.kill(pid_of(client, worker), signal.SIGSTOP)
    error = error_of(connection, 50)
    assert (error["code"], error["details"]["worker"]) == ("worker_lost", worker)
    assert "heartbeat" in error["details"]["reason"]
    assert session.call("increment") == 2
    assert session.info()["worker"] != worker


def test_a_stopped_worker_and_a_deadline(server: Server) -> None:
    """The caller is not kept waiting for what the heartbeat finds out."""
    client, connection = server.client(), server.raw()
    session = client.create_session()
    session.call("increment")
    worker = session.info()["worker"]
    os.kill(pid_of(client, worker), signal.SIGSTOP)
    began = time.monotonic()
    connection.request(50, "increment", {"session": session.id, "timeout_ms": 200})
    error = error_of(connection, 50)
    assert error["code"] == "deadline_exceeded"
    assert error["details"]["ended_by"] in ("pending", "kill")
    assert 0.2 <= time.monotonic() - began < 2.5
    gone(client, worker)
    assert session.call("increment") == 2


def test_c_code_that_keeps_the_interpreter(server: Server, tmp_path: Path) -> None:
    """The ladder: the deadline, a cancel that cannot arrive, SIGKILL; the others in that worker get their grace."""
    client, connection, other = server.client(), server.raw(), server.raw()
    session = client.create_session()
    assert session.call("increment") == 1
    began = time.monotonic()
    meta = {"session": session.id, "timeout_ms": 1000}
    worker = in_c(connection, 50, "hold_interpreter", tmp_path / "began", meta)
    pid = pid_of(client, worker)
    error = error_of(connection, 50)
    assert error["code"] == "deadline_exceeded"
    assert error["details"]["ended_by"] in ("pending", "kill")
    assert 1.0 <= time.monotonic() - began < 5
    gone(client, worker)
    until(lambda: not os.path.exists(f"/proc/{pid}"), "it has been killed")
    assert session.call("increment") == 2
    server.logged("killing worker")
    assert other.call("echo", value=1) == 1
    reason = client.call("sidecar.pools")["pools"][0]["last_failure"]
    assert worker in reason
    assert "500ms" in reason or "heartbeat" in reason


def test_what_runs_beside_a_method_that_does_not_let_go(server: Server, tmp_path: Path) -> None:
    """Calls in the same worker get their grace; those elsewhere notice nothing."""
    client, connection = server.client(), server.raw()
    ids = range(60, 64)
    for id in ids:
        connection.request(id, "sleep", seconds=3)
    worker = in_c(connection, 50, "block", tmp_path / "began")
    running = {one["id"]: one["worker"] for one in connection.call("sidecar.calls")["calls"]}
    connection.send(wire.encode_cancel(50))
    error = error_of(connection, 50)
    assert error["code"] == "cancelled"
    assert error["details"]["ended_by"] in ("pending", "kill")
    if error["details"]["ended_by"] == "pending":
        assert "in block" in error["details"]["stacks"]
        assert 0 <= error["details"]["kill_in_ms"] <= 500
        server.logged('"ended_by":"kill"')
    assert len({running[id] for id in ids}) == 2
    for id in ids:
        response = connection.response(id)
        if running[id] != worker:
            assert response.error is None
            continue
        assert response.error is not None
        assert (response.error["code"], response.error["details"]["worker"]) == ("worker_lost", worker)
        assert "told to stop" in response.error["details"]["reason"]
    gone(client, worker)


def test_a_loop_that_is_blocked(server: Server, tmp_path: Path) -> None:
    client, connection = server.client(), server.raw()
    worker = in_c(connection, 50, "block_loop", tmp_path / "began", {"timeout_ms": 1000})
    error = error_of(connection, 50)
    assert error["code"] == "deadline_exceeded"
    assert "in block_loop" in error["details"]["stacks"], error
    gone(client, worker)


def test_an_answer_that_names_the_last_step(tmp_path: Path) -> None:
    pool = {"app": "faulty:app", "size": 1, "cancel_grace": "200ms", "stop_report": "200ms"}
    with Server("sidecar", {"pools": {"default": pool}}) as server:
        connection = server.raw()
        for id, method in enumerate(("block", "block_loop", "hold_interpreter"), 50):
            in_c(connection, id, method, tmp_path / method)
            connection.send(wire.encode_cancel(id))
            error = error_of(connection, id)
            assert error["code"] == "cancelled"
            assert error["details"]["ended_by"] == "kill"
            assert f"in {method}" in error["details"]["stacks"]
            assert "kill_in_ms" not in error["details"]
            server.healthy()
        with pytest.raises(DeadlineExceeded) as exceeded:  # a client waits for that answer
            server.client().call("block", {"marker": str(tmp_path / "again")}, timeout=0.5)
        assert exceeded.value.details["ended_by"] == "kill"


def test_pure_python_that_spins(server: Server) -> None:
    """No process has to die for it."""
    client, connection = server.client(), server.raw()
    connection.request(50, "spin", {"timeout_ms": 300})
    connection.question()
    worker = worker_of(connection, 50)
    pid = pid_of(client, worker)
    error = error_of(connection, 50)
    assert error["code"] == "deadline_exceeded"
    assert error["details"]["ended_by"] in ("thread", "pending")
    until(lambda: client.call("sidecar.stats")["in_flight"] == 0, "the thread is free")
    assert pid_of(client, worker) == pid


def test_a_client_that_leaves_a_stuck_call_behind(server: Server, tmp_path: Path) -> None:
    client, connection = server.client(), server.raw()
    worker = in_c(connection, 50, "hold_interpreter", tmp_path / "began")
    connection.close()
    gone(client, worker)
    assert client.call("echo", {"value": 1}) == 1
