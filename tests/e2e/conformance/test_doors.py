"""Who may connect, how many, and sessions that make themselves."""

from __future__ import annotations

import os

import pytest
from dspex.errors import DspexError, PermissionDenied, QueueFull
from e2e.support.machine import until
from e2e.support.servers import Kind, Server

KINDS: tuple[Kind, ...] = ("sidecar", "standalone")
NOBODY = 65_000  # a uid that no test runs under


@pytest.mark.parametrize("kind", KINDS)
def test_a_uid_that_may_not_connect(kind: Kind) -> None:
    listen = {"allow_uids": [NOBODY], "admin_uids": [NOBODY]}
    with (
        Server(kind, {"listen": listen, "pools": {"default": {"app": "conformance:app"}}}, wait=False) as server,
        pytest.raises(PermissionDenied) as caught,
    ):
        server.client().connect()
    assert not caught.value.retryable


@pytest.mark.parametrize("kind", KINDS)
def test_one_connection_too_many(kind: Kind) -> None:
    listen = {"allow_uids": [os.getuid()], "admin_uids": [NOBODY], "max_connections": 2}
    with Server(kind, {"listen": listen, "pools": {"default": {"app": "conformance:app"}}}) as server:
        first = server.client().connect()
        until(lambda: len(first.call("sidecar.clients")["clients"]) == 1, "the one that asked for health has left")
        second = server.client().connect()
        with pytest.raises(QueueFull) as caught:
            server.client().connect()
        assert caught.value.retryable
        assert caught.value.details["retry_after_ms"] > 0
        with pytest.raises(PermissionDenied):
            first.call("session.list", {"all": True})  # no administrator
        second.close()

        def gets_in() -> bool:
            try:
                return bool(server.client().connect())
            except QueueFull:
                return False

        until(gets_in, "there is room again")
        assert first.call("echo", {"value": 1}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_sessions_that_make_themselves(kind: Kind) -> None:
    tables = {"pools": {"default": {"app": "conformance:app"}}, "sessions": {"auto_create": True, "max": 1}}
    with Server(kind, tables) as server:
        client = server.client()
        assert client.session("new").call("put", {"key": "a", "value": 1}) == 2
        assert client.session("new").state() == {"begun": 1, "a": 1}
        with pytest.raises(DspexError) as caught:
            client.session("another").call("get")
        assert caught.value.code == "session_limit"
        with pytest.raises(DspexError) as caught:
            client.session("another").info()
        assert caught.value.code == "session_not_found"
