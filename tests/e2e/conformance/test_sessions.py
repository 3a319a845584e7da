"""Sessions: their life, their state, their turns, whose they are."""

from __future__ import annotations

from typing import Any

import pytest
from dspex import wire
from dspex.errors import DspexError, InvalidParams, ProgramError, SessionExists, SessionNotFound
from e2e.conformance.differences import expected
from e2e.support.machine import until
from e2e.support.servers import Server


def test_the_life_of_a_session(server: Server) -> None:
    client = server.client()
    with client.create_session(state={"a": 1}, labels={"kind": "test"}, ttl=60) as session:
        assert session.token is None
        first = session.info()
        assert (first["session"], first["state"], first["labels"], first["ttl_ms"]) == (
            session.id,
            {"a": 1},
            {"kind": "test"},
            60_000,
        )
        assert session.call("put", {"key": "b", "value": 2}) == 3
        second = session.info()
        assert second["state"] == {"a": 1, "b": 2, "begun": 1}
        assert second["worker"].startswith("worker_")
        assert second["version"] != first["version"]
        session.update({"c": 3}, delete=["a", "not there"])
        assert session.state() == {"b": 2, "begun": 1, "c": 3} == session.call("get")
        assert session.info()["bytes"] > 0
        with pytest.raises(SessionExists):
            client.create_session(session.id)
    for method in ("session.get", "session.end", "get"):
        with pytest.raises(SessionNotFound):
            session.call(method)
    again = client.create_session(session.id)
    assert again.state() == {}  # nothing is left of the first
    assert again.call("get") == {"begun": 1}
    again.end()


def test_a_session_may_be_named_in_params_or_in_meta(server: Server) -> None:
    connection = server.raw()
    assert connection.call("session.create", {"session": "by meta"}) == {"session": "by meta"}
    assert connection.call("session.update", session="by meta", set={"a": 1})["session"] == "by meta"
    assert connection.call("session.get", {"session": "by meta"})["state"] == {"a": 1}
    assert connection.error("session.get", {"session": "by meta"}, session="other")["code"] == "invalid_params"
    assert connection.error("session.get")["code"] == "invalid_params"
    assert connection.call("session.end", {"session": "by meta"}) == {"session": "by meta"}


@pytest.mark.parametrize(
    "params",
    [
        {"session": "x" * 129},
        {"session": "a\n"},
        {"session": 5},
        {"state": 5},
        {"state": {"dspex.programs": 1}},
        {"state": {"k" * 257: 1}},
        {"state": {"": 1}},
        {"ttl_ms": 0},
        {"ttl_ms": "1s"},
        {"labels": {str(n): "x" for n in range(33)}},
        {"labels": {"a": 5}},
        {"labels": {"a": "x" * 257}},
        {"labels": {"k" * 65: "x"}},
        {"pool": "other"},
        {"token": 1},
    ],
)
def test_what_a_session_may_not_be(server: Server, params: dict[str, Any]) -> None:
    connection = server.raw()
    assert connection.error("session.create", None, **params)["code"] == "invalid_params"
    assert connection.call("session.list") == {"sessions": []}


@pytest.mark.parametrize("key", ["dspex.programs", "k" * 257, ""])
def test_keys_that_a_client_may_not_write(server: Server, key: str) -> None:
    with server.client().create_session() as session:
        with pytest.raises(InvalidParams):
            session.update({key: 1})
        with pytest.raises(InvalidParams):
            session.update(delete=[key])
        with pytest.raises(ProgramError):
            session.call("put", {"key": key, "value": 1})
        assert session.state() == {}


def test_calls_run_one_at_a_time_in_order(server: Server) -> None:
    connection, other = server.raw(), server.raw()
    connection.call("session.create", session="ordered")
    frames = [
        wire.encode_request(
            1000 + number,
            ("append", "append_in_thread")[number % 2],
            {"session": "ordered"},
            {"key": "list", "value": number},
        )
        for number in range(60)
    ]
    connection.send(*frames)
    assert [connection.response(1000 + number).result for number in range(60)] == list(range(1, 61))
    assert other.call("session.get", session="ordered")["state"]["list"] == list(range(60))
    connection.call("session.end", session="ordered")


