"""An OpenAI-compatible HTTP server for tests: the LM's side of the real HTTP path, with answers and faults by script.

The server runs in a thread of its own on 127.0.0.1. Each request to ``/v1/chat/completions`` takes the next ``Reply``
of its script, or else what ``answer`` makes of the request's body. What it saw is in ``requests`` and ``disconnects``.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

WAIT = 10.0  # seconds that a test waits for an event before it fails


@dataclass(frozen=True)
class Reply:
    """One answer. ``status`` other than 200 is an error in OpenAI's form."""

    text: str = ""
    status: int = 200
    message: str = ""  # of an error
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: tuple[int, int] = (7, 5)  # prompt and completion tokens
    pieces: tuple[str, ...] | None = None  # of a stream; None: words of ``text``
    pause: float = 0.0  # seconds before each piece of a stream, and before a plain answer or an error
    hang_after: int | None = None  # pieces (0: the answer's head) after which nothing more comes until the peer leaves
    cut_after: int | None = None  # pieces after which the connection is dropped
    code: str | None = None  # of an error, as OpenAI has it
    raw: str | None = None  # sent as the whole body of an answer, whatever it is


@dataclass(frozen=True)
class Seen:
    """A request as the server read it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        """The bearer token."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def prompt(self) -> str:
        """The text of all messages."""
        return "\n".join(str(message["content"]) for message in self.body["messages"])


def chat_answer(**fields: object) -> str:
    """The fields in the form that DSPy's chat adapter parses."""
    marked = [f"[[ ## {name} ## ]]\n{_text(value)}" for name, value in fields.items()]
    return "\n\n".join([*marked, "[[ ## completed ## ]]"])


