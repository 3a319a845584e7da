"""What happens around a client: forks, event loops that end, interrupts, processes that just end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import dspex
import pytest
from dspex import errors
from scripted import TIMEOUT, Peer, serving


def echo(peer: Peer) -> None:
    peer.greet()
    peer.echo()


def often_left(peer: Peer) -> None:
    try:
        echo(peer)
    except (OSError, AssertionError):
        pass  # the client went away, before its `hello` even


def in_child(body: Callable[[], bool]) -> int:
    """Exit code of a forked child: 0 where `body` returned True."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.alarm(int(TIMEOUT))  # whatever waits for ever
            code = 0 if body() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_makes_a_connection_of_its_own() -> None:
    with serving(echo, echo) as path, dspex.connect(path) as c:
        stream = c.stream("never")
        link = c._link
        assert link is not None

        def child() -> bool:
            result = c.call("m", {"n": 2}, timeout=TIMEOUT)
            c.close()
            return bool(result == {"n": 2})

        c._connecting.take([], None)  # as if another thread held this, and the lock, at the moment of the fork
        with link._lock:
            code = in_child(child)
        c._connecting.leave()
        assert code == 0
        assert c._link is link
        assert c.call("m", {"n": 1}) == {"n": 1}
        stream.close()


def test_a_call_in_flight_ends_in_the_child_and_goes_on_in_the_parent() -> None:
    asked, forked = threading.Event(), threading.Event()
    results: list[Any] = []

    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        asked.set()
        assert forked.wait(TIMEOUT)
        peer.answer(request, "done")
        assert peer.read() is None

    with serving(script) as path, dspex.connect(path) as c:
        thread = threading.Thread(target=lambda: results.append(c.call("m")))
        thread.start()
        assert asked.wait(TIMEOUT)
        link = c._link
        assert link is not None

        assert in_child(lambda: not link.core.calls and c._link is None) == 0
        forked.set()
        thread.join(TIMEOUT)
    assert results == ["done"]


def test_a_client_of_asyncio_in_a_forked_child() -> None:
    async def connected(path: str) -> dspex.AsyncClient:
        return await dspex.AsyncClient(path).connect()

    async def use(c: dspex.AsyncClient) -> Any:
        result = await c.call("m", {"n": 2}, timeout=TIMEOUT)
        await c.close()
        return result

    with serving(echo, echo) as path, asyncio.Runner() as runner:
        c = runner.run(connected(path))
        assert in_child(lambda: asyncio.run(use(c)) == {"n": 2}) == 0
        assert runner.run(use(c)) == {"n": 2}


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")  # the first loop was ended before the client
def test_a_client_of_asyncio_outlives_its_event_loop() -> None:
    async def call(c: dspex.AsyncClient) -> Any:
        return await c.call("m", {"n": 1})

    with serving(echo, echo) as path:
        c = dspex.AsyncClient(path)
        assert asyncio.run(call(c)) == {"n": 1}
        assert asyncio.run(call(c)) == {"n": 1}
        asyncio.run(c.close())


def test_a_client_of_asyncio_belongs_to_one_loop_at_a_time() -> None:
    async def call(c: dspex.AsyncClient) -> Any:
        return await c.call("m", {"n": 1})

    with serving(echo) as path, asyncio.Runner() as one, asyncio.Runner() as other:
        c = dspex.AsyncClient(path)
        assert one.run(call(c)) == {"n": 1}
        with pytest.raises(RuntimeError, match="another event loop"):
            other.run(call(c))
        assert one.run(call(c)) == {"n": 1}
        one.run(c.close())


# An interrupt between making a connection and noting it leaves the socket to the garbage collector, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_moment_leave_the_client_usable() -> None:
    """Ctrl-C may come between any two steps: other threads' calls go on, and so does the interrupted thread's next."""
    done = threading.Event()
    wrong: list[Any] = []
    turns = [0, 0]

    def work(c: dspex.Client, number: int) -> None:
        while not done.is_set():
            params = {"thread": number, "turn": turns[number], "pad": "x" * (turns[number] % 3000)}
            try:
                if c.call("m", params, timeout=TIMEOUT) != params:
                    wrong.append(params)
            except errors.ConnectionLost:
                pass  # an interrupt while sending or receiving costs the connection
            except Exception as error:  # noqa: BLE001 - the test's own thread shows it
                wrong.append(error)
                return
            turns[number] += 1

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with serving(*[often_left] * 500) as path:
        c = dspex.connect(path, timeout=TIMEOUT)
        threads = [threading.Thread(target=work, args=(c, number)) for number in range(2)]
        for thread in threads:
            thread.start()
        before = signal.signal(signal.SIGALRM, interrupt)
        interrupted = 0
        try:
            for turn in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-4))
                    while True:
                        c.call("m", {"main": turn})
                except KeyboardInterrupt:
                    interrupted += 1
                except errors.ConnectionLost:
                    pass
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert interrupted > 100
        assert c.call("m", {"n": 1}) == {"n": 1}
        at = list(turns)
        while any(now <= then for now, then in zip(turns, at, strict=True)) and not wrong:
            assert all(thread.is_alive() for thread in threads)
        done.set()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        c.close()
    assert not wrong


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_a_process_ends_without_close(kind: str) -> None:
    program = {
        "Client": "import dspex, sys; c = dspex.Client(sys.argv[1]); s = c.stream('s'); print(c.call('m', {'n': 1}))",
        "AsyncClient": """
import asyncio, dspex, sys
async def main():
    global c
    c = dspex.AsyncClient(sys.argv[1])
    print(await c.call('m', {'n': 1}))
asyncio.run(main())""",
    }[kind]
    with serving(echo) as path:
        ended = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "{'n': 1}\n", "")
