"""A server on a real Unix socket that does what a test's script says, and one way to drive both clients."""

from __future__ import annotations

import asyncio
import inspect
import pathlib
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import dspex
from dspex import wire

TIMEOUT = 20.0
WELCOME = {"protocol": 1, "features": [], "server": {"name": "scripted", "version": "0"}, "max_in_flight": 1024}


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(TIMEOUT)
        self._splitter = wire.FrameSplitter(64 << 20)
        self._events: list[wire.Event] = []

    def read(self) -> Any:
        """The next message; None at end of file."""
        while not self._events:
            data = self.sock.recv(1 << 20)
            if not data:
                return None
            self._events += self._splitter.feed(data)
        event = self._events.pop(0)
        assert isinstance(event, bytes | bytearray)
        return wire.decode(event)

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def greet(self, **more: Any) -> wire.Request:
        """Answer `hello`."""
        hello = self.read()
        assert isinstance(hello, wire.Request)
        assert hello.method == "hello"
        self.send(wire.encode_response(hello.id, None, {**WELCOME, "max_frame": 16 << 20, "connection": "c", **more}))
        return hello

    def answer(self, request: wire.Request, result: Any = None, **meta: Any) -> None:
        self.send(wire.encode_response(request.id, meta, result))

    def fail(self, request: wire.Request, code: str, **more: Any) -> None:
        error = {"code": code, "message": "as scripted", "retryable": False, "details": None, **more}
        self.send(wire.encode_error(request.id, None, error))

    def ask(self, id: int, method: str, call: wire.Request, params: dict[str, Any] | None = None) -> None:
        """Ask the client for what a worker that runs `call` asks."""
        self.send(wire.encode_request(id, method, {"call": call.id}, params))

    def answered(self, id: int) -> Any:
        """The next message, which has to be the answer to an ask: its result, or its error's code."""
        message = self.read()
        assert isinstance(message, wire.Response), message
        assert message.id == id
        return message.result if message.error is None else message.error["code"]

    def echo(self) -> None:
        """Answer every request with its params, until the client leaves."""
        while (message := self.read()) is not None:
            if isinstance(message, wire.Request):
                self.answer(message, message.params)


Script = Callable[[Peer], None]


@contextmanager
def serving(*scripts: Script) -> Iterator[str]:
    """The path of a server whose n-th connection goes by the n-th script. Errors of scripts are raised at the end."""
    errors: list[BaseException] = []
    sockets: list[socket.socket] = []

    def run(script: Script, sock: socket.socket) -> None:
        try:
            with sock:
                script(Peer(sock))
        except BaseException as error:  # noqa: BLE001 - raised again by the test's own thread
            errors.append(error)

    def accept(listener: socket.socket) -> None:
        threads = []
        for script in scripts:
            try:
                sock, _ = listener.accept()
            except OSError:
                break
            sockets.append(sock)
            threads.append(threading.Thread(target=run, args=(script, sock)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    with tempfile.TemporaryDirectory(prefix="dspex") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = str(pathlib.Path(folder, "s"))
        listener.bind(path)
        listener.listen()
        acceptor = threading.Thread(target=accept, args=(listener,))
        acceptor.start()
        try:
            yield path
        finally:
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            acceptor.join(TIMEOUT)
            assert not acceptor.is_alive(), "a script waits for something that does not come"
    if errors:
        raise errors[0]


TWINS: dict[type, type] = {
    dspex.Client: dspex.AsyncClient,
    dspex.Caller: dspex.AsyncCaller,
    dspex.Session: dspex.AsyncSession,
    dspex.Program: dspex.AsyncProgram,
    dspex.Stream: dspex.AsyncStream,
}


class InThread:
    """The client for threads, with the surface of the one for asyncio: each call runs in a thread."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._twin = next(twin for kind, twin in TWINS.items() if isinstance(inner, kind))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found
        if not inspect.iscoroutinefunction(getattr(self._twin, name)):
            return lambda *args, **kwargs: wrap(found(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return wrap(await asyncio.to_thread(found, *args, **kwargs))

        return call

    async def __call__(self, **inputs: Any) -> Any:
        return await asyncio.to_thread(self.inner, **inputs)

    async def __aenter__(self) -> InThread:
        await asyncio.to_thread(self.inner.__enter__)
        return self

    async def __aexit__(self, *args: object) -> None:
        await asyncio.to_thread(self.inner.__exit__, *args)

    def __aiter__(self) -> InThread:
        return self

    async def __anext__(self) -> Any:
        end = object()
        item = await asyncio.to_thread(next, self.inner, end)
        if item is end:
            raise StopAsyncIteration
        return item


def wrap(value: Any) -> Any:
    return InThread(value) if isinstance(value, tuple(TWINS)) else value


def client(kind: str, path: str, **options: Any) -> Any:
    """A client that is driven as an AsyncClient is, whichever it is."""
    if kind == "asyncio":
        return dspex.AsyncClient(path, **options)
    return InThread(dspex.Client(path, **options))


def drive(scenario: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(TIMEOUT):
            await scenario

    asyncio.run(within())
