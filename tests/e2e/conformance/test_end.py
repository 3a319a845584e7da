"""The end: SIGTERM, the drain and its limit."""

from __future__ import annotations

import time

import pytest
from dspex import wire
from dspex.errors import ConnectionLost
from e2e.support.configuration import Tables
from e2e.support.machine import WAIT, until
from e2e.support.servers import Kind, Server

KINDS: tuple[Kind, ...] = ("sidecar", "standalone")
APP: Tables = {"pools": {"default": {"app": "conformance:app", "size": 1}}}


@pytest.mark.parametrize("kind", KINDS)
def test_sigterm_drains(kind: Kind) -> None:
    with Server(kind, APP) as server:
        connection = server.raw()
        connection.call("session.create", session="s")
        connection.request(50, "ask", {"session": "s"}, question="double", value=1)
        question = connection.until(lambda message: isinstance(message, wire.Request))
        connection.request(51, "put", {"session": "s"}, key="a", value=1)
        until(lambda: connection.call("sidecar.stats")["queued"] == 1, "the second has been read")
        server.process.terminate()
        told = connection.notification()
        assert told.method == "goaway"
        assert told.params["drain_ms"] == 30_000
        assert told.params["reason"]
        for method in ("echo", "session.create"):
            error = connection.error(method, value=1) if method == "echo" else connection.error(method)
            assert (error["code"], error["retryable"]) == ("draining", True)
        assert connection.call("echo", {"parent": question.id}, value=3) == 3  # for a call that was taken in before
        assert connection.call("sidecar.stats")["in_flight"] >= 1
        with pytest.raises(ConnectionLost):
            server.client(wait=0).connect()
        connection.send(wire.encode_response(question.id, None, "answer"))
        assert connection.response(50).result == "answer"
        assert connection.response(51).result == 2
        assert connection.receive() is None
        assert server.process.wait(WAIT) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_sigterm_waits_no_longer(kind: Kind) -> None:
    with Server(kind, APP) as server:
        connection = server.raw()
        for id, method in ((50, "wait"), (51, "spin")):
            connection.request(id, method)
            connection.question()
        server.family()
        server.process.terminate()
        assert connection.notification().method == "goaway"
        server.process.terminate()
        began = time.monotonic()
        for id in (50, 51):
            assert (connection.response(id).error or {})["code"] == "cancelled"
        assert server.process.wait(WAIT) == 0
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_drain_has_a_limit(kind: Kind) -> None:
    tables = {"pools": {"default": {"app": "conformance:app", "size": 1, "shutdown_timeout": "200ms"}}}
    with Server(kind, tables) as server:
        connection = server.raw()
        connection.request(50, "wait")
        connection.question()
        server.family()
        server.process.terminate()
        assert (connection.response(50).error or {})["code"] == "cancelled"
        assert server.process.wait(WAIT) == 0
