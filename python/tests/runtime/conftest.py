"""Fixtures: a worker of a pool, a stand-alone server, and a client of each kind to run the same tests against both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.harness import Connection, Server, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker().ready()
    yield worker
    worker.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts stand-alone servers."""
    servers: list[Server] = []

    def start(*options: str, **more: Any) -> Server:
        servers.append(Server(tmp_path, *options, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(params=["pool-worker", "standalone"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """A connection to the test application, once over a worker channel, once to a stand-alone server."""
    if request.param == "pool-worker":
        worker = Worker().ready()
        yield worker
        worker.close()
    else:
        server = Server(tmp_path, "--concurrency", "8")
        yield server.connect()
        server.close()
