"""Fixtures: a worker of a pool, a stand-alone server, and a client of each kind to run the same tests against both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.harness import Connection, Server, Worker, Zygote


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


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(params=["pool-worker", "forked", "standalone"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """A connection to the test application: over a worker channel, started or forked, and to a stand-alone server."""
    if request.param == "pool-worker":
        worker = Worker().ready()
        yield worker
        worker.close()
    elif request.param == "forked":
        forked = request.getfixturevalue("zygote").fork().ready()
        yield forked
        forked.end()
    else:
        server = Server(tmp_path, "--concurrency", "8")
        yield server.connect()
        server.close()
