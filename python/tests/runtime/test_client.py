"""The Python client against stand-alone mode: the same client as the sidecar's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import dspex
import pytest
from dspex.errors import DeadlineExceeded, Draining, InvalidParams, NotSerializable, ProgramError, SessionNotFound
from runtime.harness import HERE, Process, Server

Serve = Callable[..., Server]


def test_calls_sessions_and_streams(serve: Serve) -> None:
    server = serve()
    with dspex.connect(server.path) as client:
        assert client.call("echo", {"value": {"a": [1, 2.5, None]}}) == {"a": [1, 2.5, None]}
        with pytest.raises(ProgramError, match="boom"):
            client.call("boom")
        with pytest.raises(InvalidParams):
            client.call("typed", {"a": "x"})
        with pytest.raises(NotSerializable) as caught:
            client.call("unpackable")
        assert caught.value.details["path"] == "result.a[1].b"
        with pytest.raises(DeadlineExceeded):
            client.call("sleep", {"seconds": 60}, timeout=0.05)
        with client.create_session(state={"a": 1}) as session:
            assert session.call("append_sync", {"key": "list", "value": 1}) == 1
            assert session.state() == {"a": 1, "begun": 1, "list": [1]}
        with pytest.raises(SessionNotFound):
            session.call("get")
        with client.stream("count", {"n": 100}, credit=4) as stream:
            assert list(stream) == list(range(100))
        with client.stream("count_slowly") as stream:
            assert next(stream) == 0
        while client.call("sidecar.stats")["in_flight"]:
            pass
        assert "count_slowly" in client.call("was_closed")


def test_many_threads(serve: Serve) -> None:
    server = serve()
    found: dict[int, list[int]] = {}
    with dspex.connect(server.path) as client:

        def work(number: int) -> None:
            session = client.create_session(f"s{number}")
            found[number] = [session.call("append_sync", {"key": "l", "value": i}) for i in range(20)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: list(range(1, 21)) for number in range(8)}


def test_asyncio_and_a_drain(serve: Serve) -> None:
    server = serve()

    async def main() -> None:
        async with dspex.AsyncClient(server.path, reconnect=0) as client:
            results = await asyncio.gather(*(client.call("echo_async", {"value": n}) for n in range(100)))
            assert results == list(range(100))
            last = asyncio.ensure_future(client.call("sleep", {"seconds": 0.2}))
            while not (await client.call("sidecar.calls"))["calls"]:
                pass
            server.process.terminate()
            await last
            with pytest.raises((Draining, dspex.errors.ConnectionLost)):
                await client.call("echo", {"value": 1})

    asyncio.run(main())
    assert server.exit_code() == 0


def test_the_bridge_serves_the_dspy_application(tmp_path: Path) -> None:
    pytest.importorskip("dspy")
    path = str(tmp_path / "s")
    process = Process(str(HERE.parents[1] / "dspy_bridge.py"), "--socket", path)
    try:
        process.line("serving")
        with dspex.connect(path) as client, client.create_session() as session:
            program = session.create_program("p", "question, n: int -> answer: float")
            assert program.info()["inputs"]["required"] == ["question", "n"]
            assert session.state() == {}  # programs are under keys that clients do not see
            with pytest.raises(InvalidParams):
                program(question="q", n="not a number")
            program.delete()
    finally:
        process.kill()
