"""What happens around a client: forks, event loops that end, interrupts, processes that just end."""

from __future__ import annotations

import asyncio
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import dspex
import pytest
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


# The first loop was ended before the client: Python rightly says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
def test_a_client_of_asyncio_outlives_its_event_loop() -> None:
    async def call(c: dspex.AsyncClient) -> Any:
        return await c.call("m", {"n": 1})

    with serving(echo, echo, echo) as path:
        c = dspex.AsyncClient(path)
        assert asyncio.run(call(c)) == {"n": 1}
        assert asyncio.run(call(c)) == {"n": 1}
        asyncio.run(c.close())
        asyncio.run(call(d := dspex.AsyncClient(path)))
        asyncio.run(d.close())  # closed in another loop than the one that it was connected in
        gc.collect()


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


def test_interrupts_at_any_moment_leave_the_client_usable() -> None:
    """Ctrl-C may come between any two steps: other threads' calls go on, and so does the interrupted thread's next."""
    # In a process of its own: pytest does not like to be interrupted at any moment.
    with serving(*[often_left] * 500) as path:
        ended = subprocess.run(
            [sys.executable, pathlib.Path(__file__).with_name("interrupted.py"), path],
            capture_output=True,
            text=True,
            timeout=3 * TIMEOUT,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr


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
