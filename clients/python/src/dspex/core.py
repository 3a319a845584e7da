"""One connection of a client, without its socket: bytes in, calls settled, bytes out.

The two shells (`_sync.link` with threads, `_async.link` with asyncio) own a socket each and hold a `Core`; all that is
known of the protocol from a client's side is here. A `Core` is not thread-safe: its shell sees to that.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from . import wire
from .cancel import CancelToken
from .errors import Cancelled, ConnectionLost, DspexError, FrameTooLarge, InvalidFrame, error_from_wire


class Reply(NamedTuple):
    """What a call returned, and what the sidecar says of it: `worker`, `queue_us`, `run_us`, `usage`, `app`."""

    result: Any
    meta: dict[str, Any]


class Call:
    """A request in flight. `wake` is for the shell, which is to tell whoever waits that something changed."""

    __slots__ = ("credit", "done", "error", "id", "items", "method", "reply", "session")

    def __init__(self, method: str, credit: int = 0) -> None:
        self.id = 0
        self.method = method
        self.session: str | None = None  # that it runs in
        self.credit = credit  # items that the other side may still send
        self.items: deque[Any] = deque()
        self.done = False  # settled, by a response or without one
        self.reply: Reply | None = None
        self.error: DspexError | None = None

    def wake(self) -> None:
        """Called when `done` or `items` changed."""

    def ready(self) -> bool:
        """Whether there is something to take: the outcome, or an item."""
        return self.done or bool(self.items)

    def settle(self, reply: Reply | None, error: DspexError | None) -> None:
        """The outcome; what comes later changes nothing."""
        if not self.done:
            self.reply = reply
            self.error = error
            self.done = True
        self.wake()  # also where it was settled before: an interrupt may have come between the two

    def outcome(self) -> Reply:
        """What the call returned. Raises the error that it ended with."""
        if self.reply is not None:
            return self.reply
        assert self.error is not None, "the call is not settled"
        raise self.error


class Ask:
    """A request of the sidecar's, for a worker that serves one of this client's calls.

    Attributes:
        session: that call's.
        ended: why the answer is wanted no more; None while it is.
        token: for the shell, which is to cancel it when `ended` was set.
    """

    __slots__ = ("ended", "id", "method", "params", "session", "token")

    def __init__(self, id: int, method: str, params: dict[str, Any], session: str | None) -> None:
        self.id = id
        self.method = method
        self.params = params
        self.session = session
        self.ended: DspexError | None = None
        self.token = CancelToken()


_LONGEST_REPORT: Final = 60.0  # seconds; a client waits no longer, whatever it was told


class State(Enum):
    GREETING = "greeting"
    READY = "ready"
    LEAVING = "leaving"  # the sidecar said goaway: calls in flight finish, new ones go elsewhere
    CLOSED = "closed"


_NEXT: Final[Mapping[State, frozenset[State]]] = {
    State.GREETING: frozenset({State.READY, State.CLOSED}),
    State.READY: frozenset({State.LEAVING, State.CLOSED}),
    State.LEAVING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Core:
    """The state of one connection.

    Attributes:
        state: see `State`.
        calls: what is in flight, by id; calls that were given up stay until their response comes.
        outgoing: frames to send, in order.
        asks: what the sidecar asked and was not answered, by its own ids.
        news: those that came, or ended, since the shell last took them.
        ignored: frames that belonged to nothing.
        stop_report: seconds past a call's deadline that the sidecar may take to tell how it ended.
    """

    def __init__(self, max_frame: int = wire.DEFAULT_FRAME) -> None:
        self.state = State.GREETING
        self.calls: dict[int, Call] = {}
        self.outgoing: list[bytes] = []
        self.asks: dict[int, Ask] = {}
        self.news: list[Ask] = []
        self.ignored = 0
        self.splitter = wire.FrameSplitter(max_frame)
        self.server: dict[str, Any] = {}
        self.stop_report = 0.0
        self._peer_limit = wire.MIN_FRAME_LIMIT
        self._last_id = 0
        self._orphans: deque[Call] = deque()
        self._complaint = ""  # the last protocol_error that named no call

    # Calls

    def greeting(self, hello: Mapping[str, Any]) -> dict[str, Any]:
        """The params of `hello`, of which `hello` holds `client` and `token`."""
        return {"protocols": [wire.PROTOCOL], "features": [], "max_frame": self.splitter.max_frame, **hello}

    def welcome(self, call: Call) -> None:
        """Take the answer to `hello`. Raises the error that it was."""
        answer = call.outcome().result
        limit = answer.get("max_frame", wire.DEFAULT_FRAME) if isinstance(answer, dict) else None
        if type(limit) is not int or limit < wire.MIN_FRAME_LIMIT or answer.get("protocol") != wire.PROTOCOL:
            raise InvalidFrame("the answer to hello is not one of protocol 1")
        self._peer_limit = limit
        stop_report = answer.get("stop_report_ms")
        if type(stop_report) is int and stop_report > 0:
            self.stop_report = min(stop_report / 1000, _LONGEST_REPORT)
        self.server = answer
        if self.state is State.GREETING:  # else it said goaway, or left, in the same breath
            self._move(State.READY)

    def request(self, call: Call, meta: Mapping[str, Any] | None, params: Any) -> None:
        """Register `call`; its frame is in `outgoing`.

        Raises ConnectionLost, NotSerializable, FrameTooLarge; then nothing is registered.
        """
        if self.state is State.CLOSED:
            raise ConnectionLost("the connection is closed")
        id = self._last_id + 1
        frame = self._fitting(wire.encode_request(id, call.method, meta, params), "the request")
        self._last_id = call.id = id
        call.session = meta.get("session") if meta else None
        self.calls[id] = call
        while self._orphans:
            self.cancel(self._orphans.popleft())
        self.outgoing.append(frame)

    def cancel(self, call: Call, error: DspexError | None = None) -> None:
        """Give up on a call: it is settled here and now, and its id stays reserved until the response comes."""
        if call.done:
            return
        if self.calls.get(call.id) is call:
            self.outgoing.append(wire.encode_cancel(call.id))
        call.settle(None, error or Cancelled("cancelled by the caller", details={"ended_by": "caller"}))

    def orphan(self, call: Call) -> None:
        """Nobody will ever ask for this call again: cancel it when something is sent next. Safe from a finaliser."""
        self._orphans.append(call)

    def grant(self, call: Call, n: int) -> None:
        """Let a stream go on by `n` items, if it has not ended."""
        if not call.done:
            call.credit += n
            self.outgoing.append(wire.encode_credit(call.id, n))

    def respond(self, ask: Ask, result: Any, error: DspexError | None) -> None:
        """Answer, unless the answer is wanted no more. What cannot be sent is answered with the error that says so."""
        if self.asks.get(ask.id) is not ask:
            return
        try:
            if error is None:
                frame = self._fitting(wire.encode_response(ask.id, None, result), "the answer")
            else:
                frame = self._fitting(wire.encode_error(ask.id, None, error.to_wire()), "the error")
        except DspexError as failed:
            frame = wire.encode_error(ask.id, None, failed.to_wire() | {"details": None} if error else failed.to_wire())
        del self.asks[ask.id]
        self.outgoing.append(frame)

    def take_news(self) -> list[Ask]:
        """Asks that came, and those that ended since: `ended` tells which."""
        news, self.news = self.news, []
        return news

    def take_outgoing(self) -> bytes:
        """All frames to send, in order."""
        frames, self.outgoing = self.outgoing, []
        return frames[0] if len(frames) == 1 else b"".join(frames)

    # What arrives

    def receive(self, data: bytes | memoryview) -> None:
        """Take received bytes. Afterwards `outgoing` may hold frames, and `state` may be CLOSED."""
        self.handle(self.splitter.feed(data))

    def handle(self, events: Iterable[wire.Event]) -> None:
        """Take what the splitter found."""
        for event in events:
            if self.state is State.CLOSED:
                return
            if isinstance(event, wire.TooLong):
                self._too_long(event)
                continue
            try:
                if isinstance(event, wire.StructureError):
                    raise event
                message = wire.decode(event)
            except wire.StructureError as error:
                self.close(ConnectionLost(f"the sidecar broke the protocol: {error}"))
            except (wire.EnvelopeError, wire.ContentError) as error:
                self._unreadable(error)
            else:
                self._message(message)

    def close(self, error: DspexError) -> None:
        """The connection has ended, or is to end: settle all that is in flight.

        What an interrupt left undone is done when this is called again.
        """
        if self.state is not State.CLOSED:
            self._move(State.CLOSED)
        while self.calls:
            id, call = next(iter(self.calls.items()))
            call.settle(None, error)
            self.calls.pop(id, None)
        while self.asks:
            self._ask_ended(next(iter(self.asks)), error)

    def end_of_file(self) -> None:
        """The other side has closed the connection."""
        said = f" after it said: {self._complaint}" if self._complaint else ""
        self.close(ConnectionLost(f"the sidecar closed the connection{said}"))

    def _message(self, message: wire.Message) -> None:
        match message:
            case wire.Response(id, meta, error, result):
                if error is None:
                    self._settle(id, Reply(result, meta), None)
                else:
                    failed = error_from_wire(error)
                    failed.meta = meta
                    self._settle(id, None, failed)
            case wire.Item(id, _, item):
                self._item(id, item)
            case wire.Notification(method, _, params):
                self._notification(method, params)
            case wire.Request(id, method, meta, params) if id not in self.asks:
                serves = meta.get("call")
                call = self.calls.get(serves) if type(serves) is int else None
                self.asks[id] = ask = Ask(id, method, params, call.session if call is not None else None)
                self.news.append(ask)
            case wire.Cancel(id, reason) if id in self.asks:
                ended = Cancelled(reason or "the call that asks has ended", details={"ended_by": "caller"})
                self.outgoing.append(wire.encode_error(id, None, ended.to_wire()))
                self._ask_ended(id, ended)
            case _:
                self.ignored += 1

    def _ask_ended(self, id: int, error: DspexError) -> None:
        ask = self.asks[id]
        ask.ended = error
        self.news.append(ask)
        del self.asks[id]

    def _unreadable(self, error: wire.EnvelopeError | wire.ContentError) -> None:
        """A frame came that breaks the rules: what it belongs to hears of it, where that can be told."""
        id, kind = error.id, error.kind
        invalid = InvalidFrame(f"what came cannot be read: {error}")
        if id is None:
            self.ignored += 1
        elif kind == wire.Kind.REQUEST and isinstance(error, wire.ContentError):
            self.outgoing.append(wire.encode_error(id, None, invalid.to_wire()))
        elif kind == wire.Kind.RESPONSE:
            self._settle(id, None, invalid)
        elif kind == wire.Kind.ITEM and id in self.calls:
            self.cancel(self.calls[id], invalid)  # its response is still to come
        else:
            self.ignored += 1

    def _settle(self, id: int | None, reply: Reply | None, error: DspexError | None) -> None:
        call = self.calls.get(id) if id is not None else None
        if call is None:
            self.ignored += 1
        else:
            call.settle(reply, error)  # before it is forgotten: an interrupt between the two would leave it to nobody
            del self.calls[call.id]

    def _item(self, id: int, item: Any) -> None:
        call = self.calls.get(id)
        if call is None or call.done:
            self.ignored += 1
        elif call.credit < 1:
            self.cancel(call, InvalidFrame("the sidecar sent more items than it had credit for"))
        else:
            call.credit -= 1
            call.items.append(item)
            call.wake()

    def _notification(self, method: str, params: dict[str, Any]) -> None:
        if method == "goaway":
            if self.state is State.READY:
                self._move(State.LEAVING)
        elif method == "protocol_error":
            error = error_from_wire(params)
            id = params.get("id")
            if type(id) is int:
                self._settle(id, None, error)
            else:
                self._complaint = str(error)
        else:
            self.ignored += 1

    def _too_long(self, event: wire.TooLong) -> None:
        kind, id = event.kind_and_id() or (None, None)
        limit = self.splitter.max_frame
        error = FrameTooLarge(
            f"a frame of {event.length} bytes came, and this client takes {limit}",
            details={"limit": limit, "length": event.length},
        )
        if id is None or kind is None:
            self.ignored += 1
        elif kind == wire.Kind.REQUEST:
            self.outgoing.append(wire.encode_error(id, None, error.to_wire()))
        elif kind == wire.Kind.ITEM and id in self.calls:
            self.cancel(self.calls[id], error)
        elif kind == wire.Kind.RESPONSE:
            self._settle(id, None, error)
        else:
            self.ignored += 1

    def _fitting(self, frame: bytes, what: str) -> bytes:
        """The frame. Raises FrameTooLarge where the sidecar would not take it."""
        length, limit = len(frame) - 4, self._peer_limit
        if length > limit:
            raise FrameTooLarge(
                f"{what} takes {length} bytes, and the sidecar takes {limit}",
                details={"limit": limit, "length": length},
            )
        return frame

    def _move(self, to: State) -> None:
        if to not in _NEXT[self.state]:
            raise RuntimeError(f"a connection does not go from {self.state.value} to {to.value}")
        self.state = to


def call_meta(
    *,
    session: str | None = None,
    session_token: str | None = None,
    pool: str | None = None,
    credit: int | None = None,
    retry: str | None = None,
    traceparent: str | None = None,
    app: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    idempotent: bool = False,
    detach: bool = False,
) -> dict[str, Any]:
    """The meta of a request, without its time limit. Raises ValueError for a stream with an idempotency key."""
    if idempotent and idempotency_key is None:
        idempotency_key = secrets.token_hex(16)
    if idempotency_key is not None and credit is not None:
        raise ValueError("a stream has no idempotency key: what was streamed is not kept")
    meta: dict[str, Any] = {}
    if session is not None:
        meta["session"] = session
    if session_token is not None:
        meta["session_token"] = session_token
    if pool is not None:
        meta["pool"] = pool
    if credit is not None:
        meta["stream"] = credit
    if retry is not None:
        meta["retry"] = retry
    if traceparent is not None:
        meta["traceparent"] = traceparent
    if app is not None:
        meta["app"] = wire.plain_value(app, "app")
    if idempotency_key is not None:
        meta["idempotency_key"] = idempotency_key
    if detach:
        meta["detach"] = True
    return meta
