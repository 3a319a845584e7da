"""Types of what a sidecar serves: the type checker lets good uses through, and no bad one."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspex
import pytest
from dspex import errors, wire
from dspex.generate import _Types
from dspex.testing import FakeSidecar
from pydantic import BaseModel, TypeAdapter
from scripted import Peer, client, drive, serving


def method(name: str, params: dict[str, Any], required: list[str], result: Any, stream: str = "none") -> dict[str, Any]:
    schema = {"type": "object", "properties": params, "required": required, "additionalProperties": False}
    item = None if stream == "none" else {"type": "string"} if stream == "optional" else result
    told = {"name": name, "doc": "", "params": schema, "result": result, "item": item}
    return {**told, "stream": stream, "session": "none"}


WORDS = {"type": "object", "additionalProperties": {"type": "integer"}}
METHODS = [
    method("count_words", {"text": {"type": "string"}, "deep": {"type": "boolean"}}, ["text"], WORDS),
    method("sentences", {"text": {"type": "string"}}, ["text"], {"type": "string"}, "required"),
    method("spell", {"text": {"type": "string"}}, ["text"], {"type": "integer"}, "optional"),
    method("odd-name", {"in": {"type": "integer"}}, [], {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    method("list_programs", {}, [], {}),
    # Names whose classes would be called alike, or have no name that Python takes.
    method("3d.items", {"n": {"type": "integer"}}, ["n"], {"type": "integer"}, "required"),
    method("a.b", {"n": {"type": "integer"}}, ["n"], {"type": "integer"}, "required"),
    method("a_b", {"n": {"type": "string"}}, ["n"], {"type": "string"}, "required"),
    method("async_a.b", {"n": {"type": "integer"}}, ["n"], {"type": "null"}, "required"),
]
INFO = {
    "program": "digest",
    "inputs": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "outputs": {
        "type": "object",
        "properties": {"names": {"type": "array", "items": {"type": "string"}}},
        "required": ["names"],
    },
}
ANSWERS: dict[str, Any] = {
    "sidecar.methods": {"methods": METHODS},
    "list_programs": {"programs": [{"program": "digest"}]},
    "get_program_info": INFO,
    "count_words": {"words": 3},
    "spell": 1,
    "execute_program": {"names": ["Ada"]},
}


ITEMS = {"sentences": "One.", "spell": "a", "3d.items": 1, "a.b": 2, "a_b": "two"}


def sidecar(peer: Peer) -> None:
    peer.greet()
    while (message := peer.read()) is not None:
        if isinstance(message, wire.Request):
            if message.method in ITEMS and (message.meta or {}).get("stream"):
                peer.send(wire.encode_item(message.id, ITEMS[message.method]))
            peer.answer(message, ANSWERS.get(message.method))


GOOD = """
import dspex
from served import typed

def threads(client: dspex.Client) -> None:
    served = typed(client)
    words: int = served.call("count_words", {"text": "a"}, timeout=5)["words"]
    served.call("count_words", {"text": "a", "deep": True})
    for sentence in served.stream("sentences", {"text": "a"}):
        print(sentence.upper())
    letters: int = served.call("spell", {"text": "a"})
    letter: str = next(served.stream("spell", {"text": "a"}))
    odd: str | None = served.call("odd-name")
    first: int = next(served.stream("3d.items", {"n": 1})) + next(served.stream("a.b", {"n": 1}))
    second: str = next(served.stream("a_b", {"n": "1"}))
    names: list[str] = served.program("digest")(text="a")["names"]
    served.program("digest").run({"text": "a"})
    print(words, letters, letter, odd, names, first, second)

async def tasks(client: dspex.AsyncClient, session: dspex.AsyncSession) -> None:
    served = typed(session)
    words: int = (await typed(client).call("count_words", {"text": "a"}))["words"]
    async for sentence in served.stream("sentences", {"text": "a"}):
        print(sentence.upper())
    names: list[str] = (await served.program("digest")(text="a"))["names"]
    print(words, names)