def json_answer(**fields: object) -> str:
    """The fields in the form that DSPy's JSON adapter parses."""
    return json.dumps(fields, ensure_ascii=False)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class OpenAIServer:
    """Use as a context manager; ``base`` is the address for ``api_base``."""

    def __init__(self, *script: Reply, answer: Callable[[Seen], Reply | str] | None = None) -> None:
        self.script = list(script)
        self.answer = answer
        self.requests: list[Seen] = []
        self.connections = 0  # open at this moment
        self.disconnects = 0  # peers that left before their answer was complete
        self.in_flight = 0  # requests that are being answered
        self.most = 0  # of those there were
        self._changed = threading.Condition()  # guards the six above
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="openai-server")
        self._started = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        assert self._started.wait(WAIT), "the fake LM server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT)
        assert not self._thread.is_alive()

    def wait_for(self, condition: Callable[[OpenAIServer], bool], timeout: float = WAIT) -> bool:
        """True as soon as ``condition(self)`` holds, False when it does not within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._note(connections=1)
        try:
            while (seen := await self._read(reader)) is not None:
                self._note(in_flight=1)
                try:
                    await self._count()
                    if not await self._respond(seen, reader, writer):
                        break
                finally:
                    self._note(in_flight=-1)
        except (ConnectionError, asyncio.IncompleteReadError):
            self._note(disconnects=1)
        except asyncio.CancelledError:
            pass  # the server is being stopped
        finally:
            self._tasks.discard(task)
            writer.close()
            self._note(connections=-1)

    async def _count(self) -> None:
        """Count the requests in flight. Peers that the kernel knows to be gone are noticed first."""
        for _ in range(6):
            await asyncio.sleep(0)
        with self._changed:
            self.most = max(self.most, self.in_flight)

    def _note(self, connections: int = 0, disconnects: int = 0, in_flight: int = 0) -> None:
        with self._changed:
            self.connections += connections
            self.disconnects += disconnects
            self.in_flight += in_flight
            self._changed.notify_all()

    async def _read(self, reader: asyncio.StreamReader) -> Seen | None:
        first = await reader.readline()
        if not first:
            return None
        path = first.split()[1].decode()
        headers = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        seen = Seen(path, headers, json.loads(body) if body else {})
        with self._changed:
            self.requests.append(seen)
            self._changed.notify_all()
        return seen

    def _reply(self, seen: Seen) -> Reply:
        with self._changed:
            if self.script:
                return self.script.pop(0)
        if self.answer is None:
            return Reply(status=500, message="the test's script has no more replies")
        reply = self.answer(seen)
        return Reply(reply) if isinstance(reply, str) else reply

    async def _respond(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False ends the connection."""
        reply = self._reply(seen)
        if reply.status != 200:
            if reply.pause:
                await self._pause(reader, reply.pause)
            error = {"error": {"message": reply.message, "type": "error", "code": reply.code}}
            await self._plain(writer, reply, error)
            return True
        if reply.raw is not None:
            body = reply.raw.encode()
            writer.write(_head(reply, "application/json", {"Content-Length": str(len(body))}) + body)
            await writer.drain()
            return True
        if seen.body.get("stream"):
            return await self._stream(seen, reply, reader, writer)
        if reply.hang_after is not None:
            await self._hang(reader)
        if seen.path.endswith("/embeddings"):
            await self._pause(reader, reply.pause)
            await self._plain(writer, reply, _embeddings(seen))
            return True
        if reply.pause:
            await self._pause(reader, reply.pause)
        if reply.cut_after is not None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
            await writer.drain()
            return False
        choice = {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": "stop"}
        await self._plain(writer, reply, _completion(seen, reply) | {"choices": [choice]})
        return True

    async def _plain(self, writer: asyncio.StreamWriter, reply: Reply, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        writer.write(_head(reply, "application/json", {"Content-Length": str(len(body)), **reply.headers}) + body)
        await writer.drain()

    async def _pause(self, reader: asyncio.StreamReader, seconds: float) -> None:
        gone = asyncio.ensure_future(reader.read(1))
        done, _ = await asyncio.wait([gone], timeout=seconds)
        if done:
            raise ConnectionResetError
        gone.cancel()
        await asyncio.wait([gone])

    async def _hang(self, reader: asyncio.StreamReader) -> None:
        await reader.read(1)  # returns when the peer leaves
        raise ConnectionResetError

    async def _stream(
        self, seen: Seen, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(_head(reply, "text/event-stream", {"Transfer-Encoding": "chunked", **reply.headers}))
        pieces = reply.pieces if reply.pieces is not None else _words(reply.text)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            for count, piece in enumerate(pieces):
                if reply.hang_after == count:
                    await gone
                    raise ConnectionResetError
                if reply.cut_after == count:
                    return False
                await asyncio.sleep(reply.pause)
                if gone.done():
                    raise ConnectionResetError
                await _event(writer, _chunk(seen, reply, {"content": piece}))
            await _event(writer, _chunk(seen, reply, {}, finish="stop"))
            await _event(writer, _completion(seen, reply) | {"object": "chat.completion.chunk", "choices": []})
            writer.write(_framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            await writer.drain()
        finally:
            gone.cancel()
        return False


def _head(reply: Reply, kind: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} Scripted", f"Content-Type: {kind}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _completion(seen: Seen, reply: Reply) -> dict[str, Any]:
    prompt, completion = reply.usage
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": seen.body.get("model"),
        "usage": usage,
    }


def _embeddings(seen: Seen) -> dict[str, Any]:
    """Vectors that say how often each of five letters is in a text; in another order than they were asked for."""
    texts = seen.body["input"]
    rows = [{"index": n, "embedding": [float(text.count(c)) for c in "abcde"]} for n, text in enumerate(texts)]
    tokens = sum(len(text.split()) for text in texts)
    return {"object": "list", "data": rows[::-1], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _chunk(seen: Seen, reply: Reply, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    chunk = _completion(seen, reply) | {"object": "chat.completion.chunk"}
    chunk["usage"] = None
    return chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


async def _event(writer: asyncio.StreamWriter, content: dict[str, Any]) -> None:
    writer.write(_framed(b"data: " + json.dumps(content).encode() + b"\n\n"))
    await writer.drain()


def _framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _words(text: str) -> tuple[str, ...]:
    return tuple(piece for word in text.split(" ") for piece in (word, " "))[:-1]
