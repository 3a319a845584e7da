"""Connections that come and go; what is left when a client is closed; cancelling in each client's own way."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import dspex
import pytest
from dspex import errors, wire
from dspex.place import socket_path
from scripted import TIMEOUT, Peer, client, drive, serving

BOTH = pytest.mark.parametrize("kind", ["threads", "asyncio"])


def echo(peer: Peer) -> None:
    peer.greet()
    peer.echo()


def silent(peer: Peer) -> None:
    """Greets, and answers nothing."""
    peer.greet()
    while peer.read() is not None:
        pass


def descriptors() -> set[str]:
    return {f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if is_open(fd)}


def is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_where_the_socket_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSPEX_SOCKET", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert socket_path() == "/run/dspex/dspex.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/x")
    assert socket_path() == "/x/dspex/dspex.sock"
    monkeypatch.setenv("DSPEX_SOCKET", "/y")
    assert socket_path() == "/y"
    assert socket_path(Path("/z")) == "/z"


@BOTH
def test_no_sidecar(kind: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(plain))

    async def scenario() -> None:
        for path, reason in [
            ("", "the path is empty"),
            (tmp_path / "none", "there is no such socket"),
            (plain, "nobody listens"),
            (tmp_path / ("x" * 120), "bytes, 107 are possible"),
        ]:
            with pytest.raises(errors.ConnectionLost, match=reason) as lost:
                await client(kind, str(path)).connect()
            assert isinstance(lost.value, ConnectionError)

    drive(scenario())


@BOTH
def test_waits_for_a_sidecar_that_comes_later(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "late")

    async def scenario() -> None:
        c = client(kind, path)
        connecting = asyncio.create_task(c.connect(wait=TIMEOUT))
        await asyncio.sleep(0.1)
        assert not connecting.done()
        with serving(echo) as real:
            os.symlink(real, path)
            await connecting
            assert await c.call("m", {"n": 1}) == {"n": 1}
            await c.close()

    drive(scenario())


@BOTH
def test_connect_waits_as_long_as_it_is_told_where_a_connection_was_lost(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "late"

    def once(peer: Peer) -> None:
        peer.greet()

    async def scenario() -> None:
        c = client(kind, str(path), reconnect=0.0)
        with serving(once) as real:
            os.symlink(real, path)
            await c.connect()
        path.unlink()
        with pytest.raises(errors.ConnectionLost):
            await c.call("m", idempotent=True)
        connecting = asyncio.create_task(c.connect(wait=TIMEOUT))
        await asyncio.sleep(0.1)
        with serving(echo) as real:
            os.symlink(real, path)
            await connecting
            await c.close()

    drive(scenario())


@BOTH
def test_connects_again_after_the_sidecar_went_while_idle(kind: str) -> None:
    gone = threading.Event()

    def once(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.read(), "first")
        peer.sock.close()
        gone.set()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            assert await c.call("m") == "first"
            await asyncio.to_thread(gone.wait)
            await asyncio.sleep(0.1)  # as long as a client that was idle has been idle
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(once, echo) as path:
        drive(scenario(path))


@BOTH
def test_close_settles_and_leaves_nothing(kind: str) -> None:
    read = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        for _ in range(4):
            peer.read()
        read.set()
        assert peer.read() is None

    async def scenario(path: str) -> None:
        c = await client(kind, path).connect()
        calls = [asyncio.create_task(c.call("m")) for _ in range(4)]
        await asyncio.to_thread(read.wait)
        await c.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [errors.ConnectionLost] * 4
        with pytest.raises(errors.ConnectionLost, match="closed"):
            await c.call("m")
        await c.close()  # a second time
        assert asyncio.all_tasks() == {asyncio.current_task()}

    threads = threading.active_count()
    before = descriptors()
    with serving(script) as path:
        drive(scenario(path))
    gc.collect()
    assert descriptors() == before
    assert threading.active_count() == threads


@BOTH
def test_an_abandoned_stream_is_cancelled_with_the_next_call(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        peer.send(wire.encode_item(request.id, 0))
        following = [peer.read(), peer.read()]
        assert wire.Cancel(request.id, None) in following
        peer.answer(next(m for m in following if isinstance(m, wire.Request)), "next")

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            async for _ in c.stream("s"):
                break
            gc.collect()
            assert await c.call("m") == "next"

    with serving(script) as path:
        drive(scenario(path))


@BOTH
def test_a_lost_sidecar_is_waited_for_no_longer_than_the_call_may_take(kind: str) -> None:
    def once(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.read(), "first")

    async def scenario() -> None:
        c = client(kind, path, reconnect=600)
        with serving(once) as real:
            os.symlink(real, path)
            assert await c.call("m") == "first"
        await asyncio.sleep(0.1)
        with pytest.raises(errors.ConnectionLost):
            await c.call("m", timeout=0.2)
        await c.close()

    with tempfile.TemporaryDirectory(prefix="dspex") as folder:
        path = f"{folder}/s"
        drive(scenario())


@BOTH
def test_an_error_in_a_sessions_block_is_not_hidden(kind: str) -> None:
    def once(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.read(), {"session": "s"})

    async def scenario(path: str) -> None:
        async with client(kind, path, reconnect=0) as c:
            session = await c.create_session()
            with pytest.raises(ZeroDivisionError):
                async with session:
                    raise ZeroDivisionError

    with serving(once) as path:
        drive(scenario(path))


def test_interrupt_cancels_a_call() -> None:
    cancelled = threading.Event()
    waits: list[Any] = []

    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        while waits[0]._leader is None:
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert peer.read() == wire.Cancel(request.id, None)
        cancelled.set()
        peer.fail(request, "cancelled")
        peer.echo()

    with serving(script) as path, dspex.connect(path) as c:
        waits.append(c._link)
        with pytest.raises(KeyboardInterrupt):
            c.call("m")
        assert cancelled.wait(TIMEOUT)
        assert c.call("m", {"n": 1}) == {"n": 1}


@pytest.mark.parametrize("way", ["cancel", "timeout"])
def test_cancelling_a_task_cancels_its_call(way: str) -> None:
    read = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        read.set()
        assert peer.read() == wire.Cancel(request.id, None)
        peer.answer(request, "too late")
        peer.echo()

    async def scenario(path: str) -> None:
        async with dspex.AsyncClient(path) as c:
            if way == "cancel":
                task = asyncio.create_task(c.call("m"))
                await asyncio.to_thread(read.wait)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await c.call("m")
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(script) as path:
        drive(scenario(path))


def test_one_timer_serves_all_deadlines() -> None:
    async def scenario(path: str) -> None:
        async with dspex.AsyncClient(path) as c:

            async def call(timeout: float) -> float:  # noqa: ASYNC109 - the client's own deadline
                begin = asyncio.get_running_loop().time()
                with pytest.raises(errors.DeadlineExceeded):
                    await c.call("m", timeout=timeout)
                return asyncio.get_running_loop().time() - begin

            for took, timeout in zip(
                await asyncio.gather(*[call(timeout) for timeout in (0.3, 0.1, 0.2)]), (0.3, 0.1, 0.2), strict=True
            ):
                assert timeout <= took < timeout + 2

    with serving(silent) as path:
        drive(scenario(path))


def test_many_threads_on_one_client() -> None:
    def script(peer: Peer) -> None:
        """Answers in batches, the last request first."""
        peer.greet()
        waiting: list[Any] = []
        while (message := peer.read()) is not None:
            waiting.append(message)
            if len(waiting) >= 3 or message.params.get("last"):
                peer.send(*[wire.encode_response(m.id, None, m.params) for m in reversed(waiting)])
                waiting.clear()

    wrong: list[Any] = []

    def work(c: dspex.Client, number: int) -> None:
        for turn in range(100):
            params = {"thread": number, "turn": turn, "last": True, "pad": "x" * (number * 997 % 5000)}
            if c.call("m", params) != params:
                wrong.append(params)

    threads_before = threading.active_count()
    with serving(script) as path, dspex.connect(path) as c:
        threads = [threading.Thread(target=work, args=(c, number)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
    assert not wrong
    assert threading.active_count() == threads_before


def test_threads_with_different_deadlines_pass_the_lead_on() -> None:
    """Who leads gives up first; the others still get their answers."""
    first_gave_up = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        short = peer.read()
        others = [peer.read() for _ in range(3)]
        while not isinstance(peer.read(), wire.Cancel):
            pass
        first_gave_up.set()
        peer.fail(short, "cancelled")
        peer.send(*[wire.encode_response(m.id, None, "good") for m in others])
        peer.echo()

    results: list[Any] = []
    with serving(script) as path, dspex.connect(path) as c:
        link = c._link
        assert link is not None

        def short() -> None:
            with pytest.raises(errors.DeadlineExceeded):
                c.call("m", timeout=0.3)

        def long() -> None:
            results.append(c.call("m"))

        leader = threading.Thread(target=short)
        leader.start()
        while not link.core.calls:
            pass
        followers = [threading.Thread(target=long) for _ in range(3)]
        for thread in followers:
            thread.start()
        for thread in (leader, *followers):
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        assert first_gave_up.is_set()
    assert results == ["good"] * 3
