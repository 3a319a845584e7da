"""The calls of a single bridge: on a pool, on a stand-alone worker that runs, and on one that the adapter starts."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspex import Adapter, AsyncAdapter, Client, get_adapter
from dspex.errors import ConnectionLost, SessionExists, SessionNotFound
from e2e.support import machine
from e2e.support.configuration import APPLICATIONS, ROOT, Tables, write
from e2e.support.machine import WAIT, until
from e2e.support.node_client import NodeAdapter
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, json_answer

CONFIG: Tables = {"pools": {"default": {"app": "conformance:app"}}}


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=lambda _: json_answer(answer="yes")) as server:
        yield server


def tables(lm: OpenAIServer) -> Tables:
    model = {"model": "openai/m", "api_key": "env:LM_KEY", "api_base": lm.base, "adapter": "json", "default": True}
    return {"pools": {"default": {"app": "programs:app", "size": 1}}, "models": {"main": model}}


class Place:
    """Where an adapter is to work."""

    def __init__(self, kind: Any, options: dict[str, Any]) -> None:
        self.kind = kind
        self.options = options


@pytest.fixture(params=["sidecar", "standalone", "started"])
def place(request: pytest.FixtureRequest, lm: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "started":
        folder = request.getfixturevalue("tmp_path")
        monkeypatch.setenv("LM_KEY", "k")
        monkeypatch.setenv("PYTHONPATH", str(APPLICATIONS))
        yield Place("python_bridge", {"config": str(write(folder, tables(lm)))})
        return
    kind = "python_pool" if request.param == "sidecar" else "python_bridge"
    with Server(request.param, tables(lm), environment={"LM_KEY": "k"}) as server:
        yield Place(kind, {"socket": server.path})


async def outcome(made: Any) -> Any:
    return await made if inspect.isawaitable(made) else made


@pytest.mark.parametrize("make", [Adapter, AsyncAdapter, NodeAdapter])
def test_the_same_code_everywhere(place: Place, make: type[Adapter] | type[AsyncAdapter] | type[NodeAdapter]) -> None:
    async def scenario() -> None:
        adapter: Any = make(place.kind, **place.options)
        assert await outcome(adapter.create_session("chat-1", {"language": "en"})) == "chat-1"
        with pytest.raises(SessionExists):
            await outcome(adapter.create_session("chat-1"))
        assert await outcome(adapter.get_session_state("chat-1")) == {"language": "en"}

        command = "update_session_state"
        assert await outcome(adapter.execute_in_session("chat-1", command, {"set": {"a": 1}})) == {
            "keys": ["a", "language"]
        }
        assert await outcome(adapter.execute_in_session("named", command, {"set": {"b": 1}})) == {"keys": ["b"]}
        assert await outcome(adapter.execute_in_session(None, command, {"set": {"c": 1}})) == {"keys": ["c"]}
        assert await outcome(adapter.execute_in_session(None, command, {"set": {"d": 1}})) == {"keys": ["c", "d"]}
        assert await outcome(adapter.get_session_state()) == {"c": 1, "d": 1}

        for session in ("chat-1", None):
            config = {"id": "qa", "signature": "question -> answer", "instructions": "Be brief."}
            id = await outcome(adapter.create_program(config, session_id=session))
            assert id == "qa"
            assert await outcome(adapter.execute_program(id, {"question": "?"}, session_id=session)) == {
                "answer": "yes"
            }

        await outcome(adapter.end_session("chat-1"))
        await outcome(adapter.end_session("chat-1"))
        assert await outcome(adapter.get_session_state("chat-1")) == {}  # it was made anew
        health = await outcome(adapter.health_check())
        assert (health["status"], len(health["workers"])) == ("healthy", 1)
        stats = await outcome(adapter.get_stats())
        assert (stats["pool_size"], stats["healthy_workers"], stats["active_sessions"]) == (1, 1, 3)
        await outcome(adapter.shutdown(30_000))
        with pytest.raises(ConnectionLost):
            await outcome(adapter.health_check())
        await outcome(adapter.shutdown())
        if "socket" in place.options:
            with Client(place.options["socket"]) as client:
                left = [one["session"] for one in client.call("session.list")["sessions"]]
            assert left == ["chat-1", "named"]  # the adapter's own has ended with it

    asyncio.run(scenario())


def test_the_page(lm: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "migration.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    with Server("sidecar", tables(lm), environment={"LM_KEY": "k"}) as server:
        monkeypatch.setenv("DSPEX_SOCKET", server.path)
        exec(compile("\n".join(blocks), "migration.md", "exec", dont_inherit=True), {})
    answer, keys, state, health = capsys.readouterr().out.splitlines()
    assert (answer, keys, health) == ("yes", "{'keys': ['language', 'seen']}", "healthy 1")
    assert ast.literal_eval(state) == {"language": "en", "seen": 1}  # in whatever order


def test_a_session_that_ended_elsewhere_is_made_anew_after_the_error(server: Server) -> None:
    with get_adapter("python_pool", socket=server.path) as adapter:
        adapter.execute_in_session("s", "put", {"key": "a", "value": 1})
        server.client().session("s").end()
        with pytest.raises(SessionNotFound):
            adapter.execute_in_session("s", "put", {"key": "a", "value": 1})
        assert adapter.get_session_state("s") == {}


def test_first_uses_at_once(server: Server) -> None:
    with get_adapter("python_pool", socket=server.path) as adapter:
        calls = [
            threading.Thread(target=adapter.execute_in_session, args=("s", "append", {"key": "list", "value": n}))
            for n in range(10)
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert sorted(adapter.get_session_state("s")["list"]) == list(range(10))


def test_a_shutdown_waits_for_the_calls_in_flight(server: Server) -> None:
    adapter = get_adapter("python_pool", socket=server.path)
    began, go_on, answers = threading.Event(), threading.Event(), []

    def asked(_: Any, __: Any) -> str:
        began.set()
        assert go_on.wait(WAIT)
        return "in time"

    adapter.client.offer("asked", asked)
    args = {"question": "asked", "value": 1}
    call = threading.Thread(target=lambda: answers.append(adapter.execute_in_session(None, "ask", args)))
    call.start()
    assert began.wait(WAIT)
    ending = threading.Thread(target=adapter.shutdown)
    ending.start()
    go_on.set()
    ending.join()
    call.join()
    assert answers == ["in time"]


def test_a_shutdown_waits_no_longer_than_it_is_told(server: Server) -> None:
    adapter = get_adapter("python_pool", socket=server.path)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            adapter.execute_in_session(None, "wait_quietly")
        except (
            ConnectionLost,
            SessionNotFound,
        ) as error:  # its session ended before its connection, if it was the first
            errors.append(error)

    call = threading.Thread(target=wait)
    call.start()
    watching = server.client()
    until(lambda: watching.call("sidecar.stats")["in_flight"] == 1, "the call runs")
    began = time.monotonic()
    adapter.shutdown(100)
    assert time.monotonic() - began < WAIT / 2
    call.join()
    assert len(errors) == 1


def test_a_bridge_ends_with_the_process_that_has_it(tmp_path: Path) -> None:
    """However that ends: its standard input does, too."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        adapter = get_adapter("python_bridge")
        adapter.health_check()
        os.write(writing, str(adapter.client.path).encode())
        os.kill(os.getpid(), 9)
    os.close(writing)
    path = os.read(reading, 1000).decode()
    os.close(reading)
    os.waitpid(child, 0)
    until(lambda: not os.path.exists(path), "the bridge has closed its socket")
    until(lambda: not [one for one in machine.family(1) if path in one.command], "the bridge has ended")


def test_a_process_that_ends_without_a_shutdown_leaves_no_folder() -> None:
    """Nor does a forked child that ends before it take the folder away."""
    source = """if True:
        import os, sys
        from dspex import get_adapter
        adapter = get_adapter("python_bridge")
        adapter.health_check()
        if not os.fork():
            sys.exit()
        os.wait()
        print(adapter.client.path, os.path.exists(adapter.client.path))"""
    told = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    path, exists = told.split()
    assert exists == "True"
    assert not os.path.exists(os.path.dirname(path))


def test_a_bridge_that_cannot_start_says_so() -> None:
    adapter = get_adapter("python_bridge", app="there_is_no:app")
    with pytest.raises(ConnectionLost, match="has ended with exit code 3"):
        adapter.health_check()
    adapter.shutdown()


def test_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="there are python_pool and python_bridge"):
        get_adapter("python_pools")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="that the adapter starts"):
        get_adapter("python_pool", app="a:b")
