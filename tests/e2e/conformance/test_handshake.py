"""The handshake, and frames that break the protocol."""

from __future__ import annotations

import os
import socket
from typing import Any

import msgpack
import pytest
from dspex import wire
from e2e.conformance.differences import expected
from e2e.support.servers import Server

CONFIG = {"listen": {"handshake_timeout": "1s"}}


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def packed(*items: Any) -> bytes:
    return frame(msgpack.packb(items))


def raw_request(id: int, method: str, params: bytes) -> bytes:
    """A request whose params are these bytes."""
    return frame(b"\x95" + b"".join(map(msgpack.packb, (0, id, method, None))) + params)


def test_hello_tells_what_holds(server: Server) -> None:
    first = server.raw({})
    hello = first.call("hello", None, protocols=[2, 1], features=["unheard of"], client={"name": "a"})
    assert hello["protocol"] == 1
    assert hello["features"] == []
    assert hello["server"]["name"] == expected(server, "name")
    assert hello["server"]["version"]
    assert (hello["max_frame"], hello["max_in_flight"]) == (16 << 20, 1024)
    assert hello.get("stop_report_ms") == expected(server, "stop_report_ms of hello")
    connection = server.raw()
    clients = {one["name"]: one for one in connection.call("sidecar.clients")["clients"]}
    assert clients["a"]["connection"] == hello["connection"]
    mine = clients["test"]
    assert (mine["version"], mine["uid"], mine["pid"]) == ("1", os.getuid(), os.getpid())
    assert connection.call("ping") == {}


def test_what_a_client_calls_itself_is_made_fit_to_show(server: Server) -> None:
    connection = server.raw({"client": {"name": "a\x1b[2J\n" + "x" * 100, "version": "1"}})
    (found,) = connection.call("sidecar.clients")["clients"]
    assert found["name"] == ("a?[2J?" + "x" * 100)[:64]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("echo", {"value": 1}, "handshake_required"),
        ("hello", {"protocols": [2]}, "unsupported_protocol"),
        ("hello", {"protocols": []}, "unsupported_protocol"),
        ("hello", {"protocols": [1], "max_frame": 65_535}, "invalid_params"),
    ],
)
def test_a_first_request_that_is_refused(server: Server, method: str, params: dict[str, Any], code: str) -> None:
    connection = server.raw({})
    error = connection.error(method, None, **params)
    assert (error["code"], error["retryable"]) == (code, False)
    if code == "unsupported_protocol":
        assert error["details"] == {"protocols": [1]}
    assert connection.receive() is None


@pytest.mark.parametrize(
    "first",
    [
        wire.encode_cancel(5),
        wire.encode_notification("hello", {}),
        packed(9, 1),
        frame(b"\xc1"),
        frame(b"\x90"),
        frame(b""),
    ],
)
def test_a_first_frame_that_is_no_request(server: Server, first: bytes) -> None:
    connection = server.raw({})
    connection.send(first)
    told = connection.notification()
    assert (told.method, told.params["id"], told.params["code"]) == ("protocol_error", None, "handshake_required")
    assert connection.receive() is None


def test_something_that_is_not_this_protocol_at_all(server: Server) -> None:
    connection = server.raw({})
    connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")  # the beginning of a very long frame
    connection.socket.shutdown(socket.SHUT_WR)
    while (message := connection.receive()) is not None:
        assert message.params["code"] == "handshake_required"


def test_hello_comes_in_time_or_not_at_all(server: Server) -> None:
    connection = server.raw({})
    assert connection.notification().params["code"] == "handshake_required"
    assert connection.receive() is None


def test_hello_comes_once(server: Server) -> None:
    connection = server.raw()
    assert connection.error("hello", None, protocols=[1])["code"] == "invalid_frame"
    assert connection.call("echo", value=1) == 1


@pytest.mark.parametrize(
    "broken",
    [
        frame(b""),
        frame(b"\x95\x00\x01"),
        packed(0, 50, "echo", None, {}) + frame(msgpack.packb([0, 51, "echo", None, {}]) + b"\x00"),
        raw_request(50, "echo", b"\x91" * 64 + b"\xc0"),
        raw_request(50, "echo", b"\xdd\xff\xff\xff\xff"),
        raw_request(50, "echo", b"\xc6\xff\xff\xff\xff"),
        raw_request(50, "echo", b"\xc1"),
        raw_request(50, "echo", b"\x81\xa5value\xd4\x05\x00"),  # an extension type
        raw_request(50, "echo", b"\x81\xa5value\xc7\x05\xff\x00\x00\x00\x00\x00"),  # a timestamp of 5 bytes
        frame(b"\x81\x00\x00"),
    ],
    ids=["empty", "cut", "more", "deep", "array", "bytes", "c1", "extension", "timestamp", "map"],
)
def test_broken_framing_ends_that_connection_alone(server: Server, broken: bytes) -> None:
    other, connection = server.raw(), server.raw()
    connection.send(broken)
    told = connection.notification()
    assert (told.method, told.params["code"]) == ("protocol_error", "invalid_frame")
    while connection.receive() is not None:
        pass  # the answer to what came before
    assert other.call("echo", value=1) == 1


