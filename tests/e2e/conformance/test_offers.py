"""Functions of the client's that workers call, by all clients, nested, cancelled at each level, and left."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from dspex import Asked, AsyncAsked, AsyncClient, CancelToken, Client
from dspex.errors import Cancelled, DeadlineExceeded, DspexError, ProgramError, SessionBusy, UnknownMethod
from e2e.support.machine import WAIT, until
from e2e.support.node_client import NodeClient
from e2e.support.servers import Server

LEVELS = 3

AnyAsked = Asked | AsyncAsked
AnyClient = Client | AsyncClient | NodeClient

CLIENTS: dict[str, type[AnyClient]] = {"threads": Client, "asyncio": AsyncClient, "node": NodeClient}


async def outcome(made: Any) -> Any:
    """What any client returns: a function that those for threads run has a thread, and may block it."""
    return await made if inspect.isawaitable(made) else made


def drive(server: Server, kind: str, scenario: Callable[[AnyClient], Coroutine[Any, Any, None]]) -> None:
    client = CLIENTS[kind](server.path)

    async def run() -> None:
        try:
            async with asyncio.timeout(WAIT):
                await scenario(client)
        finally:
            await outcome(client.close())

    asyncio.run(run())


each = pytest.mark.parametrize("kind", list(CLIENTS))


@each
def test_three_levels_deep(server: Server, kind: str) -> None:
    async def level(params: dict[str, Any], asked: AnyAsked) -> Any:
        value = params["value"]
        if value == LEVELS:
            return "bottom"
        return {str(value): await outcome(asked.client.call("ask", {"question": "level", "value": value + 1}))}

    async def scenario(client: AnyClient) -> None:
        client.offer("level", level)
        answer = await outcome(client.call("ask", {"question": "level", "value": 0}))
        assert answer == {"0": {"1": {"2": "bottom"}}}

    drive(server, kind, scenario)


@each
@pytest.mark.parametrize("at", range(LEVELS + 1))
@pytest.mark.parametrize("method", ["ask", "ask_in_thread"])
def test_a_cancel_at_each_level(server: Server, kind: str, method: str, at: int) -> None:
    """The call that is made at level `at` is cancelled when the last function runs: those above it go on."""
    token, ended = CancelToken(), []

    async def level(params: dict[str, Any], asked: AnyAsked) -> Any:
        value = params["value"]
        if value == LEVELS:
            token.cancel()
        try:
            if value == LEVELS:
                await asyncio.sleep(WAIT)
            return await down(asked.client, value + 1)
        finally:
            if asked.cancelled:
                ended.append(value)

    async def down(client: Any, value: int) -> Any:
        try:
            more = {"cancel": token} if value == at else {}
            return {str(value): await outcome(client.call(method, {"question": "level", "value": value}, **more))}
        except Cancelled:
            if value != at:
                raise
            return "cancelled here"

    async def scenario(client: AnyClient) -> None:
        client.offer("level", level)
        answer = await down(client, 0)
        expected: Any = "cancelled here"
        for value in reversed(range(at)):
            expected = {str(value): expected}
        assert answer == expected
        await asyncio.to_thread(until, lambda: len(ended) == LEVELS + 1 - at, "all below it have ended")
        assert sorted(ended) == list(range(at, LEVELS + 1))

    drive(server, kind, scenario)
    left = server.client()
    until(
        lambda: not [call for call in left.call("sidecar.calls")["calls"] if call["method"] == method], "none is left"
    )


@each
@pytest.mark.parametrize("method", ["ask", "ask_in_thread"])
def test_errors_come_back_as_what_they_are(server: Server, kind: str, method: str) -> None:
    def fails(_: Any, __: AnyAsked) -> Any:
        raise LookupError("not in here")

    async def again(_: Any, asked: AnyAsked) -> Any:
        return await outcome(asked.client.session(str(asked.session)).call("put", {"key": "a", "value": 1}))

    async def scenario(client: AnyClient) -> None:
        client.offer("fails", fails)
        with pytest.raises(ProgramError, match="not in here") as failed:
            await outcome(client.call(method, {"question": "fails", "value": 1}))
        assert failed.value.details["type"] == "LookupError"
        with pytest.raises(UnknownMethod, match="unheard of"):
            await outcome(client.call(method, {"question": "unheard of", "value": 1}))
        session = await outcome(client.create_session())
        session.offer("again", again)
        with pytest.raises(SessionBusy):
            await outcome(session.call(method, {"question": "again", "value": 1}))

    drive(server, kind, scenario)


@each
def test_a_deadline_ends_the_function(server: Server, kind: str) -> None:
    ended = threading.Event()

    async def sleeps(_: Any, asked: AnyAsked) -> None:
        try:
            await asyncio.sleep(WAIT)
        finally:
            assert asked.cancelled
            ended.set()

    async def scenario(client: AnyClient) -> None:
        client.offer("sleeps", sleeps)
        with pytest.raises(DeadlineExceeded):
            await outcome(client.call("ask", {"question": "sleeps", "value": 1}, timeout=0.2))
        assert await asyncio.to_thread(ended.wait, WAIT)

    drive(server, kind, scenario)


@each
def test_a_client_that_leaves_ends_the_call_that_asks(server: Server, kind: str) -> None:
    async def leaves(_: Any, asked: AnyAsked) -> None:
        leaving.set()
        await asyncio.sleep(WAIT)

    leaving = threading.Event()

    async def scenario(client: AnyClient) -> None:
        client.offer("leaves", leaves)
        call = asyncio.ensure_future(_in_thread_or_task(client, "ask", {"question": "leaves", "value": 1}))
        assert await asyncio.to_thread(leaving.wait, WAIT)
        await outcome(client.close())
        with pytest.raises(DspexError) as lost:
            await call
        assert lost.value.code == "connection_lost"

    drive(server, kind, scenario)
    other = server.client()
    until(lambda: len(other.call("sidecar.calls")["calls"]) == 0, "the call has ended")


async def _in_thread_or_task(client: AnyClient, method: str, params: dict[str, Any]) -> Any:
    if isinstance(client, AsyncClient):
        return await client.call(method, params)
    return await asyncio.to_thread(client.call, method, params)
