"""docs/protocol.md is enough to write a client from: one that was (from_the_page.py) passes the vectors, and calls."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.newcomer import from_the_page as page
from e2e.newcomer.from_the_page import Broken, Failed, PageClient
from e2e.support.configuration import ROOT
from e2e.support.servers import Server

VECTORS = ROOT / "testdata" / "wire"
FILES = ("frames", "values", "structure", "envelopes", "content", "meta")


def load(name: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["vectors"]
    return vectors


def expand(data: Any) -> bytes:
    if isinstance(data, str):
        return bytes.fromhex(data)
    parts: list[Any] = [{"repeat": [one, 1]} if isinstance(one, str) else one for one in data]
    return b"".join(bytes.fromhex(part["repeat"][0]) * part["repeat"][1] for part in parts)


def same(found: Any, told: Any) -> bool:
    """Whether a value is what a vector's JSON says."""
    if isinstance(told, list):
        return isinstance(found, list) and len(found) == len(told) and all(map(same, found, told))
    if isinstance(told, dict):
        match list(told.items()):
            case [("$bin", data)]:
                return bool(found == bytes.fromhex(data) and type(found) is bytes)
            case [("$timestamp", [seconds, nanoseconds])]:
                return bool((found.seconds, found.nanoseconds) == (seconds, nanoseconds))
            case [("$int", digits)]:
                return bool(found == int(digits) and type(found) is int)
            case [("$float", digits)]:
                return type(found) is float and str(found) == str(float(digits))
        return (
            isinstance(found, dict) and found.keys() == told.keys() and all(same(found[key], told[key]) for key in told)
        )
    return type(found) is type(told) and found == told


@pytest.mark.parametrize("name", FILES)
def test_vectors(name: str) -> None:
    wrong = []
    for vector in load(name):
        body = expand(vector["body"])
        id, found = None, None
        try:
            found = page.decode(body)
            verdict = "ok" if found is not None else "unknown_kind"
        except Broken as broken:
            verdict, id = broken.verdict, broken.id
        expected = vector.get("envelope", {})
        right = verdict == vector["verdict"]
        if right and verdict in ("envelope", "content"):
            right = id == expected["id"]
        if right and found is not None:
            right = all(same(found[key], told) for key, told in expected.items())
            right = right and ("payload" not in vector or found["payload"] == expand(vector["payload"]))
            value = vector.get("value")
            if value is None and expected["kind"] in (0, 2):
                value = {}  # params may be nil
            right = right and ("value" not in vector or same(found["value"], value))
        if not right:
            wrong.append((vector["name"], vector["verdict"], expected.get("id"), verdict, id))
    assert wrong == []


def test_streams_of_frames() -> None:
    for vector in load("framing"):
        events, incomplete = page.split(expand(vector["stream"]), vector["max_frame"])
        assert len(events) == len(vector["events"]), vector["name"]
        for event, told in zip(events, vector["events"], strict=True):
            match told:
                case {"body": body}:
                    assert event == expand(body)
                case {"too_long": {"length": length}}:
                    assert event[0] == length
                case {"broken": _}:
                    assert event == "broken"
        assert incomplete == vector["incomplete"], vector["name"]


def test_it_imports_nothing_of_anybodys() -> None:
    source = Path(page.__file__).read_text()
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= sys.stdlib_module_names


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param, {"pools": {"default": {"app": "conformance:app", "size": 1}}}) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[PageClient]:
    client = PageClient(server.path)
    yield client
    client.close()


def test_calls(client: PageClient) -> None:
    assert client.server["protocol"] == 1
    values: list[Any] = [
        None,
        True,
        -(2**63),
        2**64 - 1,
        0.5,
        -math.inf,
        "ü🌍",
        b"\xff" * 70_000,
        [[], {}],
        {"a": {"b": [1]}},
    ]
    for value in values:
        assert client.call("echo", {"value": value}) == value
    with pytest.raises(Failed) as failed:
        client.call("nothing")
    assert failed.value.code == "unknown_method"
    with pytest.raises(Failed) as failed:
        client.call("wait_quietly", None, timeout_ms=100)
    assert failed.value.code == "deadline_exceeded"
    assert client.call("ping", None, unheard_of=1) == {}


def test_streams_and_cancels(client: PageClient) -> None:
    assert client.stream("count", {"n": 50}) == (list(range(50)), "50 in all")
    id = client.begin("wait_quietly")
    client.cancel(id)
    with pytest.raises(Failed) as failed:
        client.settled(id)
    assert failed.value.code == "cancelled"
    assert client.call("echo", {"value": 1}) == 1


def test_sessions(client: PageClient) -> None:
    made = client.call("session.create", {"state": {"a": 1}})["session"]
    client.call("put", {"key": "b", "value": [2]}, session=made)
    state = client.call("session.get", {"session": made})["state"]
    assert (state["a"], state["b"]) == (1, [2])
    client.call("session.end", None, session=made)
    with pytest.raises(Failed) as failed:
        client.call("get", None, session=made)
    assert failed.value.code == "session_not_found"


def test_what_a_worker_asks(client: PageClient) -> None:
    client.answers["double"] = lambda params: params["value"] * 2
    assert client.call("ask", {"question": "double", "value": 21}) == 42
    with pytest.raises(Failed) as failed:
        client.call("ask", {"question": "nothing", "value": 1})
    assert failed.value.code == "unknown_method"
