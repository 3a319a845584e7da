"""Stand-alone mode: socket, handshake, sessions, turns, deadlines, limits, the end."""

from __future__ import annotations

import os
import resource
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dspex import wire
from runtime.harness import HERE, TIMEOUT, Connection, Process, Server

Serve = Callable[..., Server]


def config(folder: Path, text: str) -> tuple[str, str]:
    path = folder / "dspex.toml"
    path.write_text(text)
    return "--config", str(path)


def raw(server: Server) -> Connection:
    return server.connect({})


# The socket.


def test_the_socket_has_its_mode_and_goes_at_the_end(serve: Serve) -> None:
    server = serve()
    found = os.stat(server.path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o660
    server.process.terminate()
    assert server.exit_code() == 0
    assert not os.path.exists(server.path)


def test_a_stale_socket_is_taken_over_and_a_live_one_is_not(serve: Serve, tmp_path: Path) -> None:
    first = serve()
    second = Process("-m", "dspex_worker", "application:app", "--socket", first.path)
    assert second.exit_code() == 1
    assert "another process listens there" in second.output
    second.kill()
    first.process.kill()
    first.process.wait()
    assert os.path.exists(first.path)
    third = serve()
    assert third.connect().call("echo", value=3) == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [("x" * 120, "a Unix socket's has at most 107"), ("file", "which is no socket"), ("open/s", "everybody may write")],
)
def test_a_socket_that_cannot_be_had(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    process = Process("-m", "dspex_worker", "application:app", "--socket", str(tmp_path / name))
    assert process.exit_code() == 1
    assert reason in process.output
    assert (tmp_path / "file").read_text() == "mine"
    process.kill()


def test_exit_codes(tmp_path: Path) -> None:
    for arguments, code, said in (
        (("--nonsense",), 2, "unrecognized arguments"),
        (("--config", str(tmp_path / "none.toml")), 2, "No such file"),
        (("missing:app", "--socket", str(tmp_path / "s")), 3, "No module named 'missing'"),
        (("--help",), 0, "exit codes"),
    ):
        process = Process("-m", "dspex_worker", *arguments)
        assert process.exit_code() == code
        assert said in process.output
        process.kill()


def test_a_configuration_is_read(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-file\n")
    text = """
        [sessions]
        ttl = "90m"
        [pools.default]
        app = "application:app"
        size = 3
        [models.a]
        model = "openai/a"
        api_key = "file:key"
        timeout = "1m30s"
        [profile.dev.sessions]
        ttl = "2h"
    """
    (tmp_path / "application.py").write_text((HERE / "application.py").read_text())
    process = Process(
        "-m", "dspex_worker", *config(tmp_path, text), "--profile", "dev", "--socket", str(tmp_path / "s")
    )
    process.line("serving")
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(tmp_path / "s"))
    connection = Connection(sock)
    connection.call("hello", None, protocols=[1])
    connection.call("session.create", session="a")
    assert connection.call("session.get", session="a")["ttl_ms"] == 2 * 3600 * 1000
    assert "sk-file" not in process.output
    connection.close()
    process.kill()
    for wrong, said in (
        ('[sessions]\nttl = "soon"', "sessions.ttl: must be a duration"),
        ('[models.a]\nmodel = "x"\napi_key = "sk-plain"', "models.a: api_key must be a reference"),
        ("[pools.default]\nconcurrency = 0", "pools.default.concurrency: must be a number of at least 1"),
    ):
        process = Process("-m", "dspex_worker", *config(tmp_path, wrong))
        assert process.exit_code() == 2
        assert said in process.output
        assert "sk-plain" not in process.output
        process.kill()


# The handshake, and what breaks the protocol.


def test_hello_comes_first(serve: Serve) -> None:
    server = serve()
    connection = raw(server)
    result = connection.call("hello", None, protocols=[2, 1], client={"name": "t\x07", "version": "1"})
    assert (result["protocol"], result["max_frame"], result["max_in_flight"]) == (1, 16 << 20, 1024)
    assert connection.call("sidecar.clients")["clients"][0]["name"] == "t?"
    for method, params, code in (
        ("echo", {"value": 1}, "handshake_required"),
        ("hello", {"protocols": [2]}, "unsupported_protocol"),
        ("hello", {"protocols": [1], "max_frame": 5}, "invalid_params"),
    ):
        connection = raw(server)
        assert connection.error(method, None, **params)["code"] == code
        assert connection.receive() is None
    for frame in (
        wire.encode_cancel(5),
        wire.encode_notification("hello", {}),
        b"\0\0\0\1\xc1",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        connection = raw(server)
        connection.send(frame)
        if frame[:1] == b"G":
            connection.socket.shutdown(socket.SHUT_WR)  # the beginning of a very long frame
        else:
            assert connection.notification().params["code"] == "handshake_required"
        assert connection.receive() is None
    assert server.connect().call("echo", value=1) == 1


def test_hello_comes_in_time(serve: Serve, tmp_path: Path) -> None:
    server = serve(*config(tmp_path, '[listen]\nhandshake_timeout = "50ms"'))
    connection = raw(server)
    assert connection.notification().params["code"] == "handshake_required"
    assert connection.receive() is None


def test_broken_framing_ends_that_connection_alone(serve: Serve, tmp_path: Path) -> None:
    server = serve(*config(tmp_path, '[listen]\nframe_timeout = "50ms"'))
    other = server.connect()
    for frame in (
        b"\0\0\0\0",
        b"\0\0\0\5" + b"\x91" * 5,
        b"\0\0\0\6\x95\0\1\xdd\xff\xff",
        (2 << 20).to_bytes(4, "big") + b"\x91" * (2 << 20),
        b"\0\0\1\0half a frame",
    ):
        connection = server.connect()
        connection.send(frame)
        told = connection.notification()
        assert (told.method, told.params["code"]) == ("protocol_error", "invalid_frame")
        assert connection.receive() is None
    assert other.call("echo", value=1) == 1


def test_a_huge_length_is_not_allocated(serve: Serve) -> None:
    server = serve()
    connection = server.connect()
    connection.send(b"\xff\xff\xff\xff" + b"\x95\x00\x32" + bytes(1 << 20))
    assert server.connect().call("echo", value=1) == 1
    assert memory(server) < 200 << 20


def test_a_head_that_cannot_be_read_is_told_and_survived(serve: Serve) -> None:
    connection = serve().connect()
    for body in (
        b"\x90",
        b"\x95\0\0\xa1x\xc0\xc0",
        b"\x94\0\1\xa1x\xc0",
        b"\x95\0\1\xa1x\1\xc0",
        b"\x95\0\1\xa0\xc0\xc0",
    ):
        connection.send(len(body).to_bytes(4, "big") + body)
        assert connection.notification().method == "protocol_error"
    assert connection.call("echo", value=1) == 1


@pytest.mark.parametrize(
    "meta",
    [{"session": 1}, {"session": ""}, {"timeout_ms": -1}, {"stream": 0}, {"app": 1}, {"retry": "yes"}, {"parent": "1"}],
)
def test_known_keys_of_meta_have_their_types(serve: Serve, meta: dict[str, Any]) -> None:
    connection = serve().connect()
    assert connection.error("echo", meta, value=1)["code"] == "invalid_frame"
    assert connection.call("echo", {"unknown": 1}, value=1) == 1


# Limits.


def test_limits_on_what_is_in_flight(serve: Serve, tmp_path: Path) -> None:
    text = '[listen]\nmax_in_flight = 3\n[pools.default]\nconcurrency = 1\nqueue_limit = 2\ncheckout_timeout = "100ms"'
    server = serve(*config(tmp_path, text))
    connection = server.connect()
    connection.request(50, "begin_and_wait")
    connection.question()
    connection.request(51, "echo", value=1)
    connection.request(52, "echo", value=1)
    error = connection.error("echo", value=1)
    assert (error["code"], error["retryable"]) == ("queue_full", True)
    other = server.connect()
    assert other.error("echo", value=1)["code"] == "queue_full"
    for id in (51, 52):
        error = connection.response(id).error or {}
        assert (error["code"], error["retryable"]) == ("checkout_timeout", True)
    connection.request(51, "echo", value=1)
    connection.send(wire.encode_cancel(50))
    assert connection.response(51).result == 1


def test_too_many_connections(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        *config(tmp_path, f"[listen]\nmax_connections = 1\nadmin_uids = [12345]\nallow_uids = [{os.getuid()}]")
    )
    first = server.connect()
    connection = raw(server)
    assert connection.error("hello", None, protocols=[1])["code"] == "queue_full"
    assert connection.receive() is None
    first.close()
    while True:  # its end is seen when the server comes to it
        connection = raw(server)
        if connection.outcome("hello", None, protocols=[1]).error is None:
            break


def test_a_uid_that_may_not_connect(serve: Serve, tmp_path: Path) -> None:
    server = serve(*config(tmp_path, "[listen]\nadmin_uids = [12345]\nallow_uids = [12346]"))
    assert raw(server).error("hello", None, protocols=[1])["code"] == "permission_denied"


def test_the_receivers_limit_settles_the_call(serve: Serve) -> None:
    connection = serve().connect({"max_frame": 65536})
    error = connection.error("big", size=70_000)
    assert (error["code"], error["details"]["limit"]) == ("frame_too_large", 65536)
    connection.request(50, "count", {"stream": 10}, n=3, size=70_000)
    error = connection.response(50).error or {}
    assert error["code"] == "frame_too_large"


def test_a_client_that_reads_nothing_loses_its_connection(serve: Serve, tmp_path: Path) -> None:
    server = serve(*config(tmp_path, '[listen]\nwrite_buffer = "16MiB"'))
    deaf = server.connect()
    other = server.connect()
    value = bytes(1 << 20)
    try:
        for id in range(100, 200):
            deaf.send(wire.encode_request(id, "echo", None, {"value": value}))
            assert other.call("echo", value=id) == id
    except OSError:
        pass  # the connection was ended, as it has to be
    while len(other.call("sidecar.clients")["clients"]) > 1:
        pass
    assert memory(server) < 200 << 20


def test_a_client_that_takes_nothing_for_too_long_loses_its_connection(serve: Serve, tmp_path: Path) -> None:
    server = serve(*config(tmp_path, '[listen]\nwrite_timeout = "50ms"'))
    deaf = server.connect()
    deaf.send(*(wire.encode_request(id, "big", None, {"size": 4 << 20}) for id in range(100, 104)))
    other = server.connect()
    while len(other.call("sidecar.clients")["clients"]) > 1:
        pass


def memory(server: Server) -> int:
    """Resident bytes."""
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_without_descriptors_it_waits_and_goes_on(serve: Serve) -> None:
    server = serve()
    first = server.connect()
    used = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 3, used + 3))
    crowd = [raw(server) for _ in range(6)]
    server.line("no connection can be accepted")
    assert first.call("echo", value=1) == 1
    for connection in crowd[:4]:
        connection.close()
    for connection in crowd[4:]:
        connection.call("hello", None, protocols=[1])


