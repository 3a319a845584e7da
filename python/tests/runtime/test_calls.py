"""Calls of each kind, over both front ends: results, errors, cancel, check-in, streams."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from dspex import wire
from runtime.harness import Connection

KINDS = ["echo", "echo_async", "echo_sync"]


@pytest.mark.parametrize("method", KINDS)
def test_a_call_of_each_kind_is_answered(connection: Connection, method: str) -> None:
    value = {"text": "ü", "list": [1, 2.5, None, True], "bytes": b"\x00\xff", "map": {"a": {"b": []}}}
    assert connection.call(method, value=value) == value


@pytest.mark.parametrize("method", KINDS)
def test_a_batch_is_answered_each_exactly_once(connection: Connection, method: str) -> None:
    connection.send(*(wire.encode_request(id, method, None, {"value": id}) for id in range(1000, 1200)))
    results = {}
    for _ in range(200):
        message = connection.receive()
        assert isinstance(message, wire.Response)
        assert message.id not in results
        results[message.id] = message.result
    assert results == {id: id for id in range(1000, 1200)}


def test_fifty_async_calls_wait_together(connection: Connection) -> None:
    connection.call("echo_async", value=1)
    began = time.monotonic()
    connection.send(*(wire.encode_request(id, "sleep", None, {"seconds": 0.2}) for id in range(1000, 1050)))
    # A worker does not queue; the server has 8 slots only, so it is given the concurrency that the sidecar would have.
    expected = 0.5 if hasattr(connection, "hello") else 2.5
    for id in range(1000, 1050):
        assert connection.response(id).error is None
    assert time.monotonic() - began < expected


@pytest.mark.parametrize("method", ["set_note", "set_note_sync", "set_note_inline"])
def test_context_variables_stay_in_their_call(connection: Connection, method: str) -> None:
    connection.send(*(wire.encode_request(id, method, None, {"value": str(id)}) for id in range(1000, 1020)))
    for id in range(1000, 1020):
        assert connection.response(id).result == ["from the start hook", str(id)]


@pytest.mark.parametrize(
    ("params", "problems"),
    [
        ({}, [("a", "is missing"), ("b", "is missing")]),
        ({"a": "1", "b": []}, [("a", "must be an integer, not text")]),
        (
            {"a": True, "b": [1, "x"]},
            [("a", "must be an integer, not a boolean"), ("b[1]", "must be a number, not text")],
        ),
        ({"a": 1, "b": [], "c": "z"}, [("c", "must be one of 'x', 'y'")]),
        ({"a": 1, "b": [], "d": 2}, [("d", "must be text or null, not an integer")]),
        ({"a": 1, "b": [], "e": 2}, [("e", "is not a parameter of this method")]),
    ],
)
def test_wrong_params_are_all_named(connection: Connection, params: dict[str, Any], problems: list[Any]) -> None:
    error = connection.error("typed", **params)
    assert error["code"] == "invalid_params"
    assert [(problem["path"], problem["message"]) for problem in error["details"]["errors"]] == problems


def test_params_are_taken_as_their_types(connection: Connection) -> None:
    assert connection.call("typed", a=1, b=[1, 2.5]) == {"a": 1, "b": [1.0, 2.5], "c": "x", "d": None}


def test_unknown_methods_and_wrong_kinds(connection: Connection) -> None:
    assert connection.error("nothing")["code"] == "unknown_method"
    assert connection.error("echo", {"stream": 1}, value=1)["code"] == "invalid_params"
    assert connection.error("count", n=1)["code"] == "invalid_params"
    assert connection.error("put", key="a", value=1)["code"] == "invalid_params"


def test_exceptions_become_errors(connection: Connection) -> None:
    error = connection.error("boom", message="lone \udc80 surrogate".encode(errors="ignore").decode())
    assert (error["code"], error["details"]) == ("program_error", {"type": "KeyError"})
    assert error["message"] == "'lone  surrogate'"
    error = connection.error("leave_by_exit")
    assert (error["code"], error["details"]["type"]) == ("program_error", "SystemExit")
    error = connection.error("known_error")
    assert (error["code"], error["details"]) == ("program_not_found", {"name": "x"})
    assert connection.call("echo", value=1) == 1


def test_what_cannot_be_packed_is_named_by_its_place(connection: Connection) -> None:
    error = connection.error("unpackable")
    assert error["code"] == "not_serializable"
    assert error["details"]["path"] == "result.a[1].b"


def test_a_call_sees_its_request(connection: Connection) -> None:
    response = connection.outcome("about", {"timeout_ms": 60000, "app": {"user": 5}})
    assert response.result["method"] == "about"
    assert 50 < response.result["left"] <= 60
    assert response.meta["usage"] == {"lm_calls": 2}
    assert response.meta["app"] == {"seen": {"user": 5}}


@pytest.mark.parametrize("method", ["ask", "ask_in_thread"])
def test_a_method_asks_its_client(connection: Connection, method: str) -> None:
    asked: list[wire.Request] = []

    def double(question: wire.Request) -> Any:
        asked.append(question)
        return question.params["value"] * 2

    connection.answers["double"] = double
    connection.request(50, method, value=21)
    assert connection.response(50).result == 42
    assert asked[0].meta["call"] == 50


def test_an_error_of_the_client_reaches_the_method(connection: Connection) -> None:
    connection.request(50, "ask", value=1)
    question = connection.until(lambda message: isinstance(message, wire.Request))
    connection.send(
        wire.encode_error(
            question.id, None, {"code": "unknown_method", "message": "no", "retryable": False, "details": None}
        )
    )
    error = connection.response(50).error
    assert error is not None
    assert error["code"] == "unknown_method"


@pytest.mark.parametrize(
    ("method", "ended_by"), [("begin_and_wait", "task"), ("suppress_cancel", "task"), ("spin", "thread")]
)
def test_a_cancel_stops_a_running_call(connection: Connection, method: str, ended_by: str) -> None:
    connection.request(50, method)
    connection.question()
    connection.send(wire.encode_cancel(50, "enough"))
    error = connection.response(50).error
    assert error is not None
    assert (error["code"], error["details"]) == ("cancelled", {"ended_by": ended_by})
    # The id is free, and so is what ran the call.
    connection.request(50, "echo_sync", value=1)
    assert connection.response(50).result == 1
    if method == "spin":
        while not (was := connection.call("was_closed")):
            pass
        assert was == ["spin"]


def test_a_cancelled_call_withdraws_its_question(connection: Connection) -> None:
    connection.request(50, "begin_and_wait")
    question = connection.until(lambda message: isinstance(message, wire.Request))
    connection.send(wire.encode_cancel(50))
    cancel = connection.until(lambda message: isinstance(message, wire.Cancel))
    assert cancel.id == question.id
    assert connection.response(50).error is not None
    connection.send(wire.encode_response(question.id, None, None))  # too late, and ignored
    assert connection.call("echo", value=1) == 1


def test_a_call_that_waits_for_a_thread_is_cancelled_at_once(connection: Connection) -> None:
    for id in range(50, 58):
        connection.request(id, "hold_thread")
    for _ in range(8):
        connection.question()
    connection.send(wire.encode_request(60, "hold_thread", None, {}), wire.encode_cancel(60))
    error = connection.response(60).error
    assert error is not None
    assert error["details"] == {"ended_by": "queue"}
    if hasattr(connection, "hello"):  # the server's slots are all taken
        connection.call("open_gate")
        for id in range(50, 58):
            assert connection.response(id).error is None


def test_cancels_of_nothing_and_floods_are_survived(connection: Connection) -> None:
    frames = []
    for id in range(1000, 1500):
        frames += [
            wire.encode_cancel(id),
            wire.encode_request(id, "sleep", None, {"seconds": 60}),
            wire.encode_cancel(id),
        ]
    connection.send(*frames, wire.encode_credit(7, 5), wire.encode_cancel(9999))
    codes = set()
    for id in range(1000, 1500):
        error = connection.response(id).error
        assert error is not None
        codes.add(error["code"])
    assert codes == {"cancelled"}
    assert connection.call("echo", value=1) == 1


def test_an_id_in_flight_is_refused_beside_the_first(connection: Connection) -> None:
    connection.request(50, "begin_and_wait")
    connection.question()
    connection.request(50, "echo", value=1)
    told = connection.notification()
    assert (told.method, told.params["id"], told.params["code"]) == ("protocol_error", 50, "invalid_frame")
    connection.send(wire.encode_cancel(50))
    error = connection.response(50).error
    assert error is not None
    assert error["code"] == "cancelled"


def test_tasks_left_running_are_ended_and_fail_the_call(connection: Connection) -> None:
    error = connection.error("leave_task")
    assert error["code"] == "program_error"
    assert error["details"]["type"] == "TasksLeftRunning"
    assert "left over" in error["message"]
    error = connection.error("leave_task_from_thread")
    assert "leave_task_from_thread.<locals>.wait" in error["message"]
    assert connection.call("wait_for_tasks") == [0, 1, 2, 3, 4]


def test_generators_left_open_are_closed(connection: Connection) -> None:
    assert connection.call("leave_generator", name="left") is None
    assert connection.call("was_closed") == ["left"]


@pytest.mark.parametrize("method", ["count", "count_async"])
def test_a_stream_is_its_items_and_then_the_response(connection: Connection, method: str) -> None:
    connection.request(50, method, {"stream": 100}, n=50)
    assert connection.items(50, 50) == list(range(50))
    assert connection.response(50).error is None


@pytest.mark.parametrize("method", ["count", "count_async"])
def test_without_credit_nothing_is_produced(connection: Connection, method: str) -> None:
    connection.request(50, method, {"stream": 3}, n=10)
    assert connection.items(50, 3) == [0, 1, 2]
    assert connection.call("echo_sync", value=1) == 1  # a pause blocks nobody else
    assert connection.call("echo_async", value=1) == 1
    assert connection.call("made", name=method) == 3
    connection.send(wire.encode_credit(50, 2))
    assert connection.items(50, 2) == [3, 4]
    assert connection.call("made", name=method) == 5
    connection.send(wire.encode_credit(50, 2**31 - 1), wire.encode_credit(50, 2**31 - 1))
    assert connection.items(50, 5) == [5, 6, 7, 8, 9]
    assert connection.response(50).error is None


def test_the_first_item_of_a_stream_waits_for_no_other(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "received"
    connection.request(50, "block_after_one", {"stream": 10}, path=str(path))
    assert connection.receive().item == 1
    path.touch()
    assert connection.receive().item == 2


@pytest.mark.parametrize("method", ["count", "count_async"])
def test_a_paused_stream_can_be_cancelled(connection: Connection, method: str) -> None:
    connection.request(50, method, {"stream": 1}, n=10)
    connection.items(50, 1)
    connection.send(wire.encode_cancel(50))
    error = connection.response(50).error
    assert error is not None
    assert error["code"] == "cancelled"
    while method not in connection.call("was_closed"):
        pass


def test_a_running_stream_can_be_cancelled(connection: Connection) -> None:
    connection.request(50, "count_slowly", {"stream": 1000})
    connection.items(50, 3)
    connection.send(wire.encode_cancel(50))
    error = connection.response(50).error
    assert error is not None
    assert error["details"] == {"ended_by": "task"}
    while "count_slowly" not in connection.call("was_closed"):
        pass


@pytest.mark.parametrize("method", ["count", "count_async"])
def test_a_reader_that_stops_bounds_what_is_produced(connection: Connection, method: str) -> None:
    """The credit allows 400 MB, but nothing is read: no more is produced than socket and buffers hold."""
    connection.request(50, method, {"stream": 2**31 - 1}, n=400, size=1 << 20)
    first = connection.until(lambda message: isinstance(message, wire.Item))
    assert len(first.item) == 1 << 20
    # The answer to a ping stands behind what was written before it: the stream has paused by then.
    connection.request(51, "made", name=method)
    produced = connection.response(51).result
    assert produced <= 16
    connection.send(wire.encode_cancel(50))
    error = connection.response(50).error
    assert error is not None
    assert error["code"] == "cancelled"


def test_an_item_that_cannot_be_packed_fails_its_call(connection: Connection) -> None:
    connection.request(50, "bad_item", {"stream": 5})
    assert connection.items(50, 1) == [1]
    error = connection.response(50).error
    assert error is not None
    assert (error["code"], error["details"]["path"]) == ("not_serializable", "item.x")


def test_large_values_both_ways(connection: Connection) -> None:
    value = bytes(range(256)) * (4 << 12)  # 4 MiB
    assert connection.call("echo", value=value) == value
    error = connection.error("big", size=(16 << 20) + 1)
    assert error["code"] == "frame_too_large"
    assert error["details"]["limit"] == 16 << 20


def test_a_request_over_the_limit_is_read_past(connection: Connection) -> None:
    connection.request(50, "echo", value=bytes((16 << 20) + 1))
    error = connection.response(50).error
    assert error is not None
    assert error["code"] == "frame_too_large"
    assert connection.call("echo", value=1) == 1


def test_content_that_breaks_the_rules_is_invalid_for_its_call_alone(connection: Connection) -> None:
    good = wire.encode_request(50, "echo", None, {"value": "ab"})
    connection.send(good.replace(b"\xa2ab", b"\xa2\xff\xfe"))
    error = connection.response(50).error
    assert error is not None
    assert error["code"] == "invalid_frame"
    assert connection.call("echo", value=1) == 1


def test_a_frame_in_pieces(connection: Connection) -> None:
    for byte in wire.encode_request(50, "echo", None, {"value": "in pieces"}):
        connection.socket.sendall(bytes((byte,)))
    assert connection.response(50).result == "in pieces"


def test_frames_and_notifications_of_unknown_kinds_are_ignored(connection: Connection) -> None:
    connection.send(b"\x00\x00\x00\x02\x91\x63", wire.encode_notification("something", {"a": 1}))
    assert connection.call("echo", value=1) == 1


def test_children_may_be_ended_by_signals(connection: Connection) -> None:
    for _ in range(3):
        assert connection.call("end_children") == [-15, [0, 1, 4, 9], True]
    assert connection.call("echo", value=1) == 1
