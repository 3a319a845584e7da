"""Workers that are killed with sessions in them: which calls run again, and what the sessions get back."""

from __future__ import annotations

import base64
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dspex import Client, Session
from dspex.errors import LMError, SessionLost, WorkerLost
from e2e.support.machine import until
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Reply, Seen, chat_answer, json_answer


def answer(seen: Seen) -> str:
    """As ReAct asks: the tool first, once, then the end; and whatever output a plain program asks for."""
    if "next_tool_name" not in seen.prompt:
        outputs = {"reasoning": "so it is", "answer": "yes", "mood": "calm", "tags": ["a"], "year": None}
        asked = {name: value for name, value in outputs.items() if re.search(rf"\b{name}\b", seen.prompt)}
        return chat_answer(**asked) if "[[ ## completed ## ]]" in seen.prompt else json_answer(**asked)
    if "look_up" in seen.prompt and "observation_0" not in seen.prompt:
        return json_answer(next_thought="see", next_tool_name="look_up", next_tool_args={"word": "sidecar"})
    if "look_up" in seen.prompt:
        return json_answer(next_thought="done", next_tool_name="finish", next_tool_args={})
    path = re.findall(r"/\S+?marker", seen.prompt)[-1]
    if "observation_0" in seen.prompt:
        return json_answer(next_thought="done", next_tool_name="finish", next_tool_args={})
    return json_answer(next_thought="note it", next_tool_name="note", next_tool_args={"path": path})


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


@pytest.fixture(scope="module")
def restored(lm: OpenAIServer) -> Iterator[Server]:
    model = {"model": "openai/m", "api_key": "env:OPERATOR_KEY", "api_base": lm.base, "adapter": "json"}
    other = {**model, "model": "openai/other", "adapter": "chat", "temperature": 0.25}
    models = {"main": {**model, "default": True}, "other": other}
    tables = {"pools": {"default": {"app": "restored:app", "size": 2}}, "models": models}
    with Server("sidecar", tables, environment={"OPERATOR_KEY": "k"}) as server:
        yield server


@pytest.fixture
def client(restored: Server, lm: OpenAIServer) -> Iterator[Client]:
    lm.requests.clear()
    lm.script.clear()
    restored.healthy()
    yield restored.client()
    restored.disconnect()


def worker_of(client: Client, method: str) -> int:
    """Wait until a call of this method runs; the pid of its worker."""

    def find() -> str:
        calls = client.call("sidecar.calls")["calls"]
        return next((c["worker"] for c in calls if c["method"] == method and c["state"] == "running"), "")

    name = until(find, f"{method} runs")
    return pid_of(client, name)


def pid_of(client: Client, worker: str) -> int:
    pid: int = next(w["pid"] for w in client.call("sidecar.workers")["workers"] if w["worker"] == worker)
    return pid


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split() if line.isdecimal()] if path.exists() else []


def let_go(path: Path) -> None:
    with path.open("a") as file:
        file.write("go\n")


def killed_in(pool: ThreadPoolExecutor, path: Path, call: Any, *arguments: Any, **options: Any) -> Future[Any]:
    """Begin a call, and kill its worker when it has noted that it is there."""
    begun = pool.submit(call, *arguments, **options)
    until(lambda: len(pids(path)) == 1, "it runs")
    os.kill(pids(path)[0], signal.SIGKILL)
    return begun


@pytest.mark.parametrize("program", ["clerk", "own code"])
def test_a_program_with_tools_is_not_run_again(client: Client, tmp_path: Path, program: str) -> None:
    path = tmp_path / "marker"
    with ThreadPoolExecutor(1) as pool:
        call = killed_in(pool, path, client.program(program).run, {"path": str(path)})
        with pytest.raises(WorkerLost) as caught:
            call.result(20)
    assert caught.value.details["maybe_executed"] is True
    assert not caught.value.retryable
    assert len(pids(path)) == 1


@pytest.mark.parametrize("how", ["declared", "asked for"])
def test_a_program_with_tools_is_run_again_where_somebody_said_so(client: Client, tmp_path: Path, how: str) -> None:
    path = tmp_path / "marker"
    inputs = {"path": str(path)}
    with ThreadPoolExecutor(1) as pool:
        if how == "declared":
            call = killed_in(pool, path, client.program("declared").run, inputs)
        else:
            call = killed_in(pool, path, client.program("clerk").run, inputs, retry="safe")
        until(lambda: len(pids(path)) == 2, "it runs again")
        let_go(path)
        assert call.result(20).answer == "yes"
    assert len(set(pids(path))) == 2


