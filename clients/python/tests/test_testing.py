"""The fake sidecar that users' tests have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from dspex import Adapter, AsyncAdapter, CancelToken, errors
from dspex.testing import FakeCall, FakeSidecar, Seen
from scripted import TIMEOUT, client, drive

pytestmark = pytest.mark.parametrize("kind", ["threads", "asyncio"])


def add(params: dict[str, Any], _: FakeCall) -> Any:
    return params["a"] + params["b"]


async def add_async(params: dict[str, Any], call: FakeCall) -> Any:
    await asyncio.sleep(0)
    return add(params, call)


def busy(_: Any, __: FakeCall) -> None:
    raise errors.QueueFull("busy")


def count(params: dict[str, Any], _: FakeCall) -> Generator[int, None, str]:
    yield from range(params["n"])
    return "all"


async def count_async(params: dict[str, Any], _: FakeCall) -> AsyncIterator[int]:
    for n in range(params["n"]):
        yield n


def test_methods_errors_streams_and_what_was_asked_for(kind: str) -> None:
    methods = {"add": add, "add_async": add_async, "busy": busy, "count": count, "count_async": count_async}

    async def scenario(fake: FakeSidecar) -> None:
        async with client(kind, fake.path) as c:
            assert await c.call("ping") == {}
            assert await c.call("add", {"a": 1, "b": 2}) == 3
            assert await c.call("add_async", {"a": 1, "b": 2}) == 3
            with pytest.raises(errors.QueueFull) as full:
                await c.call("busy")
            assert full.value.retryable
            with pytest.raises(errors.ProgramError) as failed:
                await c.call("add", {"a": 1})
            assert failed.value.details["type"] == "KeyError"
            with pytest.raises(errors.UnknownMethod):
                await c.call("nothing")
            with pytest.raises(errors.InvalidParams):
                await c.call("count", {"n": 1})
            with pytest.raises(errors.InvalidParams):
                await anext(c.stream("add", {"a": 1, "b": 2}))
            for method, result in [("count", "all"), ("count_async", None)]:
                stream = c.stream(method, {"n": 10}, credit=2)
                assert [n async for n in stream] == list(range(10))
                assert stream.result == result
            assert fake.requests[1] == Seen("add", {"a": 1, "b": 2}, {})
            fake.method("add", lambda _, __: {1, 2})
            with pytest.raises(errors.NotSerializable):
                await c.call("add")

    with FakeSidecar(methods) as fake:
        drive(scenario(fake))
    assert not os.path.exists(fake.path)


def test_sessions_and_programs(kind: str) -> None:
    def remember(params: dict[str, Any], call: FakeCall) -> None:
        call.state["note"] = params["note"]

    def chatty(inputs: dict[str, Any], _: FakeCall) -> Generator[Any, None, Any]:
        yield {"type": "delta", "field": "answer", "text": "so"}
        return {"answer": inputs["question"] + "?"}

    async def scenario(fake: FakeSidecar) -> None:
        async with client(kind, fake.path) as c:
            session = await c.create_session("s", state={"a": 1, "b": 2})
            with pytest.raises(errors.SessionExists):
                await c.create_session("s")
            await session.call("remember", {"note": "x"})
            await session.update({"c": 3}, delete=["b"])
            assert await session.state() == {"a": 1, "c": 3, "note": "x"}
            assert await session.program("qa")(question="well") == {"answer": "well!"}
            made = await session.create_program("chatty", "question -> answer")
            stream = made.stream(question="well")
            assert len([delta async for delta in stream]) == 1
            assert stream.result == {"answer": "well?"}
            assert await made(question="well") == {"answer": "well?"}
            with pytest.raises(errors.ProgramNotFound):
                await c.program("none")()
            await session.reset()
            assert await session.state() == {}
            await session.end()
            await session.end()
            with pytest.raises(errors.SessionNotFound):
                await session.info()

    with FakeSidecar({"remember": remember}, {"qa": lambda inputs, _: {"answer": inputs["question"] + "!"}}) as fake:
        fake.program("chatty", chatty)
        drive(scenario(fake))


def test_functions_that_the_client_offers(kind: str) -> None:
    async def scenario(fake: FakeSidecar) -> None:
        async with client(kind, fake.path) as c:
            with pytest.raises(errors.UnknownMethod):
                await c.call("outer", {"x": 2})
            c.offer("double", lambda params, _: 2 * params["x"])
            assert await c.call("outer", {"x": 2}) == 4

    with FakeSidecar({"outer": lambda params, call: call.ask("double", params)}) as fake:
        drive(scenario(fake))


def test_all_that_asks_the_sidecar_takes_options(kind: str) -> None:
    async def scenario(fake: FakeSidecar) -> None:
        async with client(kind, fake.path) as c:
            session = c.session("s")
            program = session.program("p")
            for ask in (
                c.create_session,
                session.info,
                session.state,
                session.update,
                session.reset,
                session.configure_lm,
                lambda **options: session.create_program("p", "a -> b", **options),
                session.programs,
                session.end,
                program.info,
                program.delete,
            ):
                token = CancelToken()
                token.cancel()
                with pytest.raises(errors.Cancelled):
                    await ask(cancel=token)

    names = [
        "session.create",
        "session.get",
        "session.update",
        "session.reset",
        "session.end",
        "configure_lm",
        "create_program",
    ]
    names += ["list_programs", "get_program_info", "delete_program"]
    with FakeSidecar({name: lambda _, call: call.wait(TIMEOUT) for name in names}) as fake:
        drive(scenario(fake))


def test_a_client_that_cancels_and_leaves_at_once_ends_its_call(kind: str) -> None:
    ended = threading.Event()

    def wait(_: Any, call: FakeCall) -> None:
        if call.wait(TIMEOUT):
            ended.set()

    async def scenario(fake: FakeSidecar) -> None:
        token = CancelToken()
        token.cancel()
        async with client(kind, fake.path) as c:
            with pytest.raises(errors.Cancelled):
                await c.call("wait", cancel=token)
        assert await asyncio.to_thread(ended.wait, TIMEOUT)

    with FakeSidecar({"wait": wait}) as fake:
        for _ in range(5):
            ended.clear()
            drive(scenario(fake))


def test_an_empty_id_names_no_session_of_the_adapters_own(kind: str) -> None:
    async def scenario(fake: FakeSidecar) -> None:
        async with AsyncAdapter("python_pool", socket=fake.path) as tasks:
            await tasks.execute_in_session("", "m")

    with FakeSidecar({"m": lambda _, __: None}) as fake:
        if kind == "asyncio":
            drive(scenario(fake))
        else:
            with Adapter("python_pool", socket=fake.path) as threads:
                threads.execute_in_session("", "m")
        assert Seen("m", {}, {"session": ""}) in fake.requests


def test_what_a_method_asked_for_ends_with_its_call(kind: str) -> None:
    began, ended = threading.Event(), threading.Event()
    told: list[str] = []

    def outer(_: Any, call: FakeCall) -> None:
        try:
            call.ask("forever")
        except errors.DspexError as error:
            told.append(error.code)
        ended.set()

    async def forever(_: Any, __: Any) -> None:
        began.set()
        await asyncio.sleep(TIMEOUT)

    async def scenario(fake: FakeSidecar) -> None:
        async with client(kind, fake.path) as c:
            c.offer("forever", forever)
            token = CancelToken()
            call = asyncio.create_task(c.call("outer", cancel=token))
            assert await asyncio.to_thread(began.wait, TIMEOUT)
            token.cancel()
            with pytest.raises(errors.Cancelled):
                await call
            assert await asyncio.to_thread(ended.wait, TIMEOUT)

    with FakeSidecar({"outer": outer}) as fake:
        drive(scenario(fake))
    assert told == ["cancelled"]


def test_cancels_goaway_and_lost_connections(kind: str) -> None:
    began, ended = threading.Semaphore(0), threading.Semaphore(0)

    def wait(_: Any, call: FakeCall) -> None:
        began.release()
        if call.wait(TIMEOUT):
            ended.release()

    async def wait_async(_: Any, __: FakeCall) -> None:
        began.release()
        try:
            await asyncio.sleep(TIMEOUT)
        finally:
            ended.release()

    def forever(_: Any, __: FakeCall) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.release()

    async def happened(semaphore: threading.Semaphore) -> None:
        assert await asyncio.to_thread(semaphore.acquire, timeout=TIMEOUT)

    async def scenario(fake: FakeSidecar) -> None:
        async with client(kind, fake.path) as c:
            for method in ("wait", "wait_async"):
                token = CancelToken()
                call = asyncio.create_task(c.call(method, cancel=token))
                await happened(began)
                token.cancel()
                with pytest.raises(errors.Cancelled):
                    await call
                await happened(ended)
            async with c.stream("forever", credit=2) as stream:
                assert await anext(stream) == 1
            await happened(ended)
            kept = asyncio.create_task(c.call("wait"))
            await happened(began)
            fake.goaway()
            assert await c.call("ping") == {}
            fake.disconnect()
            with pytest.raises(errors.ConnectionLost):
                await kept
            await happened(ended)
            with contextlib.suppress(errors.ConnectionLost):  # its connection may have been cut, and nobody looked yet
                await c.call("ping")
            assert await c.call("ping") == {}

    with FakeSidecar({"wait": wait, "wait_async": wait_async, "forever": forever}) as fake:
        drive(scenario(fake))


def test_it_outlives_what_is_no_client_and_leaves_nothing(kind: str) -> None:
    before = threading.active_count()
    fake = FakeSidecar()
    for text in ("00000000", "00000001c1", "00000007950001a161c080"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(fake.path)
            sock.sendall(bytes.fromhex(text))
            while sock.recv(1000):
                pass

    async def scenario() -> None:
        async with client(kind, fake.path) as c:
            assert await c.call("ping") == {}

    drive(scenario())
    fake.close()
    fake.close()
    assert not os.path.exists(fake.path)
    assert threading.active_count() == before
