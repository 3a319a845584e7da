"""Limits: frames in both directions, calls in flight, the queue, sessions."""

from __future__ import annotations

from typing import Any

import pytest
from dspex import wire
from dspex.errors import DspexError, FrameTooLarge, SessionLimit
from e2e.conformance.differences import expected
from e2e.support.machine import until
from e2e.support.servers import Server

LIMIT = 64 << 10
CONFIG: dict[str, Any] = {
    "listen": {"max_frame": LIMIT, "max_in_flight": 3},
    "pools": {"default": {"concurrency": 1, "queue_limit": 2, "checkout_timeout": "500ms"}},
    "sessions": {"max": 2, "max_state": 1024},
}


@pytest.mark.parametrize("length", [LIMIT + 1, LIMIT * 3, 20 << 20])
def test_a_request_that_is_too_long(server: Server, length: int) -> None:
    connection = server.raw()
    body = len(wire.encode_request(50, "echo", None, {"value": bytes(length)})) - 4
    connection.request(50, "echo", value=bytes(length))
    error = connection.response(50).error
    assert error is not None
    assert (error["code"], error["retryable"]) == ("frame_too_large", False)
    assert error["details"] == {"limit": LIMIT, "length": body}
    assert connection.call("echo", value=1) == 1


def test_the_longest_request(server: Server) -> None:
    connection = server.raw()
    room = LIMIT - (len(wire.encode_request(50, "echo", None, {"value": bytes(LIMIT - 100)})) - 4 - (LIMIT - 100))
    connection.request(50, "echo", value=bytes(room))
    assert len(connection.response(50).result) == room
    connection.request(51, "echo", value=bytes(room + 1))
    assert (connection.response(51).error or {})["code"] == "frame_too_large"


def test_a_long_frame_that_belongs_to_no_call(server: Server) -> None:
    connection = server.raw()
    connection.send((LIMIT + 10).to_bytes(4, "big") + b"\x92\x09" + bytes(LIMIT + 8))
    told = connection.notification()
    assert (told.method, told.params["code"], told.params["id"]) == ("protocol_error", "frame_too_large", None)
    assert connection.call("echo", value=1) == 1


def test_the_client_knows_the_limit(server: Server) -> None:
    client = server.client()
    with pytest.raises(FrameTooLarge) as caught:
        client.call("echo", {"value": bytes(LIMIT)})
    assert caught.value.details["limit"] == LIMIT
    assert client.call("echo", {"value": 1}) == 1


def test_the_receivers_limit_settles_the_call(server: Server) -> None:
    connection = server.raw({"max_frame": LIMIT})
    error = connection.error("big", size=LIMIT)
    assert (error["code"], error["details"]["limit"]) == ("frame_too_large", LIMIT)
    assert error["details"]["length"] > LIMIT
    for method in ("count", "count_async"):
        connection.request(50, method, {"stream": 10}, n=3, size=LIMIT)
        assert (connection.response(50).error or {})["code"] == "frame_too_large"
    assert len(connection.call("big", size=LIMIT - 200)) == LIMIT - 200


def test_results_beyond_the_servers_own_limit(server: Server) -> None:
    client = server.client()
    code = expected(server, "results over the server's own max_frame")
    if code is None:
        assert len(client.call("big", {"size": LIMIT * 4})) == LIMIT * 4
        return
    with pytest.raises(DspexError) as caught:
        client.call("big", {"size": LIMIT * 4})
    assert caught.value.code == code
    assert client.call("echo", {"value": 1}) == 1


def test_calls_that_wait_for_a_slot(server: Server) -> None:
    connection, other = server.raw(), server.raw()
    connection.request(50, "wait")
    connection.question()
    connection.request(51, "echo", value=51)
    until(lambda: connection.call("sidecar.stats")["queued"] == 1, "the first waits")
    other.request(61, "echo", value=61)
    until(lambda: connection.call("sidecar.stats")["queued"] == 2, "the second waits")
    error = other.error("echo", value=62)
    assert (error["code"], error["retryable"]) == ("queue_full", True)
    assert error["details"]["retry_after_ms"] > 0
    for waiting, id in ((connection, 51), (other, 61)):
        error = waiting.response(id).error or {}
        assert (error["code"], error["retryable"]) == ("checkout_timeout", True)
    connection.request(52, "echo", value=52)
    connection.send(wire.encode_cancel(50))
    assert connection.response(52).result == 52


def test_each_call_waits_for_a_slot_on_its_own(server: Server) -> None:
    connection = server.raw()
    connection.request(50, "wait")
    connection.question()
    for id in (51, 52):
        connection.request(id, "echo", value=id)
    for id in (51, 52):
        assert (connection.response(id).error or {})["code"] == "checkout_timeout"
    connection.send(wire.encode_cancel(50))
    assert (connection.response(50).error or {})["code"] == "cancelled"


def test_calls_in_flight_on_one_connection(server: Server) -> None:
    connection, other = server.raw(), server.raw()
    connection.request(50, "wait")
    connection.question()
    for id in (51, 52):
        connection.request(id, "echo", value=id)
    for method in ("echo", "ping"):
        error = connection.error(method)
        assert (error["code"], error["retryable"], error["details"]["limit"]) == ("queue_full", True, 3)
        assert error["details"]["retry_after_ms"] > 0
    assert other.call("ping") == {}
    connection.send(wire.encode_cancel(50))
    for id in (51, 52):
        assert connection.response(id).result == id
    assert connection.call("ping") == {}


def test_sessions(server: Server) -> None:
    client = server.client()
    until(lambda: client.call("sidecar.stats")["active_sessions"] == 0, "no session is left")
    first, second = client.create_session(), client.create_session()
    with pytest.raises(SessionLimit) as caught:
        client.create_session()
    assert (caught.value.details["limit"], caught.value.retryable) == (2, False)
    second.end()
    with pytest.raises(SessionLimit) as caught:
        client.create_session(state={"a": "x" * 1024})
    assert caught.value.details["limit"] == 1024
    with pytest.raises(SessionLimit) as caught:
        first.call("put", {"key": "a", "value": "x" * 1024})
    assert caught.value.details["limit"] == 1024
    with pytest.raises(SessionLimit):
        first.update({"a": "x" * 1024})
    assert first.call("get") == {"begun": 1}
    first.end()
