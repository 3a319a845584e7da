"""Functions that the client offers to its calls' workers, against a scripted server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from dspex import Asked, AsyncAsked, errors, wire
from scripted import Peer, Script, client, drive, serving, wrap

pytestmark = pytest.mark.parametrize("kind", ["threads", "asyncio"])

AnyAsked = Asked | AsyncAsked


def asking(method: str, params: dict[str, Any] | None = None, times: int = 1) -> Script:
    """Take a call, ask with it, and answer it with what came back."""

    def script(peer: Peer) -> None:
        peer.greet()
        for n in range(times):
            call = peer.read()
            peer.ask(n + 1, method, call, params)
            peer.answer(call, peer.answered(n + 1))
        peer.echo()

    return script


async def later(params: dict[str, Any], asked: AnyAsked) -> Any:
    await asyncio.sleep(0)
    return {"sum": params["a"] + 1, "of": asked.method}


def at_once(params: dict[str, Any], asked: AnyAsked) -> Any:
    return {"sum": params["a"] + 1, "of": asked.method}


def fails(_: Any, __: AnyAsked) -> Any:
    raise KeyError("not today")


def refuses(_: Any, __: AnyAsked) -> Any:
    raise errors.PermissionDenied("not you")


async def gives_up(_: Any, __: AnyAsked) -> Any:
    raise asyncio.CancelledError


def long_error(_: Any, __: AnyAsked) -> Any:
    raise errors.LMError("short", details={"long": bytes(17 << 20)})


@pytest.mark.parametrize(
    ("function", "heard"),
    [
        (later, {"sum": 2, "of": "client.add"}),
        (at_once, {"sum": 2, "of": "client.add"}),
        (lambda _, __: None, None),
        (fails, "program_error"),
        (refuses, "permission_denied"),
        (gives_up, "cancelled"),
        (long_error, "frame_too_large"),
        (lambda _, __: [{1}], "not_serializable"),
        pytest.param(lambda _, __: "\ud800", "not_serializable", id="a lone surrogate"),
        (lambda _, __: bytes(17 << 20), "frame_too_large"),
    ],
)
def test_what_a_function_does_is_what_the_worker_hears(
    kind: str, function: Callable[[Any, AnyAsked], Any], heard: Any
) -> None:
    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            c.offer("client.add", function)
            assert await c.call("m") == heard
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(asking("client.add", {"a": 1})) as path:
        drive(scenario(path))


def test_what_is_not_offered_or_no_longer_is_unknown(kind: str) -> None:
    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            take_back = c.offer("f", at_once)
            c.offer("f", lambda _, __: "the second")
            take_back()  # it took the place of the first, which is not there any more
            assert await c.call("m") == "the second"
            c.offer("f", at_once)()
            assert await c.call("m") == "unknown_method"

    with serving(asking("f", times=2)) as path:
        drive(scenario(path))


def test_a_sessions_functions_are_for_its_calls_alone_and_go_before_the_clients(kind: str) -> None:
    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            a, b = c.session("a"), c.session("b")
            a.offer("who", lambda _, asked: f"for {asked.session}")
            assert [await a.call("m"), await b.call("m")] == ["for a", "unknown_method"]
            c.offer("who", lambda _, __: "for all")
            assert [await b.call("m"), await c.call("m"), await a.call("m")] == ["for all", "for all", "for a"]

    with serving(asking("who", times=5)) as path:
        drive(scenario(path))


def test_calls_made_while_answering_are_part_of_the_call_that_asks_on_its_connection(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        call = peer.read()
        peer.send(wire.encode_notification("goaway", {"reason": "test", "drain_ms": 1000}))
        peer.ask(7, "f", call)
        metas = []
        for _ in range(3):
            nested = peer.read()
            metas.append((nested.method, nested.meta))
            peer.answer(nested, {"method": nested.method})
        assert metas == [
            ("m", {"parent": 7}),
            ("s", {"parent": 7, "session": "x", "stream": 16}),
            ("execute_program", {"parent": 7}),
        ]
        peer.answer(call, peer.answered(7))
        assert peer.read() is None

    async def f(_: Any, asked: AnyAsked) -> Any:
        inner = wrap(asked.client)
        told = [await inner.call("m")]
        stream = inner.session("x").stream("s")
        assert [item async for item in stream] == []
        return [*told, stream.result, await inner.program("p")(a=1)]

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            c.offer("f", f)
            assert [one["method"] for one in await c.call("m")] == ["m", "s", "execute_program"]

    with serving(script) as path:
        drive(scenario(path))


def test_a_cancel_reaches_the_function_and_the_calls_it_makes(kind: str) -> None:
    ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        call = peer.read()
        peer.ask(5, "f", call)
        nested = peer.read()
        peer.send(wire.encode_cancel(5, "enough"))
        late = [peer.read(), peer.read()]
        assert wire.Cancel(nested.id, None) in late
        refused = next(message for message in late if isinstance(message, wire.Response))
        assert refused.error is not None
        assert (refused.id, refused.error["code"], refused.error["message"]) == (5, "cancelled", "enough")
        assert ended.wait(20)
        peer.send(wire.encode_cancel(5, None), wire.encode_cancel(99, None))  # again, and of an id that is unknown
        peer.answer(call, "over")
        peer.echo()

    async def f(_: Any, asked: AnyAsked) -> Any:
        try:
            await wrap(asked.client).call("nested")
        finally:
            assert asked.cancelled
            ended.set()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            c.offer("f", f)
            assert await c.call("m") == "over"
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(script) as path:
        drive(scenario(path))


@pytest.mark.parametrize("who", ["server", "client"])
def test_the_end_of_a_connection_ends_what_was_asked_over_it(kind: str, who: str) -> None:
    began, ended = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.ask(5, "f", peer.read())
        assert began.wait(20)
        if who == "client":
            assert peer.read() is None

    async def f(_: Any, asked: AnyAsked) -> Any:
        began.set()
        try:
            await asyncio.sleep(20)
        finally:
            assert asked.cancelled
            ended.set()

    async def scenario(path: str) -> None:
        c = client(kind, path)
        c.offer("f", f)
        call = asyncio.ensure_future(c.call("m"))
        assert await asyncio.to_thread(began.wait, 20)
        if who == "client":
            await c.close()
        with pytest.raises(errors.ConnectionLost):
            await call
        assert await asyncio.to_thread(ended.wait, 20)
        await c.close()

    with serving(script) as path:
        drive(scenario(path))


def test_functions_that_wait_do_not_hold_up_calls_or_each_other(kind: str) -> None:
    first = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        call = peer.read()
        peer.ask(1, "waits", call)
        peer.ask(2, "frees", call)
        assert sorted([peer.read().id, peer.read().id]) == [1, 2]
        peer.answer(call, "both")
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            c.offer("waits", lambda _, __: first.wait(20))
            c.offer("frees", lambda _, __: first.set())
            assert await c.call("m") == "both"

    with serving(script) as path:
        drive(scenario(path))


_NOT_UTF8 = b"\xa1\xff"


def test_an_ask_that_cannot_be_read_is_answered_and_settles_no_call_of_the_clients(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        call = peer.read()
        ask = wire.encode_request(call.id, "f", {"call": call.id}, {"a": "x"})  # by chance with the same id
        peer.send(ask.replace(b"\xa1x", _NOT_UTF8))
        assert peer.answered(call.id) == "invalid_frame"
        peer.send((70_000).to_bytes(4, "big") + ask[4:] + bytes(70_004 - len(ask)))
        assert peer.answered(call.id) == "frame_too_large"
        too_long = wire.encode_cancel(call.id, None)
        peer.send((70_000).to_bytes(4, "big") + too_long[4:] + bytes(70_004 - len(too_long)))
        peer.answer(call, "good")

    async def scenario(path: str) -> None:
        async with client(kind, path, max_frame=65536) as c:
            assert await c.call("m") == "good"

    with serving(script) as path:
        drive(scenario(path))


def test_an_item_that_cannot_be_read_keeps_its_id_until_the_response_comes(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        call = peer.read()
        peer.send(wire.encode_item(call.id, "x").replace(b"\xa1x", _NOT_UTF8))
        assert peer.read() == wire.Cancel(call.id, None)
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            with pytest.raises(errors.InvalidFrame):
                await anext(c.stream("s").__aiter__())
            core = (c if kind == "asyncio" else c.inner)._link.core
            assert len(core.calls) == 1
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(script) as path:
        drive(scenario(path))


def test_only_functions_are_offered(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.echo()

    with serving(script) as path:

        async def scenario() -> None:
            async with client(kind, path) as c:
                with pytest.raises(TypeError, match=r"'client\.add' is a function, not a int"):
                    c.offer("client.add", 5)

        drive(scenario())