"""
BAD = [
    'served.call("count_words", {"text": 1})',
    'served.call("count_words", {})',
    'served.call("count_words")',
    'served.call("count_words", {"text": "a", "more": 1})',
    'served.call("no_such_method")',
    'served.call("sentences", {"text": "a"})',
    'wrong: int = next(served.stream("spell", {"text": "a"}))',
    'served.stream("count_words", {"text": "a"})',
    'served.program("no_such_program")',
    'served.program("digest")(text=1)',
    'served.program("digest")()',
    'served.program("digest").run({})',
    'wrong: str = served.call("count_words", {"text": "a"})["words"]',
    'wrong: list[int] = served.program("digest")(text="a")["names"]',
]


def generate(path: str, name: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dspex", "generate", str(name), "--socket", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)  # mypy reads all of the client, from nothing
def test_mypy_checks_calls_by_it(tmp_path: Path) -> None:
    with serving(sidecar) as path:
        assert generate(path, tmp_path / "served").returncode == 0
    (tmp_path / "good.py").write_text(GOOD)
    lines = ["import dspex", "from served import typed", "served = typed(dspex.Client())", *BAD]
    (tmp_path / "bad.py").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "--config-file", ""]
    found = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    wrong = {(name, int(line)) for name, line in re.findall(r"^(\w+\.pyi?):(\d+): error", found, re.MULTILINE)}
    assert wrong == {("bad.py", number) for number in range(4, len(lines) + 1)}, found


def test_the_module_gives_the_same_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(sidecar, sidecar) as path:
        generate(path, tmp_path / "served")
        for name, text in (("served", (tmp_path / "served.py").read_text()), ("good", GOOD)):
            spec = importlib.util.spec_from_loader(name, None)
            assert spec is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            exec(text, vars(module))
        with dspex.Client(path) as inner:
            sys.modules.pop("good").threads(inner)
        assert sys.modules.pop("served").typed(inner) is inner
    assert capsys.readouterr().out == "ONE.\n3 1 a None ['Ada'] 3 two\n"


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    failed = generate("/no/such", tmp_path / "served")
    assert failed.returncode == 1
    assert failed.stderr.startswith("dspex: connection_lost: no sidecar at /no/such")
    with serving(sidecar) as path:
        failed = generate(path, tmp_path / "no" / "such")
    assert failed.returncode == 1
    assert "No such file" in failed.stderr


def test_a_sidecar_whose_workers_have_told_nothing_changes_no_module(tmp_path: Path) -> None:
    (tmp_path / "served.pyi").write_text("what there was")
    with FakeSidecar({"sidecar.methods": lambda _, __: {"methods": []}}) as fake:
        failed = generate(fake.path, tmp_path / "served")
    assert failed.returncode == 1
    assert failed.stderr.startswith("dspex: no_workers: no worker has told yet what it serves")
    assert (tmp_path / "served.pyi").read_text() == "what there was"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "Any"),
        (True, "Any"),
        ({"type": ["string", "null"]}, "str | None"),
        ({"enum": ["a", 1, None]}, "Literal['a', 1, None]"),
        ({"enum": [1.5]}, "Any"),
        ({"const": True}, "Literal[True]"),
        ({"type": "string", "contentEncoding": "base64"}, "bytes"),
        ({"type": "string", "format": "date-time"}, "str | datetime"),
        ({"type": "array"}, "list[Any]"),
        ({"type": "object"}, "dict[str, Any]"),
        ({"anyOf": [{"type": "number"}, {}]}, "Any"),
        ({"$defs": {"a/b": {"type": "string"}}, "$ref": "#/$defs/a~1b"}, "str"),
        ({"$ref": "http://elsewhere"}, "Any"),
        ({"type": "array", "items": {"$ref": "#"}}, "list[" * 9 + "Any" + "]" * 9),
    ],
    ids=str,
)
def test_types_of_schemas(schema: Any, expected: str) -> None:
    assert _Types().of(schema, "Name") == expected


def test_typed_dicts_of_one_name() -> None:
    types = _Types()
    one, other = {"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}, "required": ["b"]}
    assert [types.of(one, "Name"), types.of(other, "Name"), types.of(one, "Name")] == ["Name", "Name_", "Name"]
    assert types.written == (
        "Name = TypedDict('Name', {'a': NotRequired[str]})\nName_ = TypedDict('Name_', {'b': Any})\n"
    )


class Text(BaseModel):
    text: str
    deep: bool = False


class Words(BaseModel):
    words: int


class Names(BaseModel):
    names: list[str]


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_pydantic_models(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        seen = []
        while (message := peer.read()) is not None:
            if isinstance(message, wire.Request):
                seen.append(message.params)
                peer.answer(message, ANSWERS[message.method])
        assert seen[0] == {"text": "a", "deep": False}
        assert seen[3] == {"program": "digest", "inputs": {"text": "b", "deep": True}}

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            assert await c.call_as(Words, "count_words", Text(text="a")) == Words(words=3)
            adapter = TypeAdapter(dict[str, str | int])
            assert await c.session("s").call_as(adapter, "count_words", {"text": "a"}, timeout=5) == {"words": 3}
            with pytest.raises(errors.InvalidResult, match="what count_words returned is not what was expected"):
                await c.call_as(Names, "count_words", {"text": "a"})
            program = c.program("digest")
            assert await program.run_as(Names, Text(text="b", deep=True)) == Names(names=["Ada"])
            with pytest.raises(errors.InvalidResult):
                await program.run_as(Words, {"text": "b"})
            with pytest.raises(TypeError, match="a pydantic model or a TypeAdapter"):
                await program.run_as(int, {"text": "b"})

    with serving(script) as path:
        drive(scenario(path))
