"""Every error code that a client can be given by both servers, and what each carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from dspex.errors import CODES, DspexError, ProgramError, ProgramNotFound
from e2e.support.servers import Server

ELSEWHERE = {
    "invalid_frame": "test_handshake",
    "handshake_required": "test_handshake",
    "unsupported_protocol": "test_handshake",
    "not_serializable": "test_calls",
    "frame_too_large": "test_limits",
    "queue_full": "test_limits",
    "checkout_timeout": "test_limits",
    "session_limit": "test_limits",
    "permission_denied": "test_doors",
    "cancelled": "test_cancel",
    "deadline_exceeded": "test_cancel",
    "session_busy": "test_sessions",
    "draining": "test_end",
    "invalid_signature": "test_dspy",
    "program_exists": "test_dspy",
    "lm_error": "test_dspy",
    "worker_lost": "faults: stand-alone mode has no other process to lose",
    "no_workers": "faults: stand-alone mode does not start without its application",
    "connection_lost": "faults: the client's own",
}
NEVER = {
    "session_lost": "no store of this version loses a session",
    "session_moved": "sessions are moved by reloads, which this version has not",
    "storage_unavailable": "the memory store takes every change",
    "budget_exceeded": "this version has no budgets",
    "internal": "a defect",
    "invalid_result": "the client's own",
}


def program_error(server: Server) -> None:
    server.client().call("boom")


def program_not_found(server: Server) -> None:
    server.client().call("known_error")


def unknown_method(server: Server) -> None:
    server.client().call("nothing")


def invalid_params(server: Server) -> None:
    server.client().call("typed", {})


def session_not_found(server: Server) -> None:
    server.client().session("none").call("get")


def session_exists(server: Server) -> None:
    with server.client().create_session() as session:
        server.client().create_session(session.id)


PROVOKED: list[Callable[[Server], None]] = [
    program_error,
    program_not_found,
    unknown_method,
    invalid_params,
    session_not_found,
    session_exists,
]


@pytest.mark.parametrize("provoke", PROVOKED)
def test_codes(server: Server, provoke: Callable[[Server], None]) -> None:
    with pytest.raises(DspexError) as caught:
        provoke(server)
    assert caught.value.code == provoke.__name__
    assert caught.value.retryable is False
    assert caught.value.message
    assert server.client().call("echo", {"value": 1}) == 1


def test_every_code_is_provoked_somewhere() -> None:
    here = {provoke.__name__ for provoke in PROVOKED}
    assert here | ELSEWHERE.keys() | NEVER.keys() == CODES
    assert not here & ELSEWHERE.keys()


@pytest.mark.parametrize(
    ("method", "kind", "message"), [("boom", "KeyError", "'boom'"), ("boom_async", "conformance.Refused", "not today")]
)
def test_what_the_application_raises(server: Server, method: str, kind: str, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        server.client().call(method)
    assert caught.value.message == message
    assert caught.value.details["type"] == kind
    assert "conformance.py" in caught.value.details["traceback"]
    assert "runtime.py" not in caught.value.details["traceback"]


def test_an_error_of_the_protocol_that_the_application_raises_is_passed_on(server: Server) -> None:
    with pytest.raises(ProgramNotFound) as caught:
        server.client().call("known_error")
    assert (caught.value.message, caught.value.details) == ("no such thing", {"name": "x"})


def test_a_call_that_leaves_something_running_fails(server: Server) -> None:
    with pytest.raises(ProgramError) as caught:
        server.client().call("leave_task")
    assert caught.value.details["type"] == "TasksLeftRunning"
    assert "left over" in str(caught.value.details["tasks"])


def test_a_very_long_message_is_cut(server: Server) -> None:
    with pytest.raises(ProgramError) as caught:
        server.client().call("boom", {"message": "x" * 5_000_000})
    assert len(caught.value.message) <= 10_000


def test_no_failure_is_told_where_there_was_none(server: Server) -> None:
    client = server.client()
    client.call("echo", {"value": 1})
    for method in ("sidecar.health", "sidecar.stats"):
        told = client.call(method)
        assert (told["last_failure"], told["last_failure_age_ms"]) == (None, None)
    assert client.call("sidecar.stats")["worker_restarts"] == 0


def test_errors_are_counted(server: Server) -> None:
    client = server.client()
    before: dict[str, Any] = client.call("sidecar.stats")
    with pytest.raises(ProgramError):
        client.call("boom")
    after = client.call("sidecar.stats")
    assert after["total_errors"] == before["total_errors"] + 1
    assert after["total_commands"] > before["total_commands"]