# Deadlines and leaving.


def test_deadlines(serve: Serve) -> None:
    connection = serve("--concurrency", "1").connect()
    assert connection.error("echo", {"timeout_ms": 0}, value=1)["code"] == "deadline_exceeded"
    for method, ended_by in (("begin_and_wait", "task"), ("spin", "thread")):
        connection.request(50, method, {"timeout_ms": 100})
        connection.question()
        connection.request(51, "echo", {"timeout_ms": 20}, value=1)
        error = connection.response(51).error or {}
        assert (error["code"], error["details"]) == ("deadline_exceeded", {"ended_by": "queue"})
        error = connection.response(50).error or {}
        assert (error["code"], error["details"]) == ("deadline_exceeded", {"ended_by": ended_by})
    assert connection.call("echo", value=1) == 1


@pytest.mark.parametrize("half", [False, True])
def test_a_client_that_leaves_cancels_its_calls(serve: Serve, half: bool) -> None:
    server = serve()
    connection, other = server.connect(), server.connect()
    for id, method in ((50, "begin_and_wait"), (51, "spin")):
        connection.request(id, method)
        connection.question()
    connection.request(52, "count_slowly", {"stream": 100_000})
    connection.items(52, 2)
    if half:
        connection.socket.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    while other.call("sidecar.stats")["in_flight"]:
        pass
    assert {"spin", "count_slowly"} <= set(other.call("was_closed"))


