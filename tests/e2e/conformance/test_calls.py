"""Calls: methods of each kind, their parameters, results, meta, and the values that go through."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dspex import wire
from dspex.errors import DspexError, InvalidParams, NotSerializable, UnknownMethod
from e2e.conformance.differences import as_read, expected
from e2e.support.servers import Server

ECHOES = ("echo", "echo_async", "echo_inline")
NESTED: Any = "bottom"
for _ in range(60):
    NESTED = [NESTED]

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    127,
    128,
    -(2**63),
    2**63 - 1,
    2**63,
    2**64 - 1,
    0.1,
    -0.0,
    math.inf,
    5e-324,
    "",
    "grüße, 世界 🌍 \x00 \u202e e\u0301",
    "x" * 70_000,
    b"",
    bytes(range(256)) * 300,
    [],
    {},
    [[], {}, [None]],
    {"": 1, "a b": {"ü": [1, {"deep": b"\xff"}]}},
    {"__proto__": 1, "constructor": 2},
    datetime(2026, 11, 24, 5, 30, 0, 123456, UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
    datetime(2600, 1, 1, tzinfo=UTC),
    NESTED,
    list(range(10_000)),
]


@pytest.mark.parametrize("method", ECHOES)
def test_values_come_back_as_they_went(server: Server, method: str) -> None:
    client = server.client()
    for value in VALUES:
        got = client.call(method, {"value": value})
        assert got == as_read(client, value)
        assert type(got) is type(value)
    assert math.copysign(1, client.call(method, {"value": -0.0})) == -1
    assert math.isnan(client.call(method, {"value": math.nan}))
    assert client.call(method, {"value": tuple(VALUES)}) == as_read(client, VALUES)


def test_values_go_into_sessions_and_out_again(server: Server) -> None:
    client = server.client()
    values = as_read(client, VALUES)
    with client.create_session(state={"all": VALUES}) as session:
        assert session.state()["all"] == values
        session.call("put", {"key": "again", "value": VALUES})
        session.update({"third": VALUES})
        state = session.call("get")
        assert [state[key] for key in ("all", "again", "third")] == [values] * 3
        assert session.state() == state


def test_times_have_a_zone(server: Server) -> None:
    instant = datetime(2026, 1, 1, 12, 0, 0, 1, UTC)
    client = server.client()
    got = client.call("echo", {"value": instant})
    assert got == as_read(client, instant)
    assert got.utcoffset() == timedelta(0)


def test_parameters_are_checked(server: Server) -> None:
    client = server.client()
    assert client.call("typed", {"a": 1, "b": [1, 2.5]}) == {"a": 1, "b": [1, 2.5], "c": "x", "d": None}
    with pytest.raises(InvalidParams) as caught:
        client.call("typed", {"b": [1, "2"], "c": "z", "e": 1})
    assert {problem["path"] for problem in caught.value.details["errors"]} == {"a", "b[1]", "c", "e"}
    with pytest.raises(InvalidParams):
        client.call("typed", {"a": True, "b": []})
    with pytest.raises(InvalidParams, match="session"):
        client.call("put", {"key": "a", "value": 1})
    with pytest.raises(InvalidParams):
        client.call("put", {"key": "a", "value": 1, "session": "x"}, session=client.create_session().id)


def test_params_may_be_nil(server: Server) -> None:
    connection = server.raw()
    connection.send(wire.encode_request(50, "about", None, None))
    assert connection.response(50).result["method"] == "about"


def test_methods_that_are_not_there(server: Server) -> None:
    client = server.client()
    for name in ("nothing", "session.nothing", "sidecar.nothing", "admin.nothing", "session.restore", "session.drop"):
        with pytest.raises(UnknownMethod) as caught:
            client.call(name, {})
        assert not caught.value.retryable


@pytest.mark.parametrize("method", ["ping", "sidecar.stats", "session.list", "session.create"])
def test_unknown_params_of_the_servers_own_methods(server: Server, method: str) -> None:
    with pytest.raises(InvalidParams):
        server.client().call(method, {"nonsense": 1})
    with pytest.raises(InvalidParams):
        list(server.client().stream(method))


def test_methods_are_described(server: Server) -> None:
    methods = {one["name"]: one for one in server.client().call("sidecar.methods")["methods"]}
    typed = methods["typed"]
    assert typed["doc"] == "Has checked parameters."
    assert typed["params"]["properties"]["a"] == {"type": "integer"}
    assert (typed["stream"], typed["session"], typed["read_only"], typed["retry"]) == ("none", "none", False, None)
    assert (methods["count"]["stream"], methods["get"]["read_only"]) == ("required", True)
    assert (methods["put"]["session"], methods["without_session"]["session"]) == ("required", "optional")


def test_meta_goes_there_and_back(server: Server) -> None:
    reply = server.client().request("about", {}, timeout=20, app={"a": [1]}, traceparent="00-1-2-01")
    assert reply.meta["app"] == {"seen": {"a": [1]}}
    assert reply.meta["usage"] == {"lm_calls": 2}
    assert reply.meta["worker"].startswith("worker_")
    assert reply.meta["queue_us"] >= 0
    assert reply.meta["run_us"] >= 0
    assert 10 < reply.result["left"] <= 20


def test_results_that_cannot_be_packed_say_where(server: Server) -> None:
    client = server.client()
    with pytest.raises(NotSerializable) as caught:
        client.call("unpackable")
    assert caught.value.details["path"] == "result.a[1].b"
    with pytest.raises(NotSerializable) as caught:
        list(client.stream("bad_item"))
    assert caught.value.details["path"] == "item.x[0]"
    with client.create_session() as session:
        with pytest.raises(NotSerializable) as caught:
            session.call("put_unpackable")
        assert caught.value.details["path"] == "session.state['bad']"
        assert session.state() == {}
    assert client.call("echo", {"value": 1}) == 1


@pytest.mark.parametrize("method", ["ask", "ask_in_thread"])
def test_a_worker_calls_back_into_the_client(server: Server, method: str) -> None:
    connection = server.raw()
    connection.answers["double"] = lambda request: request.params["value"] * 2
    assert connection.call(method, question="double", value=21) == 42
    connection.request(50, method, question="none", value=1)
    question = connection.until(lambda message: isinstance(message, wire.Request))
    assert question.meta["call"] == 50
    refusal = {"code": "unknown_method", "message": "no such method here", "retryable": False, "details": None}
    connection.send(wire.encode_error(question.id, None, refusal))
    assert connection.response(50).error == refusal
    client = server.client()
    with pytest.raises(UnknownMethod):
        client.call(method, {"question": "double", "value": 1})


def test_a_callback_is_cancelled_with_its_call(server: Server) -> None:
    connection = server.raw()
    connection.request(50, "ask", question="slow", value=1)
    question = connection.until(lambda message: isinstance(message, wire.Request))
    connection.send(wire.encode_cancel(50))
    assert (connection.response(50).error or {})["code"] == "cancelled"
    cancelled = connection.until(lambda message: isinstance(message, wire.Cancel))
    assert cancelled.id == question.id
    connection.send(wire.encode_response(question.id, None, "too late"))
    assert connection.call("echo", value=1) == 1


def test_many_threads_share_one_client(server: Server) -> None:
    client = server.client()
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        barrier.wait(20)
        for turn in range(50):
            value = f"{number}.{turn}" * (1 + turn % 7 * 1000)
            assert client.call(ECHOES[turn % 3], {"value": value}) == value

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work, number) for number in range(16)]:
            done.result(60)


def test_many_requests_in_one_write(server: Server) -> None:
    connection = server.raw()
    frames = [wire.encode_request(id, ECHOES[id % 3], None, {"value": id}) for id in range(1000, 1900)]
    connection.send(*frames)
    assert [connection.response(id).result for id in range(1000, 1900)] == list(range(1000, 1900))


def test_one_byte_at_a_time(server: Server) -> None:
    connection = server.raw()
    for byte in wire.encode_request(50, "echo", None, {"value": "slowly"}):
        connection.socket.send(bytes((byte,)))
    assert connection.response(50).result == "slowly"


def test_a_call_with_an_idempotency_key(server: Server) -> None:
    client = server.client()
    if (refused := expected(server, "idempotency keys")) is None:
        for session in (None, client.create_session().id):
            once, again = (
                client.call("append_once", {"value": 1}, idempotency_key="k", session=session) for _ in range(2)
            )
            assert again == once
            assert client.call("append_once", {"value": 1}, session=session) != once
            with pytest.raises(InvalidParams):
                client.call("append_once", {"value": 2}, idempotency_key="k", session=session)
    else:
        with pytest.raises(DspexError) as caught:
            client.call("echo", {"value": 1}, idempotent=True)
        assert caught.value.code == refused
    assert client.call("echo", {"value": 2}, idempotent=True, retry="safe") == 2
