"""A sidecar for each module, which has to be as before after each test; and somebody who must not notice anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dspex import Client
from e2e.support.configuration import merged
from e2e.support.held import Held
from e2e.support.machine import until
from e2e.support.servers import Server

BASE: dict[str, Any] = {"pools": {"default": {"app": "faulty:app"}}}


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One sidecar for all tests of a module, configured by its CONFIG over this."""
    with Server("sidecar", merged(BASE, getattr(request.module, "CONFIG", {}))) as server:
        client = server.client()
        for _ in range(4):  # what is made with first calls is there
            client.call("echo", {"value": 1})
        server.disconnect()
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The module's sidecar. After the test it has to hold what it held before."""
    shared.healthy()
    before, said = Held.by(shared), len(shared.log)
    yield shared
    print(shared.log[said:][-8000:])  # shown where the test failed
    before.comes_back(shared)


class Bystander:
    """Makes one call after the other, on a connection of its own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.calls = 0
        self.slowest = 0.0
        self.error: BaseException | None = None

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        until(lambda: self.calls or self.error, "a call was made")
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            with Client(self._path, timeout=20) as client:
                while not self._stop.is_set():
                    began = time.monotonic()
                    assert client.call("echo", {"value": self.calls}) == self.calls
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    self.calls += 1
                    time.sleep(0.002)
        except BaseException as error:  # noqa: BLE001 - told where the test waits for it
            self.error = error


@pytest.fixture
def bystander(server: Server) -> Iterator[Bystander]:
    """Somebody whose calls neither fail nor take long, whatever others do."""
    with Bystander(server.path) as one:
        yield one
    assert one.error is None, one.error
    assert one.calls > 0
    assert one.slowest < 5.0