def test_a_stream_that_waits_for_credit_too_long_is_cancelled(serve: Serve, tmp_path: Path) -> None:
    connection = serve(*config(tmp_path, '[pools.default]\nstream_stall = "50ms"')).connect()
    for method in ("count", "count_async"):
        connection.request(50, method, {"stream": 1}, n=5)
        connection.items(50, 1)
        error = connection.response(50).error or {}
        assert error["code"] == "cancelled"
        assert "credit" in error["message"]


# Sessions.


def test_the_life_of_a_session(serve: Serve) -> None:
    connection = serve().connect()
    created = connection.call("session.create", state={"a": 1}, labels={"kind": "test"}, ttl_ms=60_000)
    session = {"session": created["session"]}
    assert "token" not in created
    assert connection.call("put", session, key="b", value=2) == 3
    found = connection.call("session.get", None, **session)
    assert (found["state"], found["labels"], found["ttl_ms"]) == (
        {"a": 1, "b": 2, "begun": 1},
        {"kind": "test"},
        60_000,
    )
    assert (
        connection.call("session.update", session, set={"c": 3}, delete=["a", "x"])["version"] == found["version"] + 1
    )
    assert connection.call("get", session) == {"b": 2, "begun": 1, "c": 3}
    assert connection.error("session.create", None, **session)["code"] == "session_exists"
    assert connection.call("session.end", None, **session) == session
    for method in ("session.get", "session.end"):
        assert connection.error(method, None, **session)["code"] == "session_not_found"
    assert connection.error("get", session)["code"] == "session_not_found"


