"""A call's `timeout` holds whatever the call waits for: a connection, its turn to connect, room to write, an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import dspex
import pytest
from dspex import errors, wire
from dspex.deadline import Deadline
from scripted import TIMEOUT, WELCOME, Peer, client, drive, serving

pytestmark = pytest.mark.parametrize("kind", ["threads", "asyncio"])

SHORT = 0.3


def echo(peer: Peer) -> None:
    peer.greet()
    peer.echo()


def waiting(released: threading.Event, greets: bool) -> Callable[[Peer], None]:
    """A script that reads nothing more until it is released."""

    def script(peer: Peer) -> None:
        if greets:
            peer.greet()
        assert released.wait(TIMEOUT)

    return script


def test_a_sidecar_that_does_not_greet(kind: str) -> None:
    released = threading.Event()

    async def scenario(path: str) -> None:
        c = client(kind, path)
        began = monotonic()
        with pytest.raises(errors.ConnectionLost, match=r"did not answer the handshake within 0\.[23]"):
            await c.call("m", timeout=SHORT)
        assert monotonic() - began >= SHORT
        released.set()
        await c.close()

    with serving(waiting(released, greets=False)) as path:
        drive(scenario(path))


def test_a_sidecar_that_reads_nothing(kind: str) -> None:
    released = threading.Event()

    async def scenario(path: str) -> None:
        c = await client(kind, path).connect()
        began = monotonic()
        large = {"x": bytes(8 << 20)}
        results = await asyncio.gather(*[c.call("m", large, timeout=SHORT) for _ in range(3)], return_exceptions=True)
        assert [type(result) for result in results] == [errors.DeadlineExceeded] * 3
        assert monotonic() - began >= SHORT  # and ended at all: nobody reads or answers until they have
        released.set()
        await c.close()

    with serving(waiting(released, greets=True)) as path:
        drive(scenario(path))


def test_many_who_wait_for_a_connection_wait_side_by_side(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[float] = []  # when each round of attempts to connect began
    clients = dspex.Client if kind == "threads" else dspex.AsyncClient
    reach = clients._reach

    def counted(self: Any, *args: Any) -> Any:
        attempts.append(monotonic())
        return reach(self, *args)

    monkeypatch.setattr(clients, "_reach", counted)

    async def scenario() -> None:
        c = client(kind, f"{tmp_path}/none", wait=3.0)
        calls = [c.call("m", timeout=60) for _ in range(5)]
        results = await asyncio.gather(*calls, c.call("m", timeout=SHORT), return_exceptions=True)
        assert [type(result) for result in results] == [errors.ConnectionLost] * 6
        assert len({id(result) for result in results}) == 6  # raised in several threads: to each its own
        # One after the other each would try for 2 to 3 s.
        assert attempts[-1] - attempts[0] < 8.0
        await c.close()

    drive(scenario())


@pytest.mark.parametrize("timeout", [40 * 86400.0, 1e12, float("inf")])
def test_limits_longer_than_any_clock_can_count(kind: str, timeout: float) -> None:
    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            assert await c.call("m", {"n": 1}, timeout=timeout) == {"n": 1}

    with serving(echo) as path:
        drive(scenario(path))


def test_what_connecting_took_is_not_left_for_the_call(kind: str) -> None:
    told: list[int] = []

    def slow(peer: Peer) -> None:
        hello = peer.read()
        threading.Event().wait(SHORT)  # a sidecar that takes its time
        peer.send(welcome(hello.id))
        request = peer.read()
        told.append(request.meta["timeout_ms"])
        peer.answer(request, "late")

    async def scenario(path: str) -> None:
        c = client(kind, path)
        assert await c.call("m", timeout=TIMEOUT) == "late"
        await c.close()

    with serving(slow) as path:
        drive(scenario(path))
    assert 0 < told[0] <= (TIMEOUT - SHORT) * 1000


def welcome(id: int) -> bytes:
    return wire.encode_response(id, None, {**WELCOME, "max_frame": 16 << 20, "connection": "c"})


def test_a_deadline(kind: str) -> None:
    assert Deadline(-1).left() == 0.0
    assert Deadline(0).milliseconds() == 0
    assert Deadline(1.5).milliseconds() in range(1, 1501)
    assert Deadline(1e-9).milliseconds() in (0, 1)
    with pytest.raises(ValueError, match="nan"):
        Deadline(float("nan"))