def test_an_update_takes_its_turn(server: Server) -> None:
    connection, other = server.raw(), server.raw()
    connection.call("session.create", session="turns")
    connection.request(50, "put_and_wait", {"session": "turns"}, key="a")
    connection.question()
    other.request(60, "session.update", session="turns", set={"b": 2})
    assert other.call("session.get", session="turns")["state"] == {}
    connection.send(wire.encode_cancel(50))
    assert (connection.response(50).error or {})["code"] == "cancelled"
    assert other.response(60).error is None
    assert other.call("session.get", session="turns")["state"].get("b") == 2
    connection.call("session.end", session="turns")


def test_readers_run_beside_each_other_and_writers_wait(server: Server) -> None:
    connection = server.raw()
    connection.call("session.create", session="readers")
    connection.call("put", {"session": "readers"}, key="a", value=1)
    for id in (50, 51):
        connection.request(id, "get", {"session": "readers"}, wait=True)
    questions = [connection.until(lambda message: isinstance(message, wire.Request)) for _ in range(2)]
    connection.request(52, "put", {"session": "readers"}, key="a", value=2)
    connection.request(53, "get", {"session": "readers"})
    states = {call["id"]: call["state"] for call in connection.call("sidecar.calls")["calls"]}
    assert states == {50: "running", 51: "running", 52: "queued", 53: "queued"}
    for question in questions:
        connection.send(wire.encode_response(question.id, None, None))
    assert [connection.response(id).result["a"] for id in (50, 51)] == [1, 1]
    assert connection.response(53).result["a"] == 2
    connection.call("session.end", session="readers")


def test_objects_live_with_their_session(server: Server) -> None:
    client = server.client()
    with client.create_session() as session, client.create_session() as other:
        assert session.call("push", {"value": 1}) == [1]
        assert session.call("push", {"value": 2}) == [1, 2]
        with pytest.raises(ProgramError):
            session.call("push", {"value": 3, "fail": True})
        assert session.call("push", {"value": 4}) == [1, 2, 4]
        assert other.call("push", {"value": 5}) == [5]
        assert session.state() == {"begun": 1}  # they are not to be seen in the state
        before = session.info()["version"]
        session.update({"x": 1})
        assert session.call("push", {"value": 6}) == [1, 2, 4, 6]
        assert session.info()["version"] > before


def test_other_sessions_do_not_wait(server: Server) -> None:
    connection = server.raw()
    sessions = [server.client().create_session() for _ in range(3)]
    for number, session in enumerate(sessions):
        connection.request(50 + number, "put_and_wait", {"session": session.id}, key="a")
        connection.question()
    states = [(call["session"], call["state"]) for call in connection.call("sidecar.calls")["calls"]]
    assert sorted(states) == sorted((session.id, "running") for session in sessions)
    for session in sessions:
        session.end()


def test_only_an_answered_call_changes_anything(server: Server) -> None:
    connection = server.raw()
    with server.client().create_session() as session:
        meta = {"session": session.id}
        assert connection.error("put_and_fail", meta)["code"] == "program_error"
        assert connection.error("write_although_read_only", meta)["code"] == "program_error"
        assert connection.error("put_reserved", meta)["code"] == "program_error"
        assert connection.error("put_unpackable", meta)["code"] == "not_serializable"
        connection.request(50, "put_and_wait", {**meta, "timeout_ms": 100}, key="late")
        connection.question()
        assert (connection.response(50).error or {})["code"] == "deadline_exceeded"
        connection.request(51, "put_and_wait", meta, key="cancelled")
        connection.question()
        connection.send(wire.encode_cancel(51))
        assert (connection.response(51).error or {})["code"] == "cancelled"
        assert session.state() == {}
        assert session.call("get") == {"begun": 1}


def test_the_end_of_a_session_settles_its_calls(server: Server) -> None:
    connection = server.raw()
    connection.call("session.create", session="ending")
    connection.call("put", {"session": "ending"}, key="a", value=1)
    connection.request(50, "put_and_wait", {"session": "ending"}, key="b")
    connection.question()
    connection.request(51, "get", {"session": "ending"})
    connection.request(52, "session.update", session="ending", set={"c": 1})
    connection.call("session.end", session="ending")
    for id in (50, 51, 52):
        assert (connection.response(id).error or {})["code"] == "session_not_found"
    until(lambda: connection.call("sidecar.stats")["in_flight"] == 0, "the call has stopped")
    assert connection.call("session.create", session="ending") == {"session": "ending"}
    assert connection.call("get", {"session": "ending"}) == {"begun": 1}
    connection.call("session.end", session="ending")


