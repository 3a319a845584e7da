"""Programs are optimised in processes of their own, before a model that learns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dspex.errors import BudgetExceeded, Cancelled, WorkerLost
from e2e.support.configuration import SIDECAR
from e2e.support.machine import until
from e2e.support.servers import Server
from support.learning import ROWS, Learner
from support.openai_server import OpenAIServer, Reply

GIVEN: dict[str, Any] = {"program": "p", "metric": "exact", "trainset": "rows", "concurrency": 4}


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=Learner()) as lm:
        yield lm


@pytest.fixture(scope="module")
def server(lm: OpenAIServer) -> Iterator[Server]:
    model = {"model": "openai/m", "api_base": lm.base, "api_key": "env:K", "adapter": "json", "default": True}
    prices = {"input_price": 1.0, "output_price": 1.0, "concurrency": 4}
    tables = {"pools": {"default": {"app": "programs:app", "size": 1}}, "models": {"main": {**model, **prices}}}
    with Server("sidecar", tables, environment={"K": "a-key"}) as server:
        yield server


def session_with_rows(server: Server) -> Any:
    session = server.client().create_session()
    session.create_program("p", "text -> answer")
    session.call("dataset.create", {"name": "rows"})
    session.call("dataset.append", {"name": "rows", "rows": ROWS})
    return session


def processes(server: Server) -> set[int]:
    return {one["pid"] for one in server.client().call("sidecar.workers")["workers"]}


def pool_alone(server: Server) -> set[int]:
    """Wait until no run has a process; returns the pool's."""
    until(lambda: len(processes(server)) == 1, "runs' processes have ended")
    return processes(server)


@pytest.mark.parametrize(
    ("optimizer", "parameters"), [("mipro", {"num_candidates": 2, "num_trials": 2}), ("gepa", {"max_metric_calls": 30})]
)
def test_a_run_makes_a_better_version(server: Server, lm: OpenAIServer, optimizer: str, parameters: Any) -> None:
    session = session_with_rows(server)
    assert session.program("p")(text="QQZZ")["answer"] == "?"
    stream = session.stream("optimize_program", {**GIVEN, "optimizer": optimizer, "parameters": parameters}, timeout=60)
    items = list(stream)
    assert {item["phase"] for item in items} == {"baseline", "optimize", "score"}
    assert items[-1]["cost"] > 0
    assert (stream.result["baseline"], stream.result["score"], stream.result["version"]) == (0.0, 1.0, 2)
    assert session.program("p")(text="QQZZ")["answer"] == "qqzz"
    (version, first) = session.call("list_versions", {"program": "p"})["versions"]
    assert (version["meta"]["optimizer"], version["meta"]["score"], first["source"]) == (optimizer, 1.0, "created")
    run = server.client().call("runs.list")["runs"][-1]
    assert (run["state"], run["method"]) == ("succeeded", "optimize_program")
    pool_alone(server)


def test_the_command_line_tells_before_and_after(server: Server, tmp_path: Path) -> None:
    session = server.client().create_session("of-the-command-line")
    session.create_program("p", "text -> answer")
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def command(*arguments: str) -> str:
        given = [
            str(SIDECAR),
            *arguments,
            "--metric",
            "exact",
            "--session",
            "of-the-command-line",
            "--socket",
            server.path,
        ]
        done = subprocess.run(given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = command(
        "optimize", "p", "--train", str(train), "--optimizer", "bootstrap", "--max-lm-calls", "100", "--json"
    )
    result = json.loads(said.splitlines()[-1])["result"]
    assert (result["baseline"], result["score"], result["version"]) == (0, 1, 2)
    assert re.search(r"\b1\b", command("evaluate", "p", "--dev", str(train)))
    assert session.call("dataset.list")["datasets"] == []


def test_what_ends_a_run_changes_nothing(server: Server, lm: OpenAIServer) -> None:
    session = session_with_rows(server)
    given = {**GIVEN, "optimizer": "copro"}
    with pytest.raises(BudgetExceeded) as caught:
        list(session.stream("optimize_program", {**given, "limits": {"lm_calls": 30}}, timeout=60))
    assert caught.value.details["resource"] == "lm_calls"
    learner, lm.answer = lm.answer, lambda _: Reply(hang_after=0)
    try:
        for end, kind in (("kill", WorkerLost), ("cancel", Cancelled)):
            asked, before = len(lm.requests), pool_alone(server)
            with ThreadPoolExecutor(1) as pool:
                call = pool.submit(lambda: list(session.stream("optimize_program", given, timeout=60)))
                assert lm.wait_for(lambda lm, asked=asked: len(lm.requests) >= asked + 4)  # type: ignore[misc]
                if end == "kill":
                    (pid,) = processes(server) - before
                    os.kill(pid, signal.SIGKILL)
                else:
                    server.client().call("runs.cancel", {"run": server.client().call("runs.list")["runs"][-1]["run"]})
                with pytest.raises(kind):
                    call.result(20)
            assert lm.wait_for(lambda lm: lm.in_flight == 0)
            pool_alone(server)
    finally:
        lm.answer = learner
    assert len(session.call("list_versions", {"program": "p"})["versions"]) == 1
    assert session.program("p")(text="QQZZ")["answer"] == "?"
