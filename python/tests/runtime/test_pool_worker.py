"""The worker channel: getting ready, copies of sessions, changes, the end."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dspex import wire
from runtime.harness import HERE, Process, Worker


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def make(*arguments: Any, **options: Any) -> Worker:
        workers.append(Worker(*arguments, **options))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


def meta(
    version: int, becomes: int | None = None, *, start: bool = False, key: int = 7, session: str = "s"
) -> dict[str, Any]:
    found: dict[str, Any] = {"session": session, "key": key, "version": version}
    if becomes is not None:
        found["next"] = becomes
    if start:
        found["start"] = True
    return found


def test_frames_are_as_long_as_the_sidecar_lets_in(start: Callable[..., Worker]) -> None:
    worker = start().ready(max_frame=32 << 20)
    value = b"x" * (20 << 20)
    assert worker.call("echo", value=value) == value
    assert worker.error("echo", value=b"x" * (33 << 20))["code"] == "frame_too_large"


def restore(worker: Worker, version: int, state: dict[str, Any], *, key: int = 7, **more: Any) -> wire.Response:
    part = {"part": 1, "parts": 1, "secrets": {}, **more}
    return worker.outcome("session.restore", None, key=key, session="s", version=version, state=state, **part)


def changes(worker: Worker, id: int) -> dict[str, Any]:
    """What the change frames of a call say together."""
    found: dict[str, Any] = {"set": {}, "delete": [], "secrets": {}}
    for change in [change for change in worker.changes if change.id == id]:
        found["set"].update(change.changes.get("set", {}))
        found["delete"] += change.changes.get("delete", [])
        found["secrets"].update(change.changes.get("secrets", {}))
    return found


def run(worker: Worker, method: str, meta: dict[str, Any], **params: Any) -> tuple[Any, dict[str, Any]]:
    """The result of a call in a session, and what it changed."""
    result = worker.call(method, meta, **params)
    return result, changes(worker, worker.next_id)


NOTHING: dict[str, Any] = {"set": {}, "delete": [], "secrets": {}}


def test_hello_is_answered_with_the_methods(worker: Worker) -> None:
    assert worker.call("ping") == {}
    assert worker.process.pid > 0


def test_the_answer_to_hello(start: Callable[..., Worker]) -> None:
    worker = start()
    result = worker.hello().result
    assert result["protocol"] == 1
    assert result["pid"] == worker.process.pid
    assert set(result["worker"]) >= {"name", "version", "python"}
    methods = {method["name"]: method for method in result["methods"]}
    assert methods["typed"] == {
        "name": "typed",
        "doc": "Has checked parameters.",
        "params": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "array", "items": {"type": "number"}},
                "c": {"enum": ["x", "y"], "default": "x"},
                "d": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            },
            "required": ["a", "b"],
            "additionalProperties": False,
        },
        "result": {"type": "object"},
        "stream": "none",
        "item": None,
        "session": "none",
        "read_only": False,
        "retry": None,
        "process": None,
    }
    assert methods["get"]["session"] == "required"
    assert methods["get"]["read_only"] is True
    assert methods["count"]["stream"] == "required"
    worker.line("worker started")  # what is printed is there at once


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("missing_module:app", "No module named 'missing_module'"),
        ("application:nothing", "has no attribute 'nothing'"),
        ("application:note", "is a ContextVar, not a dspex_worker.App"),
        ("application", "write it as module:attribute"),
        ("broken:app", "ZeroDivisionError"),
    ],
)
def test_an_application_that_cannot_be_loaded(
    start: Callable[..., Worker], tmp_path: Path, app: str, message: str
) -> None:
    (tmp_path / "broken.py").write_text("def deep():\n    return 1 / 0\n\napp = deep()\n")
    (tmp_path / "application.py").write_text((HERE / "application.py").read_text())
    worker = start(app, cwd=tmp_path)
    error = worker.hello().error
    assert error is not None
    assert error["code"] == "program_error"
    assert message in error["message"]
    if app == "broken:app":
        assert error["details"]["traceback"].endswith("ZeroDivisionError: division by zero")
    assert worker.receive() is None
    assert worker.exit_code() == 3


def test_a_failing_start_hook_keeps_the_worker_from_getting_ready(start: Callable[..., Worker], tmp_path: Path) -> None:
    (tmp_path / "hooked.py").write_text(
        "from dspex_worker import App\napp = App(use_dspy=False)\n"
        "@app.on_worker_start\nasync def start():\n    raise RuntimeError('no database')\n"
    )
    worker = start("hooked:app", cwd=tmp_path)
    error = worker.hello().error
    assert error is not None
    assert "no database" in error["message"]
    assert worker.exit_code() == 3


def test_without_a_descriptor_the_options_are_wrong() -> None:
    process = Process("-m", "dspex_worker", "application:app", "--mode", "pool-worker")
    assert process.exit_code() == 2
    assert "DSPEX_WORKER_FD" in process.output
    process.kill()


def test_the_bridge_script_is_the_same(start: Callable[..., Worker]) -> None:
    script = HERE.parents[1] / "dspy_bridge.py"
    worker = start(script=(str(script),)).ready()
    assert worker.call("echo", value=1) == 1


def test_the_end_of_the_channel_cancels_and_stops(start: Callable[..., Worker]) -> None:
    worker = start().ready()
    for id, method in enumerate(("begin_and_wait", "spin"), start=50):
        worker.request(id, method)
        worker.question()
    worker.socket.shutdown(socket.SHUT_WR)
    assert worker.exit_code() == 0
    assert "worker stopped" in worker.output


def test_a_thread_that_does_not_stop_is_left_behind(start: Callable[..., Worker]) -> None:
    worker = start().ready(cancel_grace_ms=100)
    worker.request(50, "hold_thread")
    worker.question()
    worker.socket.close()
    assert worker.exit_code() == 0
    assert "worker stopped" in worker.output


def test_sigterm_ends_it_and_sigint_does_not(start: Callable[..., Worker]) -> None:
    worker = start().ready()
    worker.process.send_signal(signal.SIGINT)
    assert worker.call("echo", value=1) == 1
    worker.process.terminate()
    assert worker.exit_code() == 0
    assert "worker stopped" in worker.output


def test_garbage_ends_the_worker(start: Callable[..., Worker]) -> None:
    worker = start().ready()
    worker.send(b"\x00\x00\x00\x00")
    assert worker.exit_code() == 1


def test_half_a_frame_and_then_the_end(start: Callable[..., Worker]) -> None:
    worker = start().ready()
    worker.send(wire.encode_request(50, "echo", None, {"value": 1})[:-2])
    worker.socket.shutdown(socket.SHUT_WR)
    assert worker.receive() is None
    assert worker.exit_code() == 0


def test_what_it_answers_unknown_questions(worker: Worker) -> None:
    worker.send(wire.encode_response(12345, None, "an answer to nothing"))
    assert worker.call("ping") == {}
    assert worker.error("hello", protocols=[1])["code"] == "unknown_method"


def test_pings_are_answered_beside_calls(worker: Worker) -> None:
    for id in range(50, 58):
        worker.request(id, "hold_thread")
        worker.question()
    assert worker.call("ping") == {}
    worker.call("open_gate")


# Sessions.


def test_a_call_in_a_session_says_what_it_changed(worker: Worker) -> None:
    assert run(worker, "put", meta(0, 11, start=True), key="a", value=[1]) == (
        2,
        {"set": {"a": [1], "begun": 1}, "delete": [], "secrets": {}},
    )
    assert run(worker, "put", meta(11, 12), key="b", value=2) == (3, {"set": {"b": 2}, "delete": [], "secrets": {}})
    assert run(worker, "get", meta(12)) == ({"begun": 1, "a": [1], "b": 2}, NOTHING)


def test_values_changed_in_place_are_changes(worker: Worker) -> None:
    run(worker, "append", meta(0, 11), key="list", value=1)
    for method, version in (("append", 11), ("append_sync", 12)):
        _, changed = run(worker, method, meta(version, version + 1), key="list", value=version)
        assert changed["set"]["list"][-1] == version
    assert run(worker, "get", meta(13)) == ({"list": [1, 11, 12]}, NOTHING)


def test_a_call_that_writes_what_is_there_changes_nothing(worker: Worker) -> None:
    run(worker, "put", meta(0, 11), key="a", value=1)
    assert run(worker, "put", meta(11, 12), key="a", value=1) == (1, NOTHING)
    assert run(worker, "get", meta(11)) == ({"a": 1}, NOTHING)  # it still holds version 11


def test_another_version_is_stale_and_does_not_run(worker: Worker) -> None:
    run(worker, "put", meta(0, 11), key="a", value=1)
    for version in (0, 10, 12):
        assert worker.error("put", meta(version, 13), key="a", value=2)["code"] == "stale_session"
    assert worker.error("put", meta(5, 13, key=8), key="a", value=2)["code"] == "stale_session"
    assert run(worker, "get", meta(11)) == ({"a": 1}, NOTHING)


def test_an_error_changes_nothing(worker: Worker) -> None:
    run(worker, "put", meta(0, 11), key="a", value=1)
    run(worker, "local", meta(11, 12), value="kept")
    assert worker.error("put_and_fail", meta(11, 12))["message"] == "after the write"
    assert changes(worker, worker.next_id) == NOTHING
    assert run(worker, "get", meta(11)) == ({"a": 1}, NOTHING)
    assert run(worker, "local", meta(11, 13)) == (None, NOTHING)  # local objects may have been touched


def test_a_cancel_changes_nothing(worker: Worker) -> None:
    worker.request(50, "put_and_wait", meta(0, 11), key="a")
    worker.question()
    worker.send(wire.encode_cancel(50))
    assert worker.response(50).error is not None
    assert changes(worker, 50) == NOTHING
    assert run(worker, "get", meta(0)) == ({}, NOTHING)


def test_state_that_cannot_be_packed_fails_the_call(worker: Worker) -> None:
    error = worker.error("put_unpackable", meta(0, 11))
    assert error["code"] == "not_serializable"
    assert error["details"]["path"] == "session.state['bad']"


def test_read_only_calls_cannot_write(worker: Worker) -> None:
    restore(worker, 5, {"list": []})
    assert "read_only" in worker.error("write_although_read_only", meta(5))["message"]
    assert "in place" in worker.error("change_although_read_only", meta(5))["message"]
    assert run(worker, "get", meta(5)) == ({"list": []}, NOTHING)
    # Where one is the first call, only the start hooks write.
    assert "read_only" in worker.error("write_although_read_only", meta(0, 11, start=True, key=8))["message"]
    begun = {"set": {"begun": 1}, "delete": [], "secrets": {}}
    assert run(worker, "get", meta(0, 12, start=True, key=8)) == ({"begun": 1}, begun)


def test_a_restore_replaces_and_comes_ahead_of_the_call(worker: Worker) -> None:
    run(worker, "put", meta(0, 11), key="old", value=1)
    run(worker, "local", meta(11, 12), value="of the old copy")
    params = {"key": 7, "session": "s", "version": 20, "state": {"new": 2}, "secrets": {}, "part": 1, "parts": 1}
    worker.send(
        wire.encode_request(50, "session.restore", None, params),
        wire.encode_request(51, "get", meta(20), {}),
    )
    assert worker.response(50).error is None
    assert worker.response(51).result == {"new": 2}
    assert run(worker, "local", meta(20, 21)) == (None, NOTHING)


def test_a_restore_in_parts(worker: Worker) -> None:
    for part in (1, 2, 3):
        assert restore(worker, 5, {f"k{part}": part}, part=part, parts=3).error is None
        expected = None if part == 3 else "stale_session"
        error = worker.outcome("get", meta(5)).error
        assert (error["code"] if error else None) == expected
    assert worker.call("get", meta(5)) == {"k1": 1, "k2": 2, "k3": 3}
    assert restore(worker, 6, {"k4": 4}, base=5).error is None
    assert worker.call("get", meta(6)) == {"k1": 1, "k2": 2, "k3": 3, "k4": 4}
    assert restore(worker, 7, {"k1": 9}, base=6, delete=["k2", "none"]).error is None
    assert worker.call("get", meta(7)) == {"k1": 9, "k3": 3, "k4": 4}
    error = restore(worker, 9, {}, base=5).error
    assert error is not None
    assert error["code"] == "stale_session"
    error = restore(worker, 10, {}, part=2, parts=2).error
    assert error is not None
    assert error["code"] == "invalid_params"


def test_secrets_are_changes_of_their_own(worker: Worker) -> None:
    _, changed = run(worker, "put_secret", meta(0, 11))
    assert changed["set"] == {"dspex.program": {"a": 1}}
    assert list(changed["secrets"].values()) == ["sk-12345"]
    seen = {"state": {}, "reserved": {"program": {"a": 1}}, "secrets": {"key": "sk-12345"}}
    assert worker.call("read_all", meta(11)) == seen
    restore(worker, 30, changed["set"], key=9, secrets=changed["secrets"])
    assert worker.call("read_all", meta(30, key=9)) == seen
    assert "sk-12345" not in worker.output
    restore(worker, 31, {"dspex.secret.key": "of an imported file", "a": 1}, key=9)
    assert worker.call("read_all", meta(31, key=9)) == {"state": {"a": 1}, "reserved": {}, "secrets": {}}


def test_secrets_that_the_sidecar_lost(worker: Worker) -> None:
    gone = ["dspex.secret.key", "dspex.secret.other"]
    restore(worker, 5, {"a": 1}, part=1, parts=2, lost=gone[:1])
    restore(worker, 5, {}, part=2, parts=2, lost=gone[1:])
    assert run(worker, "lost", meta(5, 6)) == (["key", "other"], NOTHING)
    assert run(worker, "lost", meta(5, 6), forget="nothing") == (["key", "other"], NOTHING)
    assert run(worker, "lost", meta(5, 6), forget="other") == (["key"], {**NOTHING, "delete": gone[1:]})
    assert run(worker, "lost", meta(6, 7)) == (["key"], NOTHING)
    assert restore(worker, 8, {"b": 1}, base=6).error is None  # what is not told has not changed
    assert worker.call("lost", meta(8, 9)) == ["key"]
    run(worker, "put_secret", meta(8, 9))
    assert worker.call("lost", meta(9, 10)) == []
    restore(worker, 20, {}, key=9, lost=gone)
    restore(worker, 21, {}, key=9, base=20, secrets={gone[0]: "given since"}, delete=gone[1:])
    assert worker.call("lost", meta(21, 22, key=9)) == []


def test_a_dropped_session_is_forgotten(worker: Worker) -> None:
    run(worker, "put", meta(0, 11), key="a", value=1)
    worker.send(wire.encode_notification("session.drop", {"keys": [7, 99]}))
    assert worker.error("get", meta(11))["code"] == "stale_session"
    run(worker, "put", meta(0, 12), key="a", value=2)
    worker.send(wire.encode_notification("session.drop", {"keys": [7], "ended": True}))
    assert worker.line("session ended") == "session ended s {'a': 2}"
    assert worker.output.count("session ended") == 1


def test_settings_change_while_it_serves(worker: Worker) -> None:
    models = {"main": {"model": "openai/m", "api_key": "k"}}
    worker.send(wire.encode_notification("sidecar.settings", {"models": models, "cancel_grace_ms": 100}))
    assert worker.call("models") == models


def test_writes_outside_a_call_raise(worker: Worker) -> None:
    run(worker, "leak_session", meta(0, 11))
    assert "during its call only" in worker.error("use_leaked")["message"]


def test_background_tasks_update_by_request(worker: Worker) -> None:
    assert run(worker, "in_background", meta(0, 11)) == (None, NOTHING)
    question = worker.question("session.update")
    assert question.params == {"key": 7, "set": {"from the background": True}, "delete": []}
    assert "call" not in question.meta
    while worker.call("was_closed") != ["updated"]:
        pass


def test_changes_are_split_to_fit_the_frames(start: Callable[..., Worker]) -> None:
    worker = start().ready(max_frame=65536)
    for number in range(4):
        run(worker, "put", meta(number, number + 1), key=f"k{number}", value="x" * 50_000)
    worker.changes.clear()
    restore(worker, 100, {})
    _, changed = run(worker, "put_many", meta(100, 101), count=4, size=50_000)
    assert len(worker.changes) == 4
    assert set(changed["set"]) == {"k0", "k1", "k2", "k3"}
    error = worker.error("put_many", meta(101, 102), count=1, size=70_000)
    assert error["code"] == "frame_too_large"
    assert len(worker.call("get_keys", meta(101))) == 4


def test_it_holds_no_descriptor_of_the_channel_by_another_name(worker: Worker) -> None:
    """Children of the application must not keep the channel open."""
    code = "import os, subprocess; print(len(os.listdir('/proc/self/fd')))"
    assert worker.call("run_child", argv=[sys.executable, "-c", code]) <= 4
    assert os.path.exists(f"/proc/{worker.process.pid}")


def test_a_traceback_begins_with_the_application(start: Callable[..., Worker]) -> None:
    error = start().ready(tracebacks=True).error("boom")
    lines = error["details"]["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "application.py" in lines[1]
    assert lines[-1] == "KeyError: 'boom'"


def test_it_says_where_its_threads_are(worker: Worker) -> None:
    worker.request(50, "spin")
    worker.question()
    worker.process.send_signal(signal.SIGUSR1)
    worker.line("in spin")
    worker.send(wire.encode_cancel(50))
    assert worker.response(50).error is not None
