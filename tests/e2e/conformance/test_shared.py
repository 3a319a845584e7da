"""Programs that an administrator makes available to all, over both servers; and over a restart of the sidecar."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspex.errors import InvalidParams, PermissionDenied, ProgramExists, ProgramNotFound
from e2e.support.configuration import Tables
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Seen, json_answer


def answer(seen: Seen) -> str:
    told = re.search(r"Say (\w+)\.", seen.prompt)
    return json_answer(answer=told[1] if told else "nothing")


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


def tables(lm: OpenAIServer, **more: Any) -> Tables:
    model = {"model": "openai/m", "api_key": "env:OPERATOR_KEY", "api_base": lm.base, "adapter": "json"}
    return {"pools": {"default": {"app": "talking:app", "size": 2}}, "models": {"main": model}, **more}


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def shared(request: pytest.FixtureRequest, lm: OpenAIServer) -> Iterator[Server]:
    with Server(request.param, tables(lm), environment={"OPERATOR_KEY": "sk-operator"}) as server:
        yield server


def publish(server: Server, say: str) -> int:
    """Have all use a program that says so; returns its version."""
    with server.client().create_session() as session:
        session.create_program("said", "question -> answer", instructions=f"Say {say}.")
        shared = session.call("use_version", {"program": "said", "version": 1, "scope": "all"})
    return int(shared["version"])


def test_a_program_for_all(server: Server) -> None:
    client = server.client()
    try:
        assert publish(server, "one") == 1
        with client.create_session() as session:
            for _ in range(8):  # whichever worker has it
                assert client.program("said").run({"question": "?"})["answer"] == "one"
                assert session.program("said").run({"question": "?"})["answer"] == "one"
            assert session.program("said").info()["scope"] == "shared"
            listed = {one["program"]: one["scope"] for one in client.call("list_programs")["programs"]}
            assert listed == {"said": "shared", "talk": "application"}
            assert publish(server, "two") == 2
            assert {client.program("said").run({"question": "?"})["answer"] for _ in range(8)} == {"two"}
            assert session.program("said").run({"question": "?"})["answer"] == "two"
            versions = client.call("list_versions", {"program": "said"})["versions"]
            assert [(one["version"], one["current"]) for one in versions] == [(2, True), (1, False)]
            assert client.call("export_program", {"program": "said"})["instructions"] == "Say two."
            # Back to the first, without a session; one of the session's own goes before it.
            back = client.call("use_version", {"program": "said", "version": 1, "scope": "all"})
            assert back == {"program": "said", "version": 1, "scope": "all"}
            assert session.program("said").run({"question": "?"})["answer"] == "one"
            session.create_program("said", "question -> answer", instructions="Say mine.")
            assert session.program("said").run({"question": "?"})["answer"] == "mine"
            session.program("said").delete()
            assert session.program("said").run({"question": "?"})["answer"] == "one"
            for call, error in (
                ({"program": "said", "version": 7, "scope": "all"}, InvalidParams),
                ({"program": "none", "version": 1, "scope": "all"}, ProgramNotFound),
                ({"program": "talk", "version": 1, "scope": "all"}, ProgramExists),
                ({"program": "said", "version": 1, "scope": "some"}, InvalidParams),
            ):
                with pytest.raises(error):
                    session.call("use_version", call)
            tools = [{"name": "sidecar.share", "description": "x"}]
            with pytest.raises(InvalidParams, match="sidecar"):
                session.create_program("p", "question -> answer", module="react", tools=tools)
    finally:
        client.call("withdraw_program", {"program": "said"})
    with pytest.raises(ProgramNotFound):
        client.program("said").run({"question": "?"})


ROWS = [{"question": f"{n}?", "answer": "nothing"} for n in range(3)]


def offer(server: Server, rows: list[dict[str, Any]] = ROWS) -> Any:
    with server.client().create_session() as session:
        session.call("dataset.create", {"name": "rows"})
        session.call("dataset.append", {"name": "rows", "rows": rows})
        return session.call("dataset.share", {"name": "rows"})


def scored(session: Any, devset: str = "rows") -> Any:
    stream = session.stream("evaluate_program", {"program": "p", "devset": devset, "metric": "exact"}, timeout=60)
    list(stream)
    return stream.result


def test_a_dataset_for_all(server: Server) -> None:
    client = server.client()
    try:
        told = offer(server)
        assert (told["name"], told["rows"], told["scope"]) == ("rows", 3, "all")
        assert client.call("dataset.list")["datasets"] == [told]
        with client.create_session() as session:
            session.create_program("p", "question -> answer")
            assert session.call("dataset.list")["datasets"] == [told]
            result = scored(session)
            assert (result["score"], result["data"]["name"], result["data"]["rows"]) == (1, "rows", 3)
            offer(server, ROWS[:2])
            assert scored(session)["data"]["rows"] == 2
            session.call("dataset.create", {"name": "rows"})  # one's own goes before it
            with pytest.raises(InvalidParams, match="is 0 rows"):
                scored(session)
            with pytest.raises(InvalidParams, match="no dataset 'none'; there are: rows"):
                scored(session, "none")
    finally:
        client.call("dataset.withdraw", {"name": "rows"})
    assert client.call("dataset.list")["datasets"] == []
    with pytest.raises(InvalidParams, match="no dataset 'rows'; there are: none"):
        client.call("dataset.withdraw", {"name": "rows"})


def test_a_conversation_goes_on_with_the_same_fields_alone(server: Server, lm: OpenAIServer) -> None:
    def publish(signature: str) -> None:
        with server.client().create_session() as session:
            session.create_program("told", signature, memory={"turns": 9})
            session.call("use_version", {"program": "told", "version": 1, "scope": "all"})

    def turns() -> list[str]:
        return [
            one.get("question") or one["topic"] for one in session.call("get_history", {"program": "told"})["messages"]
        ]

    client = server.client()
    with client.create_session() as session:
        try:
            publish("question -> answer")
            for question in ("one", "two"):
                session.program("told").run({"question": question})
            publish("question, more: Optional[str] -> answer")
            session.program("told").run({"question": "three"})
            assert turns() == ["one", "two", "three"]
            publish("topic -> answer")
            assert turns() == []
            session.program("told").run({"topic": "four"})
            assert [message["role"] for message in lm.requests[-1].body["messages"]] == ["system", "user"]
            assert turns() == ["four"]
        finally:
            client.call("withdraw_program", {"program": "told"})


def test_it_outlives_the_sidecar_and_is_for_administrators(lm: OpenAIServer, tmp_path: Path) -> None:
    sessions = {"store": "file", "path": str(tmp_path / "sessions")}
    settings = tables(lm, sessions=sessions)
    environment = {"OPERATOR_KEY": "sk-operator"}
    server = Server("sidecar", settings, environment=environment)
    try:
        assert publish(server, "one") == 1
        assert publish(server, "two") == 2
        offer(server)
    finally:
        server.kill()
    other = {**settings, "listen": {"admin_uids": [1], "allow_uids": [0, os.getuid()]}}
    with Server("sidecar", other, environment=environment) as server:
        client = server.client()
        assert client.program("said").run({"question": "?"})["answer"] == "two"
        assert len(client.call("list_versions", {"program": "said"})["versions"]) == 2
        for method, params in (
            ("use_version", {"program": "said", "version": 1, "scope": "all"}),
            ("withdraw_program", {"program": "said"}),
            ("dataset.withdraw", {"name": "rows"}),
        ):
            with pytest.raises(PermissionDenied):
                client.call(method, params)
        with pytest.raises(PermissionDenied):
            offer(server, ROWS[:1])
        assert client.call("dataset.list")["datasets"][0]["rows"] == 3
        assert client.program("said").run({"question": "?"})["answer"] == "two"
    file = tmp_path / "sessions" / "programs"
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 1
    file.write_bytes(damaged)
    with Server("sidecar", settings, environment=environment) as server:
        with pytest.raises(ProgramNotFound):
            server.client().program("said").run({"question": "?"})
        assert "damaged" in server.log
        assert publish(server, "three") == 1
