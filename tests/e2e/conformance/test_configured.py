"""Programs of the configuration, and what it permits, over both servers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspex.errors import InvalidParams, ProgramExists
from e2e.support import configuration
from e2e.support.configuration import Tables
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Seen, json_answer

KEY = "sk-of-the-operator-1234567890"


def answer(seen: Seen) -> str:
    fields = {"answer": "yes", "reasoning": "since", "first": "one", "second": ["two"]}
    return json_answer(**{name: value for name, value in fields.items() if re.search(rf"\b{name}\b", seen.prompt)})


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


def tables(lm: OpenAIServer, folder: Path) -> Tables:
    model = {"model": "openai/m", "api_key": "env:OPERATOR_KEY", "api_base": lm.base, "adapter": "json"}
    demo = {"question": "demo-4711", "answer": "a"}
    (folder / "demos.json").write_text(json.dumps([demo]))
    saved: dict[str, Any] = {
        "traces": [],
        "train": [],
        "demos": [],
        "signature": {"instructions": "Tuned."},
        "lm": None,
    }
    (folder / "state.json").write_text(json.dumps({"first.predict": saved, "second.predict": saved}))
    (folder / "state2.json").write_text(json.dumps({"first": saved, "second": saved}))
    return {
        "pools": {"default": {"app": "talking:app", "size": 1}},
        "models": {"main": {**model, "default": True}, "other": {**model, "model": "openai/other"}},
        "programs": {
            "answer": {
                "signature": "question -> answer",
                "module": "chain_of_thought",
                "instructions": "Be brief.",
                "description": "Answers.",
                "model": "other",
                "demos": str(folder / "demos.json"),
                "memory": {"turns": 3},
            },
            "double": {"program": "programs:Twice", "state": str(folder / "state2.json")},
        },
        "dspy": {"media_urls": True},
    }


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def shared(
    request: pytest.FixtureRequest, lm: OpenAIServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    settings = tables(lm, tmp_path_factory.mktemp("programs"))
    with Server(request.param, settings, environment={"OPERATOR_KEY": KEY}) as server:
        yield server


def test_configured_programs_are_there_for_all(server: Server, lm: OpenAIServer) -> None:
    lm.requests.clear()
    client = server.client()
    listed = {
        one["program"]: (one["scope"], one["module"], one["doc"]) for one in client.call("list_programs")["programs"]
    }
    assert listed["answer"] == ("application", "chain_of_thought", "Answers.")
    assert listed["double"][:2] == ("application", "Twice")
    info = client.program("answer").info()
    assert (info["model"], info["memory"], info["instructions"]) == ("other", {"turns": 3}, "Be brief.")
    assert client.program("double").run({"text": "x"})["second"] == ["two"]
    assert all("Tuned." in seen.prompt for seen in lm.requests)
    with client.create_session() as session:
        lm.requests.clear()
        for question in ("one", "two"):
            assert session.program("answer").run({"question": question})["answer"] == "yes"
        assert [seen.body["model"] for seen in lm.requests] == ["other", "other"]
        assert "demo-4711" in lm.requests[0].prompt
        assert "one" in str(lm.requests[1].body["messages"][-3]["content"])
        session.configure_lm("main")
        assert session.program("answer").info()["model"] == "other"  # the operator chose it for this program
        session.configure_lm("main", program="answer")
        assert session.program("answer").info()["model"] == "main"
        with pytest.raises(ProgramExists):
            session.create_program("answer", "a -> b", replace=True)
        with pytest.raises(InvalidParams):
            session.program("answer").delete()
        session.create_program("picture", "x: dspy.Image -> answer")
        url = {"url": "https://example.com/a.png"}
        assert session.program("picture").run({"x": url})["answer"] == "yes"
        with pytest.raises(InvalidParams, match="media_folders"):
            session.program("picture").run({"x": {"path": "/etc/passwd"}})
        with pytest.raises(InvalidParams, match="program_of_thought"):
            session.create_program("p", "a -> b", module="program_of_thought")


def test_a_reload_brings_other_programs(lm: OpenAIServer, tmp_path: Path) -> None:
    before: dict[str, Any] = dict(tables(lm, tmp_path))
    with Server("sidecar", before, environment={"OPERATOR_KEY": KEY}) as server:
        client = server.client()

        def reload(programs: dict[str, Any]) -> dict[str, Any]:
            configuration.write(server.folder, {**before, "programs": programs})
            result: dict[str, Any] = client.call("admin.reload", {"wait": True})
            return result

        result = reload({"answer": {"signature": "question -> answer", "description": "Other."}})
        assert result["status"] == "in_force", result
        assert result["renewed"]
        docs = {one["program"]: one["doc"] for one in client.call("list_programs")["programs"]}
        assert docs == {"answer": "Other.", "talk": docs["talk"]}
        # What no worker can make of it leaves all as it was, and says why.
        for wrong, why in (
            ({"signature": "question -> answer", "module": "best_of_n"}, "parameters.n: "),
            ({"program": "nothing:here"}, "ModuleNotFoundError: No module named 'nothing'"),
            ({"program": "programs:Nothing"}, "AttributeError: "),
            ({"signature": "question ->"}, "outputs: there must be at least one"),
        ):
            result = reload({"answer": wrong})
            assert result["status"] == "failed", result
            assert f"programs.answer: {why}" in result["reason"].partition("it printed")[0]
        result = reload({"answer": {"signature": "a -> b", "model": "none"}})
        assert result["status"] == "refused", result
        assert client.call("list_programs")["programs"][0]["doc"] == "Other."
