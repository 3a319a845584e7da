"""One suite, two servers (the sidecar with its workers, stand-alone mode), and two clients (Python's, Node's)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from e2e.support import node_client
from e2e.support.configuration import merged
from e2e.support.node_client import NodeClient
from e2e.support.servers import Server

# What makes a client, in a test's own text or by a fixture of its. Other tests send frames themselves, and need to run
# once only, or name the clients that they are about.
_MAKES = (".client(", "provoke(")
_MADE = "session"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    source = inspect.getsource(metafunc.function)
    if _MADE in metafunc.fixturenames or any(made in source for made in _MAKES):
        metafunc.parametrize("speaks", ["python", "node"], indirect=True)


@pytest.fixture(autouse=True)
def speaks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose client the servers give to the test."""
    kind: str = getattr(request, "param", "python")
    if kind == "node":
        monkeypatch.setattr(Server, "clients", NodeClient)
    return kind


@pytest.fixture(scope="session", autouse=True)
def _drivers() -> Iterator[None]:
    yield
    if node_client.driver.cache_info().currsize:
        node_client.driver().close()


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