@pytest.mark.parametrize(
    "body",
    [
        [],
        [0, 0, "x", None, None],
        [0, 2**53, "x", None, None],
        [0, "1", "x", None, None],
        [0, 1, "x", None],
        [0, 1, "x", 1, None],
        [0, 1, "", None, None],
        [0, 1, "x" * 129, None, None],
        [0, 1, 5, None, None],
        [0, 1, "echo", None, [1]],
        [0, 1, "echo", None, "text"],
        [4, 1],
        [5, 1, 0],
        [5, 1, 2**31],
        ["0", 1],
    ],
)
def test_a_head_that_cannot_be_read_is_told_and_survived(server: Server, body: list[Any]) -> None:
    connection = server.raw()
    connection.send(packed(*body))
    told = connection.notification()
    assert (told.method, told.params["code"]) == ("protocol_error", "invalid_frame")
    assert connection.call("echo", value=1) == 1


@pytest.mark.parametrize("method", ["echo", "session.create"])
@pytest.mark.parametrize(
    "params",
    [
        b"\x81\xa5value\xa2\xff\xff",
        b"\x81\x01\x02",
        b"\x82\xa5value\x01\xa5value\x02",
        b"\x81\xa5value\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
    ids=["utf-8", "key", "twice", "nanoseconds"],
)
def test_a_payload_that_breaks_the_rules_costs_its_own_call(server: Server, method: str, params: bytes) -> None:
    connection = server.raw()
    connection.send(raw_request(50, method, params))
    error = connection.response(50).error
    assert error is not None
    assert (error["code"], error["retryable"]) == ("invalid_frame", False)
    assert connection.call("echo", value=1) == 1


@pytest.mark.parametrize(
    "meta",
    [
        {"session": 1},
        {"session": ""},
        {"session": "x" * 129},
        {"session": "a\nb"},
        {"session_token": 1},
        {"pool": 1},
        {"timeout_ms": -1},
        {"timeout_ms": "1"},
        {"timeout_ms": 1.5},
        {"stream": 0},
        {"stream": 2**31},
        {"app": 1},
        {"retry": "yes"},
        {"traceparent": "x" * 129},
        {"parent": "1"},
    ],
)
def test_known_keys_of_meta_have_their_types(server: Server, meta: dict[str, Any]) -> None:
    connection = server.raw()
    assert connection.error("echo", meta, value=1)["code"] == "invalid_frame"
    assert connection.call("echo", {"unknown": 1}, value=1) == 1


def test_what_is_not_known_is_ignored(server: Server) -> None:
    connection = server.raw()
    connection.send(
        packed(7, 1, 2, 3),
        packed(200),
        wire.encode_notification("unheard.of", {"a": 1}),
        wire.encode_cancel(77),
        wire.encode_credit(77, 5),
        wire.encode_response(77, None, 1),
        packed(3, 77, None, 1),
        packed(6, 77, {}),
    )
    assert connection.call("echo", value=1) == 1
    assert connection.messages == []


def test_an_id_in_flight_stays_with_its_call(server: Server) -> None:
    connection = server.raw()
    connection.request(50, "wait")
    connection.question()
    for again in (
        wire.encode_request(50, "echo", None, {"value": 1}),
        wire.encode_request(50, "echo", {"session": 1}, {"value": 1}),
        wire.encode_request(50, "ping", None, {}),
        wire.encode_request(50, "echo", None, {"value": bytes((16 << 20) + 1)}),
    ):
        connection.send(again)
        told = connection.notification()
        assert (told.method, told.params["id"]) == ("protocol_error", 50)
    connection.send(wire.encode_cancel(50))
    error = connection.response(50).error
    assert error is not None
    assert error["code"] == "cancelled"
    connection.request(50, "echo", value=2)  # free again
    assert connection.response(50).result == 2


def test_ids_may_be_any_and_answers_come_in_any_order(server: Server) -> None:
    connection = server.raw()
    connection.request(1, "wait")
    connection.question()
    ids = [2**53 - 1, 7, 2**32, 3, 2**31]
    connection.send(*(wire.encode_request(id, "echo", None, {"value": id}) for id in ids))
    assert {id: connection.response(id).result for id in reversed(ids)} == {id: id for id in ids}
    assert [message for message in connection.messages if isinstance(message, wire.Response)] == []
