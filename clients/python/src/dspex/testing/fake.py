"""A sidecar that answers by functions of the test. Threads serve it: one a connection, and one a call."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from dspex import wire
from dspex._sync.runtime import invoke
from dspex.cancel import CancelToken
from dspex.errors import (
    Cancelled,
    ConnectionLost,
    DspexError,
    InvalidParams,
    ProgramNotFound,
    SessionExists,
    SessionNotFound,
    UnknownMethod,
    error_from_wire,
)
from dspex.offers import offered_error

from .peer import Peer

FakeMethod = Callable[[Any, "FakeCall"], Any]
"""A method, plain or async: `(params, call)`. What it returns is the answer, what it raises is the error. A generator,
plain or async, answers a stream; what a plain one returns is the stream's result."""

_META: Final = {"worker": "fake"}
_BREATH: Final = 5.0  # seconds that `close` waits for a method that does not heed its end


class Seen(NamedTuple):
    """A request that came, as the test may look at it."""

    method: str
    params: dict[str, Any]
    meta: dict[str, Any]


class FakeCall:
    """What a method is told beside its parameters.

    Attributes:
        method: the name that it was called by.
        meta: the request's: `session`, `timeout_ms` and so on, as docs/protocol.md tells.
    """

    def __init__(
        self, served: _Served, request: wire.Request, state_of: Callable[[str | None], dict[str, Any]]
    ) -> None:
        self.method = request.method
        self.meta = request.meta
        self._state_of = state_of
        self.token = CancelToken()
        self._served = served
        self._id = request.id
        self._credit = request.meta.get("stream", 0)
        self._changed = threading.Condition()  # guards _credit
        self._ended = threading.Event()

    @property
    def state(self) -> dict[str, Any]:
        """The state of the call's session, to read and to change; of a call without one, an empty map."""
        return self._state_of(self.meta.get("session"))

    @property
    def cancelled(self) -> bool:
        """Whether the client has cancelled the call, or has left."""
        return self._ended.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Until the client cancels, or leaves, and so long at most; whether it has."""
        return self._ended.wait(seconds)

    def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a function that the client offers, as a worker does. In an async method: by `asyncio.to_thread`."""
        if self.cancelled:
            raise Cancelled("cancelled")
        return self._served.ask(self._id, method, params)

    def _end(self) -> None:
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        self.token.cancel()

    def _grant(self, n: int) -> None:
        with self._changed:
            self._credit += n
            self._changed.notify_all()

    def _send_item(self, item: Any) -> None:
        """Once there is credit for it. Raises Cancelled where the call has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._credit > 0 or self.cancelled)
            if self.cancelled:
                raise Cancelled("cancelled")
            self._credit -= 1
        self._served.peer.send(wire.encode_item(self._id, item))


class _Served:
    """One connection of a client."""

    def __init__(self, sock: socket.socket) -> None:
        self.peer = Peer(sock)
        self.calls: dict[int, FakeCall] = {}
        self._lock = threading.Lock()  # guards what follows
        self._asked: dict[int, tuple[int, threading.Event, list[wire.Response]]] = {}  # for which call
        self._asks = 0
        self._left = False

    def ask(self, call: int, method: str, params: Mapping[str, Any] | None) -> Any:
        answered: list[wire.Response] = []
        event = threading.Event()
        with self._lock:
            if self._left:
                raise ConnectionLost("the client has left")
            self._asks += 1
            number = self._asks
            self._asked[number] = call, event, answered
        self.peer.send(wire.encode_request(number, method, {"call": call}, params))
        event.wait()
        if not answered:
            raise ConnectionLost("the client has left")
        if (error := answered[0].error) is not None:
            raise error_from_wire(error)
        return answered[0].result

    def answered(self, response: wire.Response) -> None:
        with self._lock:
            _, event, answered = self._asked.pop(response.id, (0, threading.Event(), []))
        answered.append(response)
        event.set()

    def cancel_asks(self, call: int) -> None:
        """The call has ended: the client is to stop what it was asked for it, and answers so."""
        with self._lock:
            asked = [number for number, (of, _, _) in self._asked.items() if of == call]
        for number in asked:
            self.peer.send(wire.encode_cancel(number))

    def end(self) -> None:
        """The client has left, or is made to."""
        with self._lock:
            self._left = True
            asked, self._asked = self._asked, {}
        for _, event, _ in asked.values():
            event.set()
        for call in list(self.calls.values()):
            call._end()
        self.drop()

    def drop(self) -> None:
        try:
            self.peer.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has left
            pass


class FakeSidecar:
    """A sidecar without workers. Use it as a context manager, or close it.

    Sessions are kept in memory, made by `session.create` or by the first call in them.

    Args:
        methods: by name; one of the sidecar's own names takes the place of what the fake has.
        programs: what `execute_program` runs: the inputs by name, and the outputs.

    Attributes:
        path: its socket, for `dspex.connect(path)`, or DSPEX_SOCKET.
        requests: all requests so far but `hello`, in order.
    """

    def __init__(
        self,
        methods: Mapping[str, FakeMethod] | None = None,
        programs: Mapping[str, FakeMethod] | None = None,
    ) -> None:
        self.requests: list[Seen] = []
        self._methods: dict[str, FakeMethod] = {**self._own(), **(methods or {})}
        self._programs = dict(programs or {})
        self._lock = threading.Lock()  # guards what follows
        self._sessions: dict[str, dict[str, Any]] = {}
        self._served: set[_Served] = set()
        self._threads: set[threading.Thread] = set()
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="dspex-")
        self.path = str(Path(self._folder.name, "s"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._start(self._accept)

    def method(self, name: str, method: FakeMethod) -> None:
        """Give a method another behaviour from now on."""
        self._methods[name] = method

    def program(self, id: str, program: FakeMethod) -> None:
        """The same for a program."""
        self._programs[id] = program

    def goaway(self) -> None:
        """Tell all clients that it drains: they go on over new connections."""
        for served in self._connections():
            served.peer.send(wire.encode_notification("goaway", {"reason": "test", "drain_ms": 1000}))

    def disconnect(self) -> None:
        """Cut all connections: calls in flight are lost."""
        for served in self._connections():
            served.drop()

    def close(self) -> None:
        """End all connections and methods, and remove the socket."""
        with self._lock:
            self._closed = True
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.disconnect()
        while threads := self._threads - {threading.current_thread()}:
            for thread in threads:
                thread.join(_BREATH)
                with self._lock:
                    self._threads.discard(thread)
        self._listener.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connections(self) -> list[_Served]:
        with self._lock:
            return list(self._served)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            try:
                work(*args)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="dspex-fake", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed
                return
            served = _Served(sock)
            with self._lock:
                if self._closed:
                    sock.close()
                    return
                self._served.add(served)
            self._start(self._serve, served)

    def _serve(self, served: _Served) -> None:
        with served.peer.sock:
            try:
                served.peer.greet()
                while (message := served.peer.read()) is not None:
                    self._take(served, message)
            except (OSError, ValueError, DspexError):
                pass  # whoever does not keep to the protocol is no client
            finally:
                with self._lock:
                    self._served.discard(served)
                served.end()

    def _take(self, served: _Served, message: wire.Message) -> None:
        match message:
            case wire.Request(id, method, meta, params):
                self.requests.append(Seen(method, params, meta))
                served.calls[id] = call = FakeCall(served, message, self._state_of)
                self._start(self._run, served, id, call, params)
            case wire.Response():
                served.answered(message)
            case wire.Cancel(id, _) if (found := served.calls.pop(id, None)) is not None:
                found._end()  # first: the client may have left, and then nothing can be sent
                served.peer.send(wire.encode_error(id, _META, Cancelled("cancelled").to_wire()))
                served.cancel_asks(id)
            case wire.Credit(id, n) if (found := served.calls.get(id)) is not None:
                found._grant(n)

    def _state_of(self, session: str | None) -> dict[str, Any]:
        if session is None:
            return {}
        with self._lock:
            return self._sessions.setdefault(session, {})

    def _run(self, served: _Served, id: int, call: FakeCall, params: dict[str, Any]) -> None:
        """One call, from its method to its answer; where it was cancelled, it has been answered."""
        try:
            frame = wire.encode_response(id, _META, self._result(call, params))
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the answer
            frame = wire.encode_error(id, _META, offered_error(error).to_wire())
        if served.calls.pop(id, None) is not None:
            try:
                served.peer.send(frame)
            except OSError:  # it has left
                pass

    def _result(self, call: FakeCall, params: dict[str, Any]) -> Any:
        method = self._methods.get(call.method)
        if method is None:
            raise UnknownMethod(f"the fake has no method {call.method!r}")
        result = invoke(method, params, call, call.token)
        items = isinstance(result, Iterator | AsyncIterator)
        streams = "stream" in call.meta
        if items != streams and call.method != "execute_program":
            raise InvalidParams(f"{call.method!r} {'streams: call it with client.stream' if items else 'is no stream'}")
        if isinstance(result, AsyncIterator):
            return asyncio.run(self._async_items(call, result, streams))
        return self._items(call, result, streams) if isinstance(result, Iterator) else result

    def _items(self, call: FakeCall, items: Iterator[Any], streams: bool) -> Any:
        while True:
            try:
                item = next(items)
            except StopIteration as end:
                return end.value
            if streams:
                call._send_item(item)

    async def _async_items(self, call: FakeCall, items: AsyncIterator[Any], streams: bool) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        with call.token.attached(lambda: loop.call_soon_threadsafe(task.cancel)):
            async for item in items:
                if streams:
                    await asyncio.to_thread(call._send_item, item)

    def _own(self) -> dict[str, FakeMethod]:
        """What the sidecar itself answers."""
        return {
            "ping": lambda _, __: {},
            "session.create": self._create,
            "session.get": self._get,
            "session.update": self._update,
            "session.reset": self._reset,
            "session.end": self._end,
            "create_program": lambda params, _: {"program": params.get("id") or str(uuid.uuid4())},
            "configure_lm": lambda params, _: params,
            "execute_program": self._execute,
        }

    def _create(self, params: dict[str, Any], _: FakeCall) -> dict[str, Any]:
        session = params.get("session") or str(uuid.uuid4())
        with self._lock:
            if session in self._sessions:
                raise SessionExists(f"there is a session {session!r}")
            self._sessions[session] = dict(params.get("state") or {})
        return {"session": session}

    def _named(self, params: dict[str, Any], call: FakeCall) -> str:
        name = str(params.get("session", call.meta.get("session")))
        if name not in self._sessions:
            raise SessionNotFound(f"no session {name!r}")
        return name

    def _get(self, params: dict[str, Any], call: FakeCall) -> dict[str, Any]:
        name = self._named(params, call)
        return {"session": name, "state": self._state_of(name), "labels": {}}

    def _update(self, params: dict[str, Any], call: FakeCall) -> dict[str, Any]:
        name = self._named(params, call)
        state = self._state_of(name)
        state.update(params.get("set") or {})
        for key in params.get("delete") or ():
            state.pop(key, None)
        return {"session": name, "version": 1}

    def _reset(self, params: dict[str, Any], call: FakeCall) -> dict[str, Any]:
        name = self._named(params, call)
        self._sessions[name] = {}
        return {"session": name}

    def _end(self, params: dict[str, Any], call: FakeCall) -> dict[str, Any]:
        name = self._named(params, call)
        del self._sessions[name]
        return {"session": name}

    def _execute(self, params: dict[str, Any], call: FakeCall) -> Any:
        program = self._programs.get(params["program"])
        if program is None:
            raise ProgramNotFound(f"no program {params['program']!r}")
        return program(params.get("inputs") or {}, call)
