"""One suite, two servers: the sidecar with its workers, and stand-alone mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from e2e.support.configuration import merged
from e2e.support.servers import Server


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def shared(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server for all tests of a module, configured by its CONFIG over this."""
    # One worker: what the application notes in its process is to be seen by the next call.
    base: dict[str, Any] = {"pools": {"default": {"app": "conformance:app", "size": 1, "concurrency": 8}}}
    with Server(request.param, merged(base, getattr(request.module, "CONFIG", {}))) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The module's server, from which each test takes its connections and sessions with it."""
    yield shared
    shared.disconnect()
    client = shared.client()
    for session in client.call("session.list", {"limit": 1000})["sessions"]:
        client.session(session["session"]).end()
    shared.disconnect()