def test_an_error_commits_nothing(serve: Serve) -> None:
    server = serve()
    connection = server.connect()
    connection.call("session.create", session="s")
    assert connection.error("put_and_fail", {"session": "s"})["code"] == "program_error"
    assert connection.call("session.get", session="s")["state"] == {}
    connection.request(50, "put_and_wait", {"session": "s", "timeout_ms": 50}, key="late")
    connection.question()
    assert connection.response(50).error is not None
    assert connection.call("get", {"session": "s"}) == {"begun": 1}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"session": "x" * 129}, "invalid_params"),
        ({"session": "a\n"}, "invalid_params"),
        ({"state": {"dspex.programs": 1}}, "invalid_params"),
        ({"state": {"k" * 257: 1}}, "invalid_params"),
        ({"state": 5}, "invalid_params"),
        ({"ttl_ms": 0}, "invalid_params"),
        ({"labels": {str(n): "x" for n in range(33)}}, "invalid_params"),
        ({"labels": {"a": 5}}, "invalid_params"),
        ({"pool": "other"}, "invalid_params"),
        ({"nonsense": 1}, "invalid_params"),
    ],
)
def test_wrong_sessions(serve: Serve, params: dict[str, Any], code: str) -> None:
    connection = serve().connect()
    assert connection.error("session.create", None, **params)["code"] == code
    assert connection.error("session.update", {"session": "none"}, set={})["code"] == "session_not_found"
    assert connection.call("session.list") == {"sessions": []}


def test_calls_of_a_session_run_one_at_a_time_in_order(serve: Serve) -> None:
    server = serve()
    connection, other = server.connect(), server.connect()
    connection.call("session.create", session="s")
    frames = []
    for number in range(60):
        method = ("append", "append_sync")[number % 2]
        frames.append(wire.encode_request(1000 + number, method, {"session": "s"}, {"key": "list", "value": number}))
    connection.send(*frames)
    for number in range(60):
        assert connection.response(1000 + number).result == number + 1
    assert other.call("session.get", session="s")["state"]["list"] == list(range(60))


def test_reading_calls_run_beside_each_other_and_writers_wait(serve: Serve) -> None:
    connection = serve().connect()
    connection.call("session.create", session="s")
    connection.call("put", {"session": "s"}, key="a", value=1)
    for id in (50, 51):
        connection.request(id, "get", {"session": "s"}, wait=True)
    questions = [connection.until(lambda message: isinstance(message, wire.Request)) for _ in range(2)]
    connection.request(52, "put", {"session": "s"}, key="a", value=2)
    connection.request(53, "get", {"session": "s"})
    waiting = {call["id"]: call["state"] for call in connection.call("sidecar.calls")["calls"]}
    assert waiting == {50: "running", 51: "running", 52: "queued", 53: "queued"}
    for question in questions:
        connection.send(wire.encode_response(question.id, None, None))
    assert [connection.response(id).result["a"] for id in (50, 51)] == [1, 1]
    assert connection.response(53).result["a"] == 2


def test_another_session_does_not_wait(serve: Serve) -> None:
    connection = serve().connect()
    for session in ("a", "b"):
        connection.call("session.create", session=session)
    connection.request(50, "put_and_wait", {"session": "a"}, key="x")
    connection.question()
    assert connection.call("put", {"session": "b"}, key="x", value=1) == 2


