"""Cancels, deadlines, clients that leave: when the answer comes, what ended the call, and when its slot is back."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from typing import Any

import pytest
from dspex import CancelToken, wire
from dspex.errors import Cancelled, DeadlineExceeded
from e2e.support.machine import until
from e2e.support.servers import Server
from runtime.harness import Connection

CONFIG = {"pools": {"default": {"concurrency": 1}}}
STOPPED = [("wait", "task"), ("spin", "thread"), ("spin_without_pause", "thread")]


def error_of(connection: Connection, id: int) -> dict[str, Any]:
    error = connection.response(id).error
    assert error is not None
    return error


def begin(connection: Connection, id: int, method: str, **meta: Any) -> None:
    connection.request(id, method, meta)
    connection.question()


@pytest.mark.parametrize(("method", "ended_by"), STOPPED)
def test_a_cancelled_call_says_what_ended_it(server: Server, method: str, ended_by: str) -> None:
    connection = server.raw()
    begin(connection, 50, method)
    connection.send(wire.encode_cancel(50, "changed my mind"))
    error = error_of(connection, 50)
    assert (error["code"], error["retryable"]) == ("cancelled", False)
    assert error["details"]["ended_by"] in (ended_by, "pending")  # answered at once, where it takes the thread a while
    assert connection.call("echo", value=1) == 1


def test_the_slot_of_an_async_method_is_back_within_100_ms(server: Server) -> None:
    connection, other = server.raw(), server.raw()
    took = []
    for _ in range(9):
        begin(connection, 50, "wait")
        other.request(60, "echo_async", value=1)
        until(lambda: connection.call("sidecar.stats")["queued"] == 1, "the second waits")
        began = time.monotonic()
        connection.send(wire.encode_cancel(50))
        assert other.response(60).result == 1
        took.append(time.monotonic() - began)
        assert error_of(connection, 50)["details"]["ended_by"] == "task"
    assert statistics.median(took) < 0.1, took


@pytest.mark.parametrize(("method", "ended_by"), STOPPED)
def test_a_deadline_ends_a_call(server: Server, method: str, ended_by: str) -> None:
    connection = server.raw()
    begin(connection, 50, method, timeout_ms=100)
    error = error_of(connection, 50)
    assert (error["code"], error["retryable"]) == ("deadline_exceeded", False)
    assert error["details"]["ended_by"] in (ended_by, "pending")
    assert connection.call("echo", value=1) == 1


def test_a_deadline_counts_while_a_call_waits(server: Server) -> None:
    connection = server.raw()
    begin(connection, 50, "wait")
    connection.request(51, "echo", {"timeout_ms": 50}, value=1)
    error = error_of(connection, 51)
    assert (error["code"], error["details"]) == ("deadline_exceeded", {"ended_by": "queue"})
    connection.request(52, "echo", value=1)
    connection.send(wire.encode_cancel(52))
    error = error_of(connection, 52)
    assert (error["code"], error["details"]) == ("cancelled", {"ended_by": "queue"})
    connection.send(wire.encode_cancel(50))
    assert error_of(connection, 50)["code"] == "cancelled"


def test_a_deadline_that_has_passed_costs_nothing(server: Server) -> None:
    connection = server.raw()
    begin(connection, 50, "wait")
    for method in ("echo", "session.list", "ping"):
        error = connection.error(method, {"timeout_ms": 0})
        assert error["code"] == "deadline_exceeded"
        assert error["details"]["ended_by"] == "queue"
    connection.send(wire.encode_cancel(50))


def test_timeouts_are_as_long_as_they_say(server: Server) -> None:
    client = server.client()
    for seconds in (0.05, 0.3):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.call("wait_quietly", timeout=seconds)
        assert seconds <= time.monotonic() - began < seconds + 5
    assert client.call("echo", {"value": 1}, timeout=1e9) == 1


def test_a_thread_cancels_the_call_of_another(server: Server) -> None:
    client, token = server.client(), CancelToken()

    def cancel() -> None:
        until(lambda: [c for c in client.call("sidecar.calls")["calls"] if c["state"] == "running"], "it runs")
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Cancelled):
        client.call("wait_quietly", cancel=token)
    thread.join()
    assert client.call("echo", {"value": 1}) == 1


def test_a_cancelled_id_is_not_free_before_its_response(server: Server) -> None:
    connection = server.raw()
    for _ in range(50):
        begin(connection, 50, "wait")
        connection.send(wire.encode_cancel(50), wire.encode_cancel(50), wire.encode_cancel(50))
        assert error_of(connection, 50)["code"] == "cancelled"
    assert connection.call("echo", value=1) == 1
    assert [message for message in connection.messages if isinstance(message, wire.Response)] == []


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half closed"])
@pytest.mark.parametrize("method", ["wait", "spin"])
def test_a_client_that_leaves_cancels_its_calls(server: Server, method: str, half: bool) -> None:
    connection, other = server.raw(), server.raw()
    begin(connection, 50, method)
    connection.request(51, "echo", value=1)
    other.request(60, "echo", value=2)
    if half:
        connection.socket.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    assert other.response(60).result == 2
    until(lambda: other.call("sidecar.stats")["in_flight"] == 0, "nothing runs")
    until(lambda: len(other.call("sidecar.clients")["clients"]) == 1, "the connection is gone")


def test_floods_of_opens_and_cancels(server: Server) -> None:
    connection = server.raw()
    for first in range(1000, 6000, 1000):
        ids = range(first, first + 200)
        frames = []
        for id in ids:
            frames += [wire.encode_request(id, "wait_quietly", None, {}), wire.encode_cancel(id)]
            frames += [wire.encode_cancel(id + 500_000)]
        connection.send(*frames)
        assert {error_of(connection, id)["code"] for id in ids} == {"cancelled"}
    assert connection.call("echo", value=1) == 1
    until(lambda: connection.call("sidecar.stats")["in_flight"] == 0, "nothing runs")
