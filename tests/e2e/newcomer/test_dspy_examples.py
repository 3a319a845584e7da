"""The examples of DSPy's usual shapes, before a real sidecar and an LM that reads what it is told and no more."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspex import Client
from e2e.support.configuration import ROOT, SIDECAR, Tables
from e2e.support.machine import WAIT
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Seen, json_answer

FOLDER = ROOT / "examples" / "dspy"


def answer(seen: Seen) -> str:
    """Read the last message by rules; what is not in the prompt is not known."""
    last = str(seen.body["messages"][-1]["content"])
    prompt = seen.prompt
    if "urgent" in prompt:
        topic = "billing" if "charged" in last else "delivery" if "parcel" in last else "other"
        shown = "You have charged me twice" in prompt  # the demos are there
        return json_answer(topic=topic, urgent="!" in last and shown)
    if "entities" in prompt:
        found = re.findall(r"(Ada Lovelace|Charles Babbage|London)", last)
        kinds = {"London": "place"}
        return json_answer(entities=[{"name": name, "kind": kinds.get(name, "person")} for name in found])
    if "next_tool_name" in prompt:
        return json_answer(**step(last))
    if "`query`" in prompt:
        designer = re.search(r"designed by ([A-Z]\w+ [A-Z]\w+)", last)
        return json_answer(query=f"{designer[1]} born" if designer else "Analytical Engine designed")
    if "message" in prompt:
        name = re.search(r"my name is (\w+)", " ".join(str(one["content"]) for one in seen.body["messages"][1:]))
        return json_answer(answer=f"You are {name[1]}." if name else "I do not know you.")
    born = re.findall(r"was born in ([A-Z]\w+(?: [A-Z]\w+)?)", last)
    wrote = re.search(r"([A-Z]\w+ [A-Z]\w+) wrote the first compiler", last)
    if "born" in last.partition("question")[2] or "Where" in last:
        return json_answer(reasoning="It says so.", answer=born[-1] if born else "unknown")
    return json_answer(reasoning="It says so.", answer=wrote[1] if wrote else "unknown")


def step(told: str) -> dict[str, Any]:
    """An agent's next step: find the author, find the birthplace, note it, finish."""
    author = re.search(r"([A-Z]\w+ [A-Z]\w+) wrote the first compiler", told)
    born = re.search(r"was born in (New York)", told)
    if born and "tool_name_2" in told:
        return {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}}
    if born:
        line = f"born in {born[1]}"
        return {"next_thought": "keep it", "next_tool_name": "note", "next_tool_args": {"line": line}}
    query = f"{author[1]} born" if author else "first compiler"
    return {"next_thought": "look", "next_tool_name": "look_up", "next_tool_args": {"query": query}}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with OpenAIServer(answer=answer) as lm:
        model = {"model": "openai/m", "api_key": "env:LM_KEY", "api_base": lm.base, "adapter": "json"}
        tables: Tables = {
            "pools": {
                "default": {"app": "app:app", "env": {"PYTHONPATH": str(FOLDER), "PYTHONDONTWRITEBYTECODE": "1"}}
            },
            "models": {"main": model},
            "programs": {
                "classify": {
                    "signature": 'message -> topic: Literal["billing", "delivery", "other"], urgent: bool',
                    "instructions": "Sort a customer's message.",
                    "demos": str(FOLDER / "messages.json"),
                }
            },
        }
        with Server("sidecar", tables, environment={"LM_KEY": "k"}) as server:
            yield server


def run(server: Server, name: str, *arguments: str, text: str = "") -> list[str]:
    environment = {**os.environ, "DSPEX_SOCKET": server.path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, FOLDER / name, *arguments],
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_classification(server: Server) -> None:
    messages = ["I was charged twice!", "My parcel is late.", "Hello."]
    assert run(server, "classify.py", text="\n".join(messages)) == [
        f"billing, urgent: {messages[0]}",
        f"delivery: {messages[1]}",
        f"other: {messages[2]}",
    ]


def test_entity_extraction(server: Server) -> None:
    assert run(server, "extract.py") == ["person: Ada Lovelace", "person: Charles Babbage", "place: London"]


def test_retrieval(server: Server) -> None:
    said = run(server, "ask.py", "rag", "Who wrote the first compiler?")
    assert said[0] == "- Grace Hopper wrote the first compiler, the A-0 System."
    assert said[-1] == "Grace Hopper"
    assert run(server, "ask.py", "rag", "Xyzzy?") == ["unknown"]


def test_several_hops(server: Server) -> None:
    question = "Where was the designer of the Analytical Engine born?"
    said = run(server, "ask.py", "multihop", question)
    assert "- The Analytical Engine was designed by Charles Babbage." in said
    assert "- Charles Babbage was born in London." in said
    assert said[-1] == "London"


def test_an_agent_with_tools_of_both_sides(server: Server) -> None:
    assert run(server, "agent.py") == ["* born in New York", "New York"]


def test_a_chat_with_memory(server: Server) -> None:
    said = run(server, "talk.py", "ada", text="Who am I?\nHello, my name is Ada.\nWho am I?\n")
    assert said == ["I do not know you.", "You are Ada.", "You are Ada."]
    assert run(server, "talk.py", "ada", text="And now?\n") == ["You are Ada."]  # another process, the same session
    assert run(server, "talk.py", "eve", text="And me?\n") == ["I do not know you."]
    with Client(server.path) as client:
        history = client.session("talk-ada").call("get_history", {"program": "talk"})
        assert [one["message"] for one in history["messages"]][:2] == ["Who am I?", "Hello, my name is Ada."]


def test_the_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "dspy"
    shutil.copytree(FOLDER, folder)
    done = subprocess.run(
        [SIDECAR, "check", "--config", folder / "dspex.toml"],
        env={**os.environ, "OPENAI_API_KEY": "k"},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
