"""Real workers and servers, spoken to in frames."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
from dspex import wire

HERE = Path(__file__).parent
TIMEOUT = 20.0  # seconds after which a test has failed; nothing waits so long when all is well

HELLO: dict[str, Any] = {
    "protocols": [1],
    "features": [],
    "server": {"name": "test", "version": "0"},
    "worker": "worker_7",
    "pool": "default",
    "generation": 1,
    "concurrency": 8,
    "cancel_grace_ms": 2000,
    "tracebacks": False,
    "models": {},
}


class Connection:
    """Frames over a connected socket. Questions of the other side are answered, or kept, as `answers` says."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        self.socket = sock
        self.splitter = wire.FrameSplitter(64 << 20)
        self.messages: list[Any] = []  # received, not yet asked for
        self.answers: dict[str, Callable[[wire.Request], Any]] = {"call.unsafe": lambda _: {}}
        self.changes: list[wire.Change] = []
        self.next_id = 100

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def request(self, id: int, method: str, meta: dict[str, Any] | None = None, **params: Any) -> None:
        self.send(wire.encode_request(id, method, meta, params))

    def receive(self) -> Any:
        """The next message that has not been taken yet; None at the end of the connection."""
        while not self.messages:
            data = self.socket.recv(1 << 20)
            if not data:
                return None
            events = self.splitter.feed(data)
            messages = [wire.decode(event) for event in events if isinstance(event, bytes | bytearray)]
            self.changes += [message for message in messages if isinstance(message, wire.Change)]
            self.messages += messages
        return self.messages.pop(0)

    def until(self, wanted: Callable[[Any], bool]) -> Any:
        """The first message that is wanted; others are kept. Questions that `answers` has are answered."""
        kept: list[Any] = []
        while True:
            message = self.receive()
            assert message is not None, f"the connection ended; received before: {kept}"
            if isinstance(message, wire.Request) and message.method in self.answers:
                answer = self.answers[message.method](message)
                self.send(wire.encode_response(message.id, None, answer))
                continue
            if wanted(message):
                self.messages = kept + self.messages
                return message
            kept.append(message)

    def response(self, id: int) -> wire.Response:
        found = self.until(lambda message: isinstance(message, wire.Response) and message.id == id)
        assert isinstance(found, wire.Response)
        return found

    def question(self, method: str = "began") -> wire.Request:
        """The next request of the other side, answered with nil."""
        found = self.until(lambda message: isinstance(message, wire.Request) and message.method == method)
        assert isinstance(found, wire.Request)
        self.send(wire.encode_response(found.id, None, None))
        return found

    def items(self, id: int, count: int) -> list[Any]:
        """The next items of a stream."""
        return [
            self.until(lambda message: isinstance(message, wire.Item) and message.id == id).item for _ in range(count)
        ]

    def call(self, method: str, meta: dict[str, Any] | None = None, **params: Any) -> Any:
        """The result of a call; AssertionError where it failed."""
        response = self.outcome(method, meta, **params)
        assert response.error is None, response.error
        return response.result

    def error(self, method: str, meta: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
        """The error of a call that fails."""
        response = self.outcome(method, meta, **params)
        assert response.error is not None, response.result
        return response.error

    def outcome(self, method: str, meta: dict[str, Any] | None = None, **params: Any) -> wire.Response:
        self.next_id += 1
        self.request(self.next_id, method, meta, **params)
        return self.response(self.next_id)

    def notification(self) -> wire.Notification:
        found = self.until(lambda message: isinstance(message, wire.Notification))
        assert isinstance(found, wire.Notification)
        return found

    def close(self) -> None:
        self.socket.close()


class Process:
    """A Python process whose output is collected."""

    def __init__(self, *arguments: str, cwd: Path = HERE, fd: int | None = None, **environment: str) -> None:
        # Output must be there line by line without PYTHONUNBUFFERED.
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONUNBUFFERED", "DSPEX_SOCKET")}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**kept, **environment},
            pass_fds=() if fd is None else (fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.lines.append("<end of output>")
            self._news.notify_all()

    def line(self, text: str) -> str:
        """The first line of the output that holds the text; waits for it."""
        with self._news:
            found = self._news.wait_for(
                lambda: next((line for line in self.lines if text in line), None) or "<end of output>" in self.lines,
                TIMEOUT,
            )
        assert isinstance(found, str), f"{text!r} is not in the output: {self.lines}"
        return found

    def exit_code(self) -> int:
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Worker(Process, Connection):
    """A pool worker at the end of a socketpair."""

    def __init__(
        self, app: str = "application:app", script: tuple[str, ...] = ("-m", "dspex_worker"), **options: Any
    ) -> None:
        ours, theirs = socket.socketpair()
        arguments = (*script, *([app] if app else []), "--mode", "pool-worker", "--worker-id", "worker_7")
        Process.__init__(self, *arguments, fd=theirs.fileno(), DSPEX_WORKER_FD=str(theirs.fileno()), **options)
        theirs.close()
        Connection.__init__(self, ours)

    def hello(self, **changes: Any) -> wire.Response:
        self.request(1, "hello", None, **{**HELLO, **changes})
        return self.response(1)

    def ready(self, **changes: Any) -> Worker:
        response = self.hello(**changes)
        assert response.error is None, response.error
        return self

    def close(self) -> None:
        Connection.close(self)
        self.kill()


class Zygote(Process):
    """A process that forks workers."""

    def __init__(self, app: str = "application:app", **options: Any) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(TIMEOUT)
        arguments = ("-m", "dspex_worker", *([app] if app else []), "--mode", "zygote")
        super().__init__(*arguments, fd=theirs.fileno(), DSPEX_ZYGOTE_FD=str(theirs.fileno()), **options)
        theirs.close()
        self.first = self.receive()  # what it says of itself when it has loaded
        self._count = 0

    def receive(self) -> dict[str, Any]:
        packet = self.control.recv(1 << 16)
        assert packet, f"the zygote ended: {self.lines}"
        found: dict[str, Any] = msgpack.unpackb(packet)
        return found

    def ask(self, worker_id: str, *files: int) -> dict[str, Any]:
        """The answer to a request for a worker."""
        self._count += 1
        socket.send_fds(self.control, [msgpack.packb({"id": self._count, "worker": worker_id})], list(files))
        answer = self.receive()
        assert answer["id"] == self._count
        return answer

    def fork(self, worker_id: str = "worker_7") -> Forked:
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        answer = self.ask(worker_id, theirs.fileno(), write, write)
        theirs.close()
        os.close(write)
        return Forked(answer["pid"], ours, read)

    def close(self) -> None:
        self.control.close()
        self.kill()


class Forked(Connection):
    """A worker that a zygote forked: no child of this process."""

    def __init__(self, pid: int, channel: socket.socket, output: int) -> None:
        super().__init__(channel)
        self.pid = pid
        self._output = output

    def ready(self, **changes: Any) -> Forked:
        self.request(1, "hello", None, **{**HELLO, **changes})
        response = self.response(1)
        assert response.error is None, response.error
        return self

    def end(self) -> str:
        """Close the channel, and return all that the worker printed. The pipe's end is the worker's."""
        self.socket.close()
        with os.fdopen(self._output) as output:
            return output.read()


class Server(Process):
    """Stand-alone mode."""

    def __init__(self, folder: Path, *options: str, app: str = "application:app", **environment: Any) -> None:
        self.path = str(folder / "dspex.sock")
        super().__init__("-m", "dspex_worker", app, "--socket", self.path, *options, **environment)
        self._connections: list[Connection] = []
        self.line("serving")

    def connect(self, hello: dict[str, Any] | None = None) -> Connection:
        """A connection that has said hello; with an empty map, one that has not."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect(self.path)
        connection = Connection(sock)
        self._connections.append(connection)
        if hello != {}:
            params = {"protocols": [1], "features": [], "client": {"name": "test", "version": "1"}, **(hello or {})}
            connection.call("hello", None, **params)
        return connection

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self.kill()
