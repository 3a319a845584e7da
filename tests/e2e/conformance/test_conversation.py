"""Programs with memory, and versions, over both servers: turns in order, none lost, kept over a worker's end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dspex import Session
from dspex.errors import DeadlineExceeded, InvalidParams, LMError
from e2e.support.configuration import Tables
from e2e.support.machine import until
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Reply, Seen, json_answer


def answer(seen: Seen) -> str | Reply:
    """Repeat the question, and say how many turns were told."""
    last = str(seen.body["messages"][-1]["content"])
    question = re.search(r"QQ(\w+)", last)
    assert question is not None
    turns = sum(message["role"] == "assistant" for message in seen.body["messages"])
    return Reply(json_answer(answer=f"{question[1]} after {turns}"), pause=0.02)


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def shared(request: pytest.FixtureRequest, lm: OpenAIServer) -> Iterator[Server]:
    model = {"model": "openai/m", "api_key": "env:OPERATOR_KEY", "api_base": lm.base, "adapter": "json"}
    tables: Tables = {"pools": {"default": {"app": "talking:app", "size": 1}}, "models": {"main": model}}
    with Server(request.param, tables, environment={"OPERATOR_KEY": "sk-operator"}) as server:
        yield server


@pytest.fixture
def session(server: Server, lm: OpenAIServer) -> Iterator[Session]:
    lm.requests.clear()
    with server.client().create_session() as session:
        yield session


def begin(session: Session, **more: Any) -> None:
    session.call("create_program", {"id": "chat", "signature": "question -> answer", "memory": {"turns": 50}, **more})


def ask(session: Session, question: str, **options: Any) -> str:
    said = session.call("execute_program", {"program": "chat", "inputs": {"question": f"QQ{question}"}}, **options)
    return str(said["answer"])


def test_turns_at_once_run_one_after_the_other_and_all_are_kept(session: Session) -> None:
    begin(session)
    session.call("create_program", {"id": "plain", "signature": "question -> answer"})
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, session, f"n{number}") for number in range(12)]
        beside = pool.submit(session.call, "execute_program", {"program": "plain", "inputs": {"question": "QQx"}})
        got = [one.result(20) for one in asked]
        assert beside.result(20)["answer"] == "x after 0"
    assert sorted(int(one.rpartition(" ")[2]) for one in got) == list(range(12))
    history = session.call("get_history", {"program": "chat"})["messages"]
    assert [one["answer"] for one in history] == sorted(got, key=lambda one: int(one.rpartition(" ")[2]))
    assert [one["question"].removeprefix("QQ") + f" after {n}" for n, one in enumerate(history)] == [
        one["answer"] for one in history
    ]


def test_a_failed_turn_is_not_kept_and_the_next_goes_on(session: Session, lm: OpenAIServer) -> None:
    begin(session)
    assert ask(session, "one") == "one after 0"
    lm.script.append(Reply(status=500))
    with pytest.raises(LMError):
        ask(session, "two")
    lm.script.append(Reply(hang_after=0))
    with pytest.raises(Exception, match=r"deadline|time"):
        ask(session, "three", timeout=0.5)
    assert ask(session, "four") == "four after 1"
    session.call("reset_history", {"program": "chat"})
    assert ask(session, "five") == "five after 0"


def test_a_session_whose_first_call_is_a_turn(server: Server, lm: OpenAIServer) -> None:
    """The first call of a session may write, and so may a turn that comes with it at once."""
    client = server.client()
    for _ in range(5):
        with client.create_session() as session:
            assert session.program("talk").run({"question": "QQa"})["answer"] == "a after 0"
            assert session.program("talk").run({"question": "QQb"})["answer"] == "b after 1"
            stream = session.program("talk").stream(question="QQc")
            list(stream)
            assert stream.result["answer"] == "c after 2"
    with pytest.raises(InvalidParams, match="session"):
        client.program("talk").run({"question": "QQa"})


def test_versions_and_batches(session: Session) -> None:
    for instructions in ("First.", "Second."):
        begin(session, instructions=instructions, replace=True)
    listed = session.call("list_versions", {"program": "chat"})["versions"]
    assert [(one["version"], one["current"]) for one in listed] == [(2, True), (1, False)]
    session.call("use_version", {"program": "chat", "version": 1})
    assert session.program("chat").info()["instructions"] == "First."
    data = session.call("export_program", {"program": "chat"})
    assert session.call("import_program", {"id": "copy", "data": data})["version"] == 1
    session.call("create_program", {"id": "plain", "signature": "question -> answer"})
    inputs = [{"question": f"QQ{number}"} for number in range(8)]
    got = session.call("execute_batch", {"program": "plain", "inputs": inputs})
    assert [one["outputs"]["answer"] for one in got] == [f"{number} after 0" for number in range(8)]
    stream = session.stream("execute_batch", {"program": "plain", "inputs": inputs, "concurrency": 2})
    assert sorted(one["index"] for one in stream) == list(range(8))


def test_a_batchs_deadline_ends_all_of_it(session: Session, lm: OpenAIServer) -> None:
    session.call("create_program", {"id": "plain", "signature": "question -> answer"})
    before = lm.disconnects
    lm.script.extend(Reply(hang_after=0) for _ in range(3))
    inputs = [{"question": f"QQ{number}"} for number in range(3)]
    with pytest.raises(DeadlineExceeded):
        session.call("execute_batch", {"program": "plain", "inputs": inputs}, timeout=1)
    assert lm.wait_for(lambda server: server.disconnects == before + 3)


def test_a_conversation_outlives_its_worker(server: Server, session: Session) -> None:
    if server.kind == "standalone":
        return  # its one process is the server
    begin(session)
    assert ask(session, "one") == "one after 0"
    client = server.client()
    workers = client.call("sidecar.workers")["workers"]
    os.kill(workers[0]["pid"], signal.SIGKILL)
    until(
        lambda: [one for one in client.call("sidecar.workers")["workers"] if one["pid"] != workers[0]["pid"]],
        "another worker",
    )
    assert ask(session, "two") == "two after 1"
    server.healthy()