def test_sessions_expire_unless_calls_are_in_them(server: Server) -> None:
    connection = server.raw()
    for session in ("idle", "busy"):
        connection.call("session.create", session=session, ttl_ms=50)
    connection.request(50, "put_and_wait", {"session": "busy"}, key="x")
    connection.question()
    until(lambda: len(connection.call("session.list")["sessions"]) == 1, "one expires")
    assert connection.call("session.list")["sessions"][0]["session"] == "busy"
    connection.send(wire.encode_cancel(50))
    until(lambda: not connection.call("session.list")["sessions"], "the other expires")
    assert connection.error("get", {"session": "idle"})["code"] == "session_not_found"


def test_sessions_expire_by_their_age_used_or_not(server: Server) -> None:
    client = server.client()
    session = client.create_session(max_age=0.3)
    assert session.info()["max_age_ms"] == 300

    def gone() -> bool:
        try:
            session.call("get")
        except SessionNotFound:
            return True
        return False

    until(gone, "it is too old")
    assert client.create_session(ttl=60).info()["max_age_ms"] is None
    for limit in (0, -1, "1"):
        with pytest.raises(InvalidParams):
            client.call("session.create", {"max_age_ms": limit})


def test_a_reset_takes_its_turn_and_the_session_begins_anew(server: Server) -> None:
    connection = server.raw()
    connection.call("session.create", session="again", state={"a": 1}, labels={"kept": "yes"})
    meta = {"session": "again"}
    connection.call("push", meta, value=1)
    connection.request(50, "put_and_wait", meta, key="b")
    question = connection.until(lambda message: isinstance(message, wire.Request))
    connection.request(51, "session.reset", session="again")
    connection.request(52, "get", meta)
    connection.request(53, "push", meta, value=2)
    connection.send(wire.encode_cancel(50))
    connection.send(wire.encode_response(question.id, None, None))
    assert (connection.response(50).error or {})["code"] == "cancelled"
    assert connection.response(51).result == {"session": "again"}
    assert connection.response(52).result == {"begun": 1}  # the start hooks ran again
    assert connection.response(53).result == [2]
    found = connection.call("session.get", session="again")
    assert (found["state"], found["labels"]) == ({"begun": 1}, {"kept": "yes"})
    connection.call("session.reset", meta)
    assert connection.call("session.get", session="again")["state"] == {}
    assert connection.error("session.reset", session="another")["code"] == "session_not_found"
    connection.call("session.end", session="again")


def test_what_is_told_of_a_session_has_the_same_names(server: Server) -> None:
    client = server.client()
    session = client.create_session()
    session.call("get")
    names = {
        "session",
        "worker",
        "labels",
        "bytes",
        "age_ms",
        "idle_ms",
        "ttl_ms",
        "max_age_ms",
        "calls",
        "spent",
        "lm",
        "failed",
    }
    assert session.info().keys() == names | {"state", "version", "lost"}
    assert session.info()["lost"] == []
    (listed,) = client.call("session.list")["sessions"]
    assert listed.keys() == names | {"owner", "waiting"}


def test_the_start_hooks_run_once_however_many_calls_come_at_once(server: Server) -> None:
    connection = server.raw()
    connection.call("session.create", session="crowd")
    meta = {"session": "crowd"}
    for id in range(50, 54):
        connection.request(id, "get" if id % 2 else "append", meta, **({} if id % 2 else {"key": "a", "value": id}))
    for id in range(50, 54):
        assert connection.response(id).error is None
    assert connection.call("get", meta) == {"begun": 1, "a": [50, 52]}
    connection.call("session.end", session="crowd")


