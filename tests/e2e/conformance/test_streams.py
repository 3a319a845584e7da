"""Streams: items, credit, ends of all kinds."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest
from dspex import Client, wire
from dspex.errors import Cancelled, InvalidParams, ProgramError
from e2e.support.machine import until
from e2e.support.servers import Server
from runtime.harness import Connection

CONFIG = {"pools": {"default": {"stream_stall": "1s"}}}
COUNTS = ("count", "count_async")


def closed(client: Client, name: str) -> bool:
    return name in client.call("was_closed")


@pytest.mark.parametrize("method", COUNTS)
@pytest.mark.parametrize("credit", [1, 2, 16, 100_000])
def test_items_come_in_order(server: Server, method: str, credit: int) -> None:
    client = server.client()
    stream = client.stream(method, {"n": 300}, credit=credit)
    assert list(stream) == list(range(300))
    assert stream.result == ("300 in all" if method == "count" else None)
    assert stream.meta["worker"].startswith("worker_")
    assert list(client.stream(method, {"n": 0}, credit=credit)) == []


@pytest.mark.parametrize("method", COUNTS)
def test_an_item_takes_a_credit(server: Server, method: str) -> None:
    connection = server.raw()
    name = f"{method} one by one"
    connection.request(50, method, {"stream": 1}, n=5, name=name)
    for number in range(5):
        assert connection.items(50, 1) == [number]
        # Calls on the same connection go the same way: an item without credit would have come before their answers.
        for _ in range(3):
            assert connection.call("how_many", name=name) == number + 1
        assert connection.messages == []
        connection.send(wire.encode_credit(50, 1))
    assert connection.response(50).error is None


def test_credit_saturates(server: Server) -> None:
    connection = server.raw()
    connection.request(50, "count", {"stream": 2**31 - 1}, n=5000)
    connection.send(*[wire.encode_credit(50, 2**31 - 1)] * 5)
    assert connection.items(50, 5000) == list(range(5000))
    assert connection.response(50).result == "5000 in all"


@pytest.mark.parametrize("method", COUNTS)
def test_a_reader_that_stops_stops_the_producer(server: Server, method: str) -> None:
    connection, other = server.raw(), server.raw()
    name, total, size = f"{method} to nobody", 3000, 64 << 10
    connection.request(50, method, {"stream": total}, n=total, size=size, name=name)

    def made() -> int:
        count: int = other.call("how_many", name=name)
        return count

    until(made, "the first item")
    seen, since = made(), time.monotonic()
    while time.monotonic() - since < 0.3:  # what is under way arrives, and then nothing moves any more
        if (now := made()) != seen:
            seen, since = now, time.monotonic()
    assert seen < total // 2
    connection.send(wire.encode_credit(50, 1))
    assert all(len(item) == size for item in connection.items(50, total))
    assert connection.response(50).error is None


def test_several_streams_on_one_connection(server: Server) -> None:
    connection = server.raw()
    for id in range(50, 56):
        connection.request(id, COUNTS[id % 2], {"stream": 501}, n=500)
    for id in range(50, 56):
        assert connection.items(id, 500) == list(range(500))
        assert connection.response(id).error is None


def test_leaving_a_stream_early_ends_it(server: Server) -> None:
    client = server.client()
    for method in COUNTS:
        name = f"{method} left"
        with client.stream(method, {"n": 1_000_000, "name": name}, credit=8) as stream:
            assert next(stream) == 0
        until(partial(closed, client, name), "the generator is closed")
        assert client.call("how_many", {"name": name}) <= 300
    until(lambda: client.call("sidecar.stats")["in_flight"] == 0, "the slots are back")


@pytest.mark.parametrize("method", COUNTS)
def test_a_stream_that_gets_no_credit_is_cancelled(server: Server, method: str) -> None:
    connection = server.raw()
    connection.request(50, method, {"stream": 2}, n=5)
    connection.items(50, 2)
    error = connection.response(50).error or {}
    assert (error["code"], error["retryable"]) == ("cancelled", False)
    assert "credit" in error["message"]


@pytest.mark.parametrize("method", COUNTS)
def test_the_producer_asks_for_its_end_too(server: Server, method: str) -> None:
    """Nothing is produced without credit, and that a generator has come to its end is seen by asking it."""
    connection = server.raw()
    connection.request(50, method, {"stream": 3}, n=3)
    assert connection.items(50, 3) == [0, 1, 2]
    connection.send(wire.encode_credit(50, 1))
    assert connection.response(50).error is None


def test_errors_in_the_middle(server: Server) -> None:
    client = server.client()
    got: list[Any] = []
    with pytest.raises(ProgramError, match="in the middle"):
        got.extend(client.stream("count_and_fail", {"n": 3}))
    stream = client.stream("count_and_fail", {"n": 3})
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ProgramError):
        next(stream)
    with pytest.raises(ProgramError):
        _ = stream.result


def test_streams_and_plain_calls_are_not_taken_for_each_other(server: Server) -> None:
    client = server.client()
    with pytest.raises(InvalidParams):
        client.call("count", {"n": 1})
    with pytest.raises(InvalidParams):
        list(client.stream("echo", {"value": 1}))
    with pytest.raises(InvalidParams):
        list(client.stream("count", {"n": "many"}))


def test_a_streams_changes_are_in_force_with_its_response(server: Server) -> None:
    connection = server.raw()
    connection.call("session.create", session="streams")
    connection.request(50, "count_and_put", {"stream": 2, "session": "streams"}, n=4)
    connection.items(50, 2)
    assert connection.call("session.get", session="streams")["state"] == {}
    connection.send(wire.encode_credit(50, 3))
    assert connection.response(50).error is None
    assert connection.call("session.get", session="streams")["state"]["at"] == 3
    connection.call("session.end", session="streams")


def test_a_cancelled_stream_changes_nothing(server: Server) -> None:
    connection = server.raw()
    with server.client().create_session() as session:
        connection.request(50, "count_and_put", {"stream": 2, "session": session.id}, n=4)
        connection.items(50, 2)
        connection.send(wire.encode_cancel(50))
        assert (connection.response(50).error or {})["code"] == "cancelled"
        assert session.call("get") == {"begun": 1}


def test_no_item_comes_after_the_response(server: Server) -> None:
    for _ in range(20):
        connection = server.raw()
        connection.request(50, "count_async", {"stream": 100_000}, n=100_000)
        connection.items(50, 10)
        connection.send(wire.encode_cancel(50))
        _until_response(connection, 50)
        assert connection.call("echo", value=1) == 1
        assert [message for message in connection.messages if isinstance(message, wire.Item)] == []
        connection.close()


def _until_response(connection: Connection, id: int) -> None:
    while not isinstance(message := connection.receive(), wire.Response):
        assert isinstance(message, wire.Item)
    assert message.id == id


def test_a_cancel_through_the_client(server: Server) -> None:
    client = server.client()
    stream = client.stream("count", {"n": 100_000_000}, credit=4)
    assert next(stream) == 0
    stream.close()
    assert list(stream) == []
    with pytest.raises(Cancelled):
        _ = stream.result
