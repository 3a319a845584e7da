"""`bench` before a real sidecar: the load of docs/cli.md, in both loops, and one that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.support.configuration import SIDECAR
from e2e.support.machine import WAIT, until
from e2e.support.servers import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pool = {"app": "faulty:app", "queue_limit": 10_000}  # the default is less than the 5,000 calls that come at once
    with Server("sidecar", {"pools": {"default": pool}}) as server:
        yield server


def bench(server: Server, *arguments: str) -> subprocess.Popen[str]:
    command: list[str | Path] = [SIDECAR, "bench", "--socket", server.path, "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == code, err
    report: dict[str, Any] = json.loads(out)
    return report


def test_a_hundred_sessions_with_fifty_calls(server: Server, tmp_path: Path) -> None:
    """Each session's calls are sent at once and none is lost; nothing of the load is left."""
    page = tmp_path / "bench.html"
    arguments = ("--sessions", "100", "--calls", "50", "--method", "increment", "--html", str(page))
    report = done(bench(server, *arguments))
    assert (report["succeeded"], report["failed"], report["errors"]) == (5000, 0, [])
    assert report["create"]["count"] == report["end"]["count"] == 100
    assert report["ran"]["count"] == 5000
    assert server.client().call("session.list", {"all": True})["sessions"] == []
    assert page.read_text().startswith("<!doctype html>")


def test_an_open_loop(server: Server) -> None:
    arguments = ("--sessions", "10", "--calls", "20", "--rate", "200", "--method", "sleep", "--params")
    report = done(bench(server, *arguments, '{"seconds": 0.1}'))
    assert (report["loop"], report["succeeded"]) == ("open", 200)
    assert report["took_ms"] > 1000  # as scheduled, and not as fast as may be
    assert report["call"]["min_us"] >= 99_000


def test_interrupted(server: Server) -> None:
    process = bench(
        server,
        "--sessions",
        "2",
        "--calls",
        "1000",
        "--in-flight",
        "1",
        "--method",
        "sleep",
        "--params",
        '{"seconds": 0.05}',
    )
    until(lambda: server.client().call("sidecar.stats")["active_sessions"] == 2, "the load has begun")
    until(lambda: server.client().call("sidecar.stats")["in_flight"] > 0, "a call is made")
    os.kill(process.pid, signal.SIGINT)
    report = done(process, 130)
    assert report["interrupted"]
    assert report["errors"] == []
    assert report["end"]["count"] == 2
