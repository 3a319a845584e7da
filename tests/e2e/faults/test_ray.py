"""Rows run on a Ray cluster of two nodes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dspex.errors import BudgetExceeded, Cancelled, NoWorkers, WorkerLost
from e2e.support import machine
from e2e.support.configuration import APPLICATIONS
from e2e.support.machine import until
from e2e.support.ray_cluster import NODES, RayCluster
from e2e.support.servers import Server
from support.learning import ROWS, Learner
from support.openai_server import OpenAIServer

KEY = "a-key-that-stays-where-it-is"
HELD: dict[str, Any] = {"program": "held", "metric": "where", "outputs": True, "concurrency": 4}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster({"PYTHONPATH": str(APPLICATIONS)}) as cluster:
        yield cluster
    left = machine.family(cluster.pid)
    assert not left, left


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=Learner()) as lm:
        yield lm


def serving(lm: OpenAIServer, address: str) -> Server:
    model = {"model": "openai/m", "api_base": lm.base, "api_key": "env:K", "adapter": "json", "default": True}
    tables = {
        "pools": {"default": {"app": "scored:app", "size": 1}},
        "models": {"main": {**model, "input_price": 1.0, "output_price": 1.0}},
        "optimize": {"executor": "ray", "address": address},
    }
    return Server("sidecar", tables, environment={"K": KEY})


@pytest.fixture(scope="module")
def server(lm: OpenAIServer, cluster: RayCluster) -> Iterator[Server]:
    with serving(lm, cluster.address) as server:
        yield server


def on_nodes(cluster: RayCluster) -> set[int]:
    """The processes of runs on the cluster's nodes."""
    return {one.pid for one in machine.family(cluster.pid) if one.command.startswith("ray::Node")}


def none_left(server: Server, cluster: RayCluster) -> None:
    until(lambda: not on_nodes(cluster), "the cluster runs nothing for this run")
    client = server.client()
    until(lambda: len(client.call("sidecar.workers")["workers"]) == 1, "the run's process has ended")


def held_rows(folder: Path, count: int = 8) -> list[dict[str, Any]]:
    return [{**row, "folder": str(folder)} for row in ROWS[:count]]


def on_both(folder: Path) -> None:
    """Wait until held rows run on both nodes."""
    until(lambda: len({path.name.partition("-")[0] for path in folder.iterdir()}) == NODES, "rows run on both nodes")


def test_a_program_is_optimised_on_both_nodes(server: Server, cluster: RayCluster, lm: OpenAIServer) -> None:
    session = server.client().create_session()
    session.create_program("p", "text -> answer")
    before = len(lm.requests)
    given = {"program": "p", "optimizer": "bootstrap", "metric": "where", "trainset": ROWS}
    stream = session.stream("optimize_program", {**given, "limits": {"lm_calls": 100, "cost": 1.0}}, timeout=60)
    items = list(stream)
    result = stream.result
    assert (result["baseline"], result["score"], result["version"]) == (0.0, 1.0, 2)
    assert list(dict.fromkeys(item["phase"] for item in items)) == ["connect", "baseline", "optimize", "score"]
    assert result["usage"]["lm_calls"] == len(lm.requests) - before == items[-1]["lm_calls"]
    assert items[-1]["cost"] > 0
    scored = session.stream("evaluate_program", {**given_rows(), "program": "p", "outputs": True}, timeout=60)
    assert list(scored)
    pids = {int(row["feedback"]) for row in scored.result["rows"]}
    assert len(pids) == NODES
    assert pids.isdisjoint(one.pid for one in server.family())
    assert scored.result["score"] == 1
    none_left(server, cluster)
    assert b"QQAX" not in logs_of(cluster)
    assert KEY.encode() not in logs_of(cluster)


def given_rows() -> dict[str, Any]:
    return {"devset": ROWS, "metric": "where"}


def logs_of(cluster: RayCluster) -> bytes:
    return b"".join(path.read_bytes() for path in cluster.folder.rglob("*") if path.is_file())


def test_a_limit_a_cancel_and_a_kill_leave_nothing_on_the_cluster(
    server: Server, cluster: RayCluster, lm: OpenAIServer, tmp_path: Path
) -> None:
    client = server.client()
    (tmp_path / "go").touch()
    rows = held_rows(tmp_path)
    with pytest.raises(BudgetExceeded) as caught:
        list(client.stream("evaluate_program", {**HELD, "devset": rows, "limits": {"lm_calls": 5}}, timeout=60))
    assert caught.value.details["resource"] == "lm_calls"
    assert 0 < len(caught.value.details["best"]["rows"]) <= 5
    none_left(server, cluster)
    for end, kind in (("cancel", Cancelled), ("kill", WorkerLost)):
        folder = tmp_path / end
        folder.mkdir()
        pool = {one["pid"] for one in client.call("sidecar.workers")["workers"]}
        with ThreadPoolExecutor(1) as threads:
            stream = client.stream("evaluate_program", {**HELD, "devset": held_rows(folder)}, timeout=60)
            call = threads.submit(list, stream)
            on_both(folder)
            began = time.monotonic()
            if end == "cancel":
                client.call("runs.cancel", {"run": client.call("runs.list")["runs"][-1]["run"]})
            else:
                (pid,) = {one["pid"] for one in client.call("sidecar.workers")["workers"]} - pool
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(kind):
                call.result(20)
            assert time.monotonic() - began < 2  # a second, on a machine that is free
        none_left(server, cluster)


def test_a_cluster_that_cannot_be_reached_is_told_soon(lm: OpenAIServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with serving(lm, address) as server:
        began = time.monotonic()
        with pytest.raises(NoWorkers, match=r"Ray cluster at 127\.0\.0\.1:\d+ cannot be used \(\[optimize\] address\)"):
            list(server.client().stream("evaluate_program", {**HELD, "devset": held_rows(Path("/x"))}, timeout=60))
        assert time.monotonic() - began < 10


def test_rows_of_a_node_that_is_lost_run_on_the_other(server: Server, cluster: RayCluster, tmp_path: Path) -> None:
    given = {**HELD, "devset": held_rows(tmp_path)}
    with ThreadPoolExecutor(1) as threads:
        stream = server.client().stream("evaluate_program", given, timeout=60)
        call = threads.submit(list, stream)
        on_both(tmp_path)
        cluster.kill_a_node()  # there is one from here on
        (tmp_path / "go").touch()
        call.result(60)
    assert [row["index"] for row in stream.result["rows"]] == list(range(8))
    assert stream.result["errors"]["count"] == 0
    none_left(server, cluster)