@pytest.mark.parametrize("module", ["predict", "chain_of_thought"])
def test_a_program_without_tools_is_run_again(client: Client, lm: OpenAIServer, module: str) -> None:
    with client.create_session() as session, ThreadPoolExecutor(1) as pool:
        program = session.create_program("p", "question -> answer", module=module)
        lm.script.append(Reply(hang_after=0))
        call = pool.submit(program, question="?")
        assert lm.wait_for(lambda seen: len(seen.requests) == 1)
        os.kill(worker_of(client, "execute_program"), signal.SIGKILL)
        assert call.result(20).answer == "yes"
        assert len(lm.requests) == 2


def test_what_is_run_again_counts_once(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "marker"
    with client.create_session() as session, ThreadPoolExecutor(1) as pool:
        call = killed_in(pool, path, session.call, "count", {"path": str(path)})
        until(lambda: len(pids(path)) == 2, "it runs again")
        let_go(path)
        assert call.result(20) == 1
        assert session.call("kept") == {"count": 1}


def test_an_applications_objects_move(client: Client) -> None:
    with client.create_session() as session:
        pid, _ = session.call("say", {"text": "a"})
        os.kill(pid, signal.SIGKILL)
        after, said = session.call("say", {"text": "b"}, retry="safe")
        assert (after != pid, said) == (True, ["a", "b"])


FIELDS: dict[str, Any] = {
    "name": "Triage",
    "description": "Sort a message.",
    "inputs": [{"name": "message", "description": "what they wrote"}, {"name": "limit", "type": "int"}],
    "outputs": [
        {"name": "mood", "type": 'Literal["calm", "cross"]', "description": "how they feel"},
        {"name": "tags", "type": "list[str]"},
        {"name": "year", "type": "int | None"},
    ],
}
DEMO = {"message": "hm", "limit": 3, "mood": "cross", "tags": ["x", "y"], "year": 2020}


def test_programs_come_back_as_they_were(client: Client, lm: OpenAIServer) -> None:
    """What each program is, and all that its LM is asked, is the same on another worker."""
    with client.create_session() as session:
        own = {"model": "openai/own", "api_key": "sk-of-the-client", "api_base": lm.base}
        session.configure_lm(settings={**own, "adapter": "json", "temperature": 0.75, "max_tokens": 77})
        message: dict[str, Any] = {"message": "hello", "limit": 2}
        question = {"question": "What is a sidecar?"}
        programs = [
            (session.create_program("text", "question -> answer", instructions="Be brief."), question),
            (session.create_program("fields", FIELDS, demos=[DEMO]), message),
            (session.create_program("thinks", FIELDS, module="chain_of_thought", demos=[DEMO]), message),
            (session.create_program("configured", "question -> answer"), question),
            (
                session.create_program("chatty", "question -> answer", demos=[{"question": "q", "answer": "a"}]),
                question,
            ),
            (session.create_program("with tools", "question -> answer", module="helped"), question),
        ]
        session.configure_lm("other", program="configured")
        session.configure_lm(settings={**own, "model": "openai/chatty", "adapter": "chat"}, program="chatty")

        def everything() -> list[Any]:
            found: list[Any] = [session.programs()]
            for program, inputs in programs:
                lm.requests.clear()
                outputs = dict(program.run(inputs))
                asked = [(seen.key, seen.body) for seen in lm.requests]
                found.append((program.id, program.info(), outputs, asked))
            return found

        before = everything()
        worker = session.info()["worker"]
        os.kill(pid_of(client, worker), signal.SIGKILL)
        session.call("kept", retry="safe")
        assert session.info()["worker"] != worker
        assert everything() == before

        by_id = {id: (info, outputs, asked) for id, info, outputs, asked in before[1:]}
        assert {id: asked[0][0] for id, (_, _, asked) in by_id.items()} == {
            **dict.fromkeys(("text", "fields", "thinks", "chatty", "with tools"), "sk-of-the-client"),
            "configured": "k",
        }
        assert {id: asked[0][1]["model"] for id, (_, _, asked) in by_id.items()} == {
            **dict.fromkeys(("text", "fields", "thinks", "with tools"), "own"),
            "chatty": "chatty",
            "configured": "other",
        }
        info, outputs, asked = by_id["fields"]
        assert info["demos"] == [DEMO]
        assert outputs == {"mood": "calm", "tags": ["a"], "year": None}
        assert asked[0][1]["temperature"] == 0.75
        assert 77 in asked[0][1].values()  # the provider's name for it is its own
        for text in ("Sort a message.", "what they wrote", "how they feel", "cross", "2020"):
            assert text in str(asked[0][1])
        assert by_id["thinks"][1]["reasoning"] == "so it is"
        assert "Be brief." in str(by_id["text"][2])
        assert by_id["configured"][2][0][1]["temperature"] == 0.25
        assert "[[ ## completed ## ]]" in str(by_id["chatty"][2])
        assert "[[ ## completed ## ]]" not in str(by_id["text"][2])
        assert "sidecar means a lot" in str(by_id["with tools"][2])


@pytest.mark.parametrize("sealed", [False, True])
def test_a_clients_key_over_a_restart_of_the_sidecar(lm: OpenAIServer, tmp_path: Path, sealed: bool) -> None:
    """Without a key file it is gone, and the call says so before it asks an LM; with one it is there."""
    key = "sk-of-the-client-0987654321"
    sessions: dict[str, Any] = {"store": "file", "path": str(tmp_path / "store")}
    if sealed:
        (tmp_path / "key").write_text(base64.b64encode(os.urandom(32)).decode())
        (tmp_path / "key").chmod(0o600)
        sessions["key_file"] = str(tmp_path / "key")
    tables = {"pools": {"default": {"app": "restored:app", "size": 1}}, "sessions": sessions}
    settings = {"model": "openai/own", "api_key": key, "api_base": lm.base, "adapter": "json"}
    with Server("sidecar", tables) as server:
        session = server.client().create_session("s")
        session.create_program("p", "question -> answer")
        session.configure_lm(settings=settings)
        assert session.program("p")(question="?").answer == "yes"
    lm.requests.clear()
    with Server("sidecar", tables) as server:
        session = server.client().session("s")
        program = session.program("p")
        if not sealed:
            with pytest.raises(LMError) as caught:
                program(question="?")
            assert (caught.value.details["reason"], caught.value.retryable) == ("secret_lost", False)
            assert "configure_lm again" in caught.value.message
            assert lm.requests == []
            session.configure_lm(settings=settings)
        assert program(question="?").answer == "yes"
        assert {seen.key for seen in lm.requests} == {key}
        assert key not in server.log
    with Server("sidecar", tables) as server:  # it is lost again, and forgotten with the settings that it was for
        session = server.client().session("s")
        session.configure_lm(settings={**settings, "api_key": None})
        assert session.info()["lost"] == []
        lm.requests.clear()
        assert session.program("p")(question="?").answer == "yes"
        assert {seen.key for seen in lm.requests} == {"none"}
    stored = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert key.encode() not in stored


def test_a_session_whose_objects_kill_workers_is_quarantined(client: Client) -> None:
    """The third worker is not tried; the session's state stays to be exported, and others go on."""
    session = client.create_session("deadly", state={"a": 1})
    pid, _ = session.call("say", {"text": "die"})  # what is said is no harm until it is loaded
    bystander = client.create_session()
    bystander.call("say", {"text": "hello"})
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SessionLost) as caught:
        until(lambda: tried(session), "it is quarantined")
    assert "restore killed" in caught.value.details["reason"]
    with pytest.raises(SessionLost):  # at once, and no worker is asked
        session.call("kept")
    assert bystander.call("say", {"text": "again"}, retry="safe")[1] == ["hello", "again"]
    exported = session.call("session.export")["export"]
    assert exported["state"] == {"a": 1, "dspex.object.chat": ["die"]}
    session.reset()
    assert session.call("say", {"text": "better"})[1] == ["better"]
    session.end()
    bystander.end()


def tried(session: Session) -> bool:
    """Make a call; some are lost with the worker that was killed, or with one that the restore kills."""
    try:
        session.call("kept")
    except WorkerLost:
        return False
    return True