def test_the_end_of_a_session_settles_its_calls(serve: Serve) -> None:
    server = serve()
    connection = server.connect()
    connection.call("session.create", session="s")
    connection.call("put", {"session": "s"}, key="a", value=1)
    connection.request(50, "put_and_wait", {"session": "s"}, key="b")
    connection.question()
    connection.request(51, "get", {"session": "s"})
    connection.call("session.end", session="s")
    for id in (50, 51):
        assert (connection.response(id).error or {})["code"] == "session_not_found"
    assert server.line("session ended s") == "session ended s {'begun': 1, 'a': 1}"
    connection.call("session.create", session="s")
    assert connection.call("session.get", session="s")["state"] == {}


def test_sessions_expire_unless_calls_are_in_them(serve: Serve) -> None:
    connection = serve().connect()
    for session in ("idle", "busy"):
        connection.call("session.create", session=session, ttl_ms=1)
    connection.request(50, "put_and_wait", {"session": "busy"}, key="x")
    connection.question()
    while len(found := connection.call("session.list")["sessions"]) > 1:
        pass
    assert found[0]["session"] == "busy"
    connection.send(wire.encode_cancel(50))
    while connection.call("session.list")["sessions"]:
        pass


def test_a_session_belongs_to_its_token(serve: Serve) -> None:
    server = serve()
    connection = server.connect()
    token = connection.call("session.create", session="s", token=True)["token"]
    assert connection.error("session.get", session="s")["code"] == "session_not_found"
    assert connection.call("session.list") == {"sessions": []}
    connection.call("session.create", session="s", state={"mine": True})  # not blocked by the other's
    with_token = {"session": "s", "session_token": token}
    assert connection.call("put", with_token, key="a", value=1) == 2
    holder = server.connect({"token": token})
    assert holder.call("session.get", session="s")["state"] == {"begun": 1, "a": 1}
    assert connection.call("session.get", session="s")["state"] == {"mine": True}
    assert len(connection.call("session.list", all=True)["sessions"]) == 2
    assert token not in server.output


def test_sessions_are_listed_in_pages(serve: Serve) -> None:
    connection = serve().connect()
    for number in range(7):
        connection.call("session.create", session=f"s{number}", labels={"odd": str(number % 2)})
    first = connection.call("session.list", limit=4)
    second = connection.call("session.list", limit=4, after=first["next"])
    assert [entry["session"] for entry in first["sessions"] + second["sessions"]] == [
        f"s{number}" for number in range(7)
    ]
    assert "next" not in second
    assert len(connection.call("session.list", labels={"odd": "1"})["sessions"]) == 3
    assert connection.error("session.list", limit=0)["code"] == "invalid_params"


def test_a_reset_takes_its_turn_and_begins_anew(serve: Serve) -> None:
    connection = serve(app="keeping:app").connect()
    connection.call("session.create", session="s", state={"a": 1})
    meta = {"session": "s"}
    assert connection.call("add", meta, n=5) == 5
    connection.request(50, "add_and_wait", meta)
    question = connection.until(lambda message: isinstance(message, wire.Request))
    connection.request(51, "session.reset", session="s")
    connection.request(52, "look", meta)
    connection.send(wire.encode_response(question.id, None, None))
    assert connection.response(50).error is None
    assert connection.response(51).result == {"session": "s"}
    assert connection.response(52).result == 0
    found = connection.call("session.get", session="s")
    assert (found["session"], found["state"]) == ("s", {})


def test_a_reset_session_starts_again(serve: Serve) -> None:
    connection = serve().connect()
    meta = {"session": "s"}
    connection.call("session.create", session="s", state={"a": 1})
    assert connection.call("get", meta) == {"a": 1, "begun": 1}
    connection.call("put_secret", meta)
    connection.call("session.reset", meta)
    everything = connection.call("read_all", meta)
    assert everything == {"state": {"begun": 1}, "reserved": {}, "secrets": {}}
    assert connection.error("session.reset", session="another")["code"] == "session_not_found"


def test_idempotency_keys_are_refused_where_they_would_mean_something(serve: Serve) -> None:
    connection = serve().connect()
    error = connection.error("echo", {"idempotency_key": "k"}, value=1)
    assert error["code"] == "invalid_params"
    assert "stand-alone mode keeps no answers" in error["message"]
    assert connection.call("echo", {"idempotency_key": "k", "retry": "safe"}, value=1) == 1
    for key in ("", "x" * 257, 5):
        assert connection.error("echo", {"idempotency_key": key, "retry": "safe"}, value=1)["code"] == "invalid_frame"