def test_a_session_belongs_to_its_token(server: Server) -> None:
    client = server.client()
    theirs = client.create_session("shared name", token=True)
    assert theirs.token
    bare = client.session("shared name")
    with pytest.raises(SessionNotFound):
        bare.info()
    with pytest.raises(SessionNotFound):
        client.session("shared name", token="guessed").call("get")
    assert client.call("session.list") == {"sessions": []}
    mine = client.create_session("shared name", state={"mine": True})  # not blocked by the other's
    assert theirs.call("put", {"key": "a", "value": 1}) == 2
    holder = server.client(token=theirs.token)
    assert holder.session("shared name").state() == {"begun": 1, "a": 1}
    assert [one["session"] for one in holder.call("session.list")["sessions"]] == ["shared name"]
    assert mine.state() == {"mine": True}
    assert len(client.call("session.list", {"all": True})["sessions"]) == 2
    assert theirs.token not in str(client.call("session.list", {"all": True}))
    theirs.end()
    assert mine.state() == {"mine": True}
    mine.end()
    assert theirs.token not in server.log


def test_sessions_are_listed_in_pages(server: Server) -> None:
    client = server.client()
    sessions = [client.create_session(f"s{number}", labels={"odd": str(number % 2)}) for number in range(7)]
    first = client.call("session.list", {"limit": 4})
    second = client.call("session.list", {"limit": 4, "after": first["next"]})
    assert [one["session"] for one in first["sessions"] + second["sessions"]] == [f"s{number}" for number in range(7)]
    assert "next" not in second
    assert len(client.call("session.list", {"labels": {"odd": "1"}})["sessions"]) == 3
    assert client.call("session.list", {"labels": {"odd": "1", "even": "1"}}) == {"sessions": []}
    for limit in (0, 1001, "all"):
        with pytest.raises(InvalidParams):
            client.call("session.list", {"limit": limit})
    for session in sessions:
        session.end()


def test_what_lists_tell_of_a_session(server: Server) -> None:
    connection = server.raw()
    connection.call("session.create", session="told")
    for number in range(3):
        connection.call("put", {"session": "told"}, key="a", value=number)
    connection.request(50, "put_and_wait", {"session": "told"}, key="b")
    connection.question()
    connection.request(51, "get", {"session": "told"})
    (entry,) = connection.call("session.list")["sessions"]
    assert (entry["calls"], entry["waiting"], entry["idle_ms"]) == (5, 1, 0)
    assert entry["owner"].startswith("uid:")
    assert entry["age_ms"] >= 0
    assert connection.call("sidecar.stats")["active_sessions"] == 1
    connection.call("session.end", session="told")


def test_a_background_task_takes_its_turn(server: Server) -> None:
    with server.client().create_session() as session:
        session.call("in_background")
        until(lambda: session.state().get("from the background"), "the change is there")


def test_methods_that_take_a_session_or_none(server: Server) -> None:
    client = server.client()
    assert client.call("without_session") is None
    with client.create_session() as session:
        assert session.call("without_session") == session.id
        assert session.call("echo", {"value": 1}) == 1  # a method that wants none runs in one as well
        with pytest.raises(DspexError) as caught:
            client.call("get")
        assert caught.value.code == "invalid_params"


def test_a_call_from_within_a_call(server: Server) -> None:
    connection = server.raw()
    connection.call("session.create", session="outer")
    connection.request(50, "ask", {"session": "outer"}, question="inner", value=1)
    question = connection.until(lambda message: isinstance(message, wire.Request))
    parent = {"parent": question.id}
    assert connection.call("echo_async", parent, value=1) == 1
    error = connection.error("get", {**parent, "session": "outer"})
    assert (error["code"], error["retryable"]) == ("session_busy", True)
    connection.send(wire.encode_response(question.id, None, "answer"))
    assert connection.response(50).result == "answer"
    assert connection.error("echo", parent, value=1)["code"] == "invalid_params"
    connection.call("session.end", session="outer")


def test_a_session_can_be_carried_over(server: Server) -> None:
    client = server.client()
    with client.create_session(state={"a": 1}) as session:
        if refused := expected(server, "session.export"):
            for method in ("session.export", "session.import"):
                with pytest.raises(DspexError) as caught:
                    session.call(method)
                assert caught.value.code == refused
            return
        session.call("push", {"value": 1})
        exported = session.call("session.export")["export"]
        assert exported["lost"] == []
        client.call("session.import", {"export": exported, "session": "imported"})
        assert client.session("imported").call("push", {"value": 2}) == [1, 2]
        assert client.session("imported").state() == {"a": 1, "begun": 1}
