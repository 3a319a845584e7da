"""Both clients against a server that misbehaves, as testdata/clients tells: Node's runs the same rows."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
import vectors
from dspex import wire
from dspex.errors import DspexError
from scripted import Peer, client, drive, serving

ROWS = json.loads((vectors.FOLDER.parent / "clients" / "misbehaving.json").read_text())["rows"]

pytestmark = pytest.mark.parametrize("kind", ["threads", "asyncio"])


def written(step: dict[str, Any], ids: dict[str, int]) -> bytes:
    """The bytes that a step writes."""
    form = json.dumps(step.get("frame", step.get("bytes")))
    for method, id in ids.items():
        form = form.replace(f"{{{method}}}", f"cf{id:016x}")
    data = vectors.expand(json.loads(form))
    if "frame" in step:
        data = len(data).to_bytes(4, "big") + data
    return data[: step.get("cut")]


def act(peer: Peer, row: dict[str, Any]) -> None:
    peer.greet(**{name: row[name] for name in ("stop_report_ms",) if name in row})
    ids = {}
    for _ in row["calls"]:
        request = peer.read()
        ids[request.method] = request.id
    for step in row["server"]:
        if "close" in step:
            return
        if "wait_ms" in step:
            time.sleep(step["wait_ms"] / 1000)
        elif "read" in step:
            message = peer.read()
            while isinstance(message, wire.Credit):
                message = peer.read()
            assert (message and type(message).__name__.lower()) == step["read"]
        else:
            data = written(step, ids)
            portion = step.get("portion", len(data))
            for at in range(0, len(data), portion):
                peer.send(data[at : at + portion])
    peer.echo()


async def seen(c: Any, method: str, call: dict[str, Any]) -> dict[str, Any]:
    """What the caller sees, as far as the row tells of it."""
    timeout = call["timeout_ms"] / 1000 if "timeout_ms" in call else None
    found: dict[str, Any] = {"items": []}
    try:
        if "stream" in call:
            stream = c.stream(method, credit=call["stream"], timeout=timeout)
            async for item in stream:
                found["items"].append(item)
            found["result"] = stream.result
        else:
            found["result"] = await c.call(method, timeout=timeout)
    except DspexError as error:
        found |= {"error": error.code, "details": error.details, "message": error.message}
    return found


def check(call: dict[str, Any], found: dict[str, Any]) -> None:
    for name in ("items", "result", "error", "details"):
        if name in call:
            assert found.get(name) == call[name], found
    assert ("error" in found) == ("error" in call), found
    assert call.get("says", "") in found.get("message", ""), found


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_a_server_that_misbehaves(kind: str, row: dict[str, Any]) -> None:
    connections = []

    def first(peer: Peer) -> None:
        connections.append("same")
        act(peer, row)

    def second(peer: Peer) -> None:
        connections.append("new")
        peer.greet()
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            found = await asyncio.gather(*(seen(c, method, call) for method, call in row["calls"].items()))
            for call, one in zip(row["calls"].values(), found, strict=True):
                check(call, one)
            assert await c.call("after", {"n": 1}) == {"n": 1}
            assert connections[-1] == row["then"]

    with serving(first, second) as path:
        drive(scenario(path))