def test_limits_on_sessions(serve: Serve, tmp_path: Path) -> None:
    server = serve(*config(tmp_path, '[sessions]\nmax = 1\nmax_state = "1KiB"\nauto_create = true'))
    connection = server.connect()
    assert connection.call("put", {"session": "made"}, key="a", value=1) == 2
    assert connection.error("put", {"session": "more"}, key="a", value=1)["code"] == "session_limit"
    error = connection.error("put", {"session": "made"}, key="a", value="x" * 2000)
    assert (error["code"], error["details"]["limit"]) == ("session_limit", 1024)
    assert connection.call("session.get", session="made")["state"] == {"begun": 1, "a": 1}


def test_a_background_task_takes_its_turn(serve: Serve) -> None:
    connection = serve().connect()
    connection.call("session.create", session="s")
    assert connection.call("in_background", {"session": "s"}) is None
    while connection.call("was_closed") != ["updated"]:
        pass
    assert connection.call("session.get", session="s")["state"]["from the background"] is True


def test_a_call_within_a_call(serve: Serve) -> None:
    connection = serve("--concurrency", "1").connect()
    connection.call("session.create", session="s")
    connection.request(50, "nested_call", {"session": "s"}, question="inner")
    question = connection.until(lambda message: isinstance(message, wire.Request))
    parent = {"parent": question.id}
    assert connection.call("echo_async", parent, value=1) == 1  # takes no slot: its parent waits for it
    assert connection.error("get", {**parent, "session": "s"})["code"] == "session_busy"
    connection.send(wire.encode_response(question.id, None, "answer"))
    assert connection.response(50).result == "answer"
    assert connection.error("echo", parent, value=1)["code"] == "invalid_params"


def test_a_call_within_a_call_within_a_call(serve: Serve) -> None:
    connection = serve().connect()
    parent: dict[str, Any] = {}
    waiting: list[tuple[int, int]] = []
    for id, session in ((50, "s"), (51, "t")):
        connection.call("session.create", session=session)
        connection.request(id, "nested_call", {**parent, "session": session}, question=f"of {session}")
        question = connection.until(lambda message: isinstance(message, wire.Request))
        parent = {"parent": question.id}
        waiting.append((id, question.id))
    for session in ("s", "t"):  # each waits for this call, however far away
        assert connection.error("get", {**parent, "session": session})["code"] == "session_busy"
    for id, asked in reversed(waiting):
        connection.send(wire.encode_response(asked, None, "answer"))
        assert connection.response(id).result == "answer"


# The end.


def test_sigterm_drains(serve: Serve) -> None:
    server = serve()
    connection = server.connect()
    connection.call("session.create", session="s")
    silent = server.connect({})
    connection.request(50, "ask", value=1)
    question = connection.until(lambda message: isinstance(message, wire.Request))
    server.process.terminate()
    told = connection.notification()
    assert told.method == "goaway"
    assert told.params["drain_ms"] == 30_000
    error = connection.error("echo", value=1)
    assert (error["code"], error["retryable"]) == ("draining", True)
    assert connection.call("sidecar.health")["status"] == "unhealthy"
    assert connection.call("session.update", session="s", set={"x": 1}) == {"session": "s", "version": 1}
    assert connection.error("session.create")["code"] == "draining"
    silent.request(1, "hello", None, protocols=[1])
    answer = silent.receive()  # nothing comes before the answer to hello
    assert isinstance(answer, wire.Response)
    assert (answer.error or {})["code"] == "draining"
    connection.send(wire.encode_response(question.id, None, "answer"))
    assert connection.response(50).result == "answer"
    assert connection.receive() is None
    assert server.exit_code() == 0
    assert "worker stopped" in server.output


def test_a_second_sigterm_waits_no_longer(serve: Serve) -> None:
    server = serve()
    connection = server.connect()
    connection.request(50, "begin_and_wait")
    connection.question()
    server.process.terminate()
    assert connection.notification().method == "goaway"
    server.process.terminate()
    began = time.monotonic()
    assert server.exit_code() == 0
    assert time.monotonic() - began < TIMEOUT / 2


def test_the_drain_has_a_limit(serve: Serve, tmp_path: Path) -> None:
    server = serve(*config(tmp_path, '[pools.default]\nshutdown_timeout = "50ms"'))
    connection = server.connect()
    connection.request(50, "begin_and_wait")
    connection.question()
    server.process.terminate()
    assert (connection.response(50).error or {})["code"] == "cancelled"
    assert server.exit_code() == 0
