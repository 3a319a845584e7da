"""Code that an LM wrote and that never ends: what ends its process, with the call, with the worker, with the server."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Literal

import pytest
from dspex.errors import DeadlineExceeded, DspexError, WorkerLost
from e2e.support import machine
from e2e.support.configuration import Tables
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Seen, json_answer


def answer(seen: Seen) -> str:
    if "code_output" in seen.prompt:
        return json_answer(reasoning="r", a="42")
    code = "while True: pass" if "forever" in seen.prompt else "print(6 * 7)"
    return json_answer(reasoning="r", generated_code=f"```python\n{code}\n```")


@pytest.fixture
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


def serving(kind: Literal["sidecar", "standalone"], lm: OpenAIServer) -> Server:
    model = {"model": "openai/m", "api_key": "env:LM_KEY", "api_base": lm.base, "adapter": "json", "default": True}
    tables: Tables = {
        "pools": {"default": {"app": "talking:app", "size": 1, "max_overflow": 0}},
        "models": {"main": model},
        "dspy": {"program_of_thought": True},
        "programs": {"p": {"signature": "q -> a", "module": "program_of_thought"}},
    }
    return Server(kind, tables, environment={"LM_KEY": "sk-fake"})


@pytest.fixture(params=["sidecar", "standalone"])
def server(request: pytest.FixtureRequest, lm: OpenAIServer) -> Iterator[Server]:
    with serving(request.param, lm) as server:
        yield server


def running(server: Server) -> bool:
    return any("runner.js" in process.command for process in server.family())


def calling(server: Server, ended: list[DspexError]) -> threading.Thread:
    def call() -> None:
        try:
            server.client().call("execute_program", {"program": "p", "inputs": {"q": "forever"}})
        except DspexError as error:
            ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    machine.until(lambda: running(server), "code that runs")
    return thread


def works(server: Server) -> bool:
    outputs: dict[str, str] = server.client().call("execute_program", {"program": "p", "inputs": {"q": "?"}})
    return outputs["a"] == "42"


def test_code_ends_with_the_deadline_and_the_worker_goes_on(server: Server) -> None:
    assert works(server)
    (before,) = [w["pid"] for w in server.client().call("sidecar.workers")["workers"]]
    with pytest.raises(DeadlineExceeded):
        server.client().call("execute_program", {"program": "p", "inputs": {"q": "forever"}}, timeout=2)
    machine.until(lambda: not running(server), "no code that runs")
    assert works(server)
    assert [w["pid"] for w in server.client().call("sidecar.workers")["workers"]] == [before]


def test_code_ends_with_the_worker_and_with_the_sidecar(lm: OpenAIServer) -> None:
    server, ended = serving("sidecar", lm), list[DspexError]()
    try:
        thread = calling(server, ended)
        (worker,) = [w["pid"] for w in server.client().call("sidecar.workers")["workers"]]
        os.kill(worker, signal.SIGKILL)
        thread.join(machine.WAIT)
        assert isinstance(ended[0], WorkerLost)
        machine.until(lambda: not running(server), "no code that runs")
        server.healthy()
        assert works(server)
        thread = calling(server, ended)
        os.kill(server.pid, signal.SIGKILL)
        thread.join(machine.WAIT)
        machine.until(lambda: not server.left(), "nothing left")
    finally:
        server.kill()
