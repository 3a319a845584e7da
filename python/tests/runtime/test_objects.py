"""Objects that an application keeps for its sessions: made, kept, packed, made again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dspex import wire
from dspex_worker import App
from runtime.harness import Worker
from runtime.test_pool_worker import NOTHING, changes, meta, restore, run

KEY = "dspex.object.counter"


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("keeping:app").ready()
    yield worker
    worker.close()


def kept(total: Any) -> dict[str, Any]:
    return {"set": {KEY: total}, "delete": [], "secrets": {}}


def test_an_object_lives_in_its_worker(worker: Worker) -> None:
    assert run(worker, "add", meta(0, 1)) == (1, kept(1))
    assert run(worker, "add", meta(1, 2)) == (2, kept(2))
    assert worker.call("so_far") == ["load None", "dump 1", "dump 2"]
    assert run(worker, "add", meta(0, 1, key=8, session="t"), n=5) == (5, kept(5))  # each session has its own
    assert run(worker, "names", meta(2, 3)) == (["counter", "never asked for"], NOTHING)


def test_one_that_did_not_change_costs_nothing(worker: Worker) -> None:
    worker.call("add", meta(0, 1))
    assert run(worker, "add", meta(1, 2), n=0) == (1, NOTHING)
    assert run(worker, "look", meta(1)) == (1, NOTHING)
    assert worker.call("so_far") == ["load None", "dump 1", "dump 1"]  # read-only methods are not asked


def test_it_is_made_again_after_a_restore(worker: Worker) -> None:
    assert restore(worker, 5, {KEY: 41}).error is None
    assert worker.call("so_far") == ["load 41"]  # before the first call
    assert run(worker, "add", meta(5, 6)) == (42, kept(42))
    assert restore(worker, 9, {KEY: 1}, base=6).error is None
    assert worker.call("look", meta(9)) == 1
    assert restore(worker, 10, {}, base=9, delete=[KEY]).error is None
    assert worker.call("look", meta(10)) == 0


def test_a_failed_call_leaves_nothing_of_it(worker: Worker) -> None:
    worker.call("add", meta(0, 1))
    assert worker.error("add_and_fail", meta(1, 2))["code"] == "invalid_params"
    assert worker.call("look", meta(1)) == 1
    worker.request(50, "add_and_wait", meta(1, 2))
    worker.until(lambda message: isinstance(message, wire.Request))
    worker.send(wire.encode_cancel(50))
    assert (worker.response(50).error or {})["code"] == "cancelled"
    assert run(worker, "add", meta(1, 2)) == (2, kept(2))


def test_a_dump_that_fails_fails_the_call(worker: Worker) -> None:
    worker.call("add", meta(0, 1))
    error = worker.error("refuse", meta(1, 2))
    assert error["code"] == "program_error"
    assert "session 's': dump of its object 'counter' failed: ValueError: cannot be written" in error["message"]
    assert error["details"]["type"].endswith("SessionObjectError")
    assert changes(worker, worker.next_id) == NOTHING
    error = worker.error("add", meta(1, 2), n=-2)
    assert error["code"] == "not_serializable"
    assert "session.objects['counter']" in error["message"]
    assert run(worker, "add", meta(1, 2)) == (2, kept(2))


def test_a_load_that_fails_fails_the_call_that_asks(worker: Worker) -> None:
    assert restore(worker, 5, {KEY: "bad", "a": 1}).error is None
    for _ in range(2):
        error = worker.error("add", meta(5, 6))
        assert error["code"] == "program_error"
        assert "session 's': load of its object 'counter' failed: ValueError: cannot be read" in error["message"]
    assert worker.call("names", meta(5, 6)) == ["counter", "never asked for"]


def test_a_load_that_kills_the_worker_does_so_in_the_restore(worker: Worker) -> None:
    worker.request(50, "session.restore", None, **{"key": 7, "session": "s", "version": 5}, state={KEY: "deadly"})
    assert worker.receive() is None
    assert worker.exit_code() == -9


def test_calls_wait_for_their_sessions_load_and_others_do_not(worker: Worker) -> None:
    worker.request(50, "session.restore", None, **{"key": 7, "session": "s", "version": 5}, state={KEY: "slow"})
    worker.request(51, "look", meta(5))
    worker.request(52, "add", meta(5, 6))
    assert worker.call("add", meta(0, 1, key=8, session="t")) == 1
    worker.send(wire.encode_cancel(52))
    assert worker.call("ping") == {}
    assert not [message for message in worker.messages if isinstance(message, wire.Response)]
    worker.call("open_gate")
    assert worker.response(50).result == {}
    assert worker.response(51).result == 0
    assert (worker.response(52).error or {})["code"] == "cancelled"
    assert worker.call("look", meta(5)) == 0


def test_what_is_not_registered(worker: Worker) -> None:
    assert "app.session_object" in worker.error("unknown", meta(0, 1))["message"]


def test_the_end_of_a_session_can_look_at_it(worker: Worker) -> None:
    worker.call("add", meta(0, 1), n=3)
    worker.send(wire.encode_notification("session.drop", {"keys": [7], "ended": True}))
    worker.line("ended with 3")


async def _coroutine(value: Any) -> Any:
    return value


def test_what_cannot_be_registered() -> None:
    app = App(use_dspy=False)
    app.session_object("a", load=str, dump=str)
    for name, load, error in (
        ("a", str, ValueError),
        ("", str, ValueError),
        ("b", _coroutine, TypeError),
    ):
        with pytest.raises(error):
            app.session_object(name, load=load, dump=str)
