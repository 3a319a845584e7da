"""Bodies of frames to messages, held to every rule of docs/protocol.md.

The common case runs in C: one pass of the MessagePack decoder. What it does not check (depth, memory that declared
lengths would cost, repeated keys) is proved beforehand by cheaper means, and only a frame that fails is gone through
byte by byte, to say which rule it breaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgpack

from .limits import MAX_CREDIT, MAX_DEPTH, MAX_HEAD, MAX_ID, MAX_METHOD, MAX_REASON, MAX_VALUES
from .messages import Cancel, Change, Credit, Item, Message, Notification, Request, Response, Unknown
from .scan import Body, outline, scan, skip_value
from .splitter import Event
from .violations import ContentError, EnvelopeError, StructureError

_SMALL: Final = 16 << 10
_FIVE: Final = 0x95  # an array of five items
_SHORTEST: Final = 7  # bytes of a request: the array, its kind, an id, a method's name of one byte, and two maps
_NOT_CONTAINERS: Final = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))
_TIMESTAMP: Final = re.compile(rb"[\xd6\xd7]\xff|\xc7.\xff|\xc8..\xff|\xc9....\xff", re.DOTALL)


def decode(body: Body, *, scanned: bool = False) -> Message:
    """The message in one frame. `scanned` says that its structure was checked already (by the sidecar).

    Raises StructureError, EnvelopeError or ContentError; of several faults the first of these that applies.
    """
    try:
        items = _unpack(body, scanned)
        if type(items) is not list or not items:
            raise ValueError
        return _message(items, body)
    except (StructureError, EnvelopeError):
        raise
    except (ValueError, TypeError):
        return _refuse(body)


class PlainRequests:
    """Finds what a worker receives most, short requests with nothing wrong, in few steps. For one thread.

    All of one read are decoded in one go, in C, which is not to ask Python about each map. It drops keys that occur
    twice, so what it made is packed again: where that gives the same bytes nothing was lost.
    """

    def __init__(self) -> None:
        packer = msgpack.Packer(buf_size=_SMALL)  # type: ignore[call-arg]  # msgpack has it
        self._pack, self._begin = packer.pack, packer.pack_array_header

    def read(self, events: list[Event]) -> list[Event | list[Any]]:
        """The events, with `[0, id, method, meta, params]` in place of each such request.

        The structure of all was checked already. What is left is for `decode`.
        """
        plain = [
            body
            for body in events
            if type(body) is bytes
            and _SHORTEST <= len(body) <= _SMALL
            and body[0] == _FIVE
            and not body[1]
            and not (0xFF in body or 0xC4 in body or 0xC5 in body)  # timestamps, or byte strings, which may be keys
        ]
        found = self._decoded(plain) if plain else []
        if len(plain) == len(events):
            return found
        at = 0
        merged: list[Event | list[Any]] = list(events)
        for index, event in enumerate(events):
            if at < len(plain) and event is plain[at]:
                merged[index] = found[at]
                at += 1
        return merged

    def _decoded(self, bodies: list[bytes]) -> list[Event | list[Any]]:
        """What each of the bodies says, or the body itself where there may be something wrong."""
        joined = self._begin(len(bodies)) + b"".join(bodies)
        try:
            requests = msgpack.unpackb(joined, ext_hook=_extension)
            if self._pack(requests) != joined:
                raise ValueError
        except (ValueError, TypeError):
            if len(bodies) == 1:
                return [bodies[0]]
            return [found for body in bodies for found in self._decoded([body])]
        else:
            return [
                request
                if type(request[1]) is int
                and 0 < request[1] <= MAX_ID
                and type(request[2]) is str
                and 0 < len(request[2]) <= MAX_METHOD // 4  # in bytes it has four times as many at most
                and type(request[3]) is dict
                and type(request[4]) is dict
                else body
                for request, body in zip(requests, bodies, strict=True)
            ]


def decode_value(data: Body) -> Any:
    """One value that stands by itself, as `pack_value` makes it. Raises StructureError or ContentError."""
    try:
        return _unpack(data, False)
    except (ValueError, TypeError) as error:
        scan(data)
        raise ContentError(_reason(error)) from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A map whose keys cannot be byte strings, since the frame holds none."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one map")
    return found


def _text_pairs(pairs: list[tuple[str, Any]], join: Callable[[dict[str, Any]], str] = "".join) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one map")
    try:
        join(found)  # the cheapest way to see that every key is text
    except TypeError:
        raise ValueError("a map key that is not text") from None
    return found


def _extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


def _unpack(body: Body, scanned: bool) -> Any:
    """Decode, with no more memory than the body's length accounts for."""
    deep = not scanned and _bound(body)
    if 0xC4 in body or 0xC5 in body or 0xC6 in body:  # there may be byte strings, which C lets through as keys
        value = msgpack.unpackb(body, object_pairs_hook=_text_pairs, ext_hook=_extension)
    else:
        value = msgpack.unpackb(body, object_pairs_hook=_pairs, ext_hook=_extension)
    if deep:
        _check_depth(value)
    if 0xFF in body and _TIMESTAMP.search(body):
        if not scanned:
            scan(body)  # C also takes timestamps in forms that are not among the three
        value = _with_instants(value)
    return value


def _bound(body: Body) -> bool:
    """Refuse a body that would cost memory out of proportion. Returns whether its depth is still to be checked."""
    if len(body) <= _SMALL and len(body.translate(None, _NOT_CONTAINERS)) <= MAX_DEPTH:
        return False  # that few bytes that could begin a container cannot nest too deep, nor declare much
    if len(body) > MAX_VALUES:
        scan(body)
        return False
    if scan(body, budget=MAX_DEPTH):
        return False  # few values, however long
    walk = msgpack.Unpacker(max_buffer_size=len(body))
    walk.feed(body)
    try:
        walk.skip()  # builds nothing
    except (msgpack.exceptions.OutOfData, ValueError):
        scan(body)
        raise
    return True


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    if any(level):
        raise StructureError(f"nested deeper than {MAX_DEPTH}")


def _with_instants(value: Any) -> Any:
    """Timestamps become datetimes in UTC, to the microsecond; those of years beyond datetime's stay as they are."""
    if type(value) is dict:
        return {key: _with_instants(item) for key, item in value.items()}
    if type(value) is list:
        return [_with_instants(item) for item in value]
    if type(value) is msgpack.Timestamp:
        try:
            return value.to_datetime()
        except (OverflowError, ValueError):
            return value
    return value


def _message(items: list[Any], body: Body) -> Message:
    """Check the envelope and make the message of it. Raises EnvelopeError."""
    kind = items[0]
    if type(kind) is not int or kind < 0:
        raise EnvelopeError("the kind of a frame is a small integer")
    if kind >= len(_KINDS):
        return Unknown(kind)
    count, make = _KINDS[kind]
    id = None
    if kind != 2:
        id = items[1] if len(items) > 1 else None
        if type(id) is not int or not 0 < id <= MAX_ID:
            raise EnvelopeError("a request id is an integer from 1 to 2^53-1", None, kind)
    if len(items) != count:
        raise EnvelopeError(f"a frame of kind {kind} has {count} items, this one {len(items)}", id, kind)
    if len(body) > MAX_HEAD and kind not in (4, 5):
        _check_head(body, count, id, kind)
    try:
        return make(*items)
    except EnvelopeError as error:
        error.id, error.kind = id, kind
        raise


def _check_head(body: Body, count: int, id: int | None, kind: int) -> None:
    pos: int | None = 1 if body[0] < 0xDC else 3 if body[0] == 0xDC else 5
    for _ in range(count - 1):
        pos = skip_value(body, pos, MAX_HEAD) if pos is not None else None
    if pos is None or pos > MAX_HEAD:
        raise EnvelopeError(f"the head is longer than {MAX_HEAD} bytes", id, kind)


def _map(value: Any, name: str) -> dict[str, Any]:
    if type(value) is dict:
        return value
    if value is None:
        return {}
    raise EnvelopeError(f"{name} is a map or nil")


def _method(value: Any) -> str:
    if type(value) is not str or not value or len(value) > MAX_METHOD or len(value.encode()) > MAX_METHOD:
        raise EnvelopeError(f"a method is text of 1 to {MAX_METHOD} bytes")
    return value


def _request(_kind: int, id: int, method: Any, meta: Any, params: Any) -> Request:
    return Request(id, _method(method), _map(meta, "meta"), _map(params, "params"))


def _response(_kind: int, id: int, meta: Any, error: Any, result: Any) -> Response:
    if error is not None and (type(error) is not dict or result is not None):
        raise EnvelopeError("error is nil or a map, and result is nil beside an error")
    return Response(id, _map(meta, "meta"), error, result)


def _notification(_kind: int, method: Any, meta: Any, params: Any) -> Notification:
    return Notification(_method(method), _map(meta, "meta"), _map(params, "params"))


def _item(_kind: int, id: int, meta: Any, item: Any) -> Item:
    return Item(id, _map(meta, "meta"), item)


def _cancel(_kind: int, id: int, reason: Any) -> Cancel:
    if reason is not None and (type(reason) is not str or len(reason.encode()) > MAX_REASON):
        raise EnvelopeError(f"a reason is nil or text of at most {MAX_REASON} bytes")
    return Cancel(id, reason)


def _credit(_kind: int, id: int, n: Any) -> Credit:
    if type(n) is not int or not 0 < n <= MAX_CREDIT:
        raise EnvelopeError("a credit is an integer from 1 to 2^31-1")
    return Credit(id, n)


def _change(_kind: int, id: int, changes: Any) -> Change:
    return Change(id, changes)


_KINDS: Final[tuple[tuple[int, Callable[..., Message]], ...]] = (
    (5, _request),
    (5, _response),
    (4, _notification),
    (4, _item),
    (3, _cancel),
    (3, _credit),
    (3, _change),
)


def _refuse(body: Body) -> Unknown:
    """Say which rule a body breaks that could not be decoded whole; a frame of an unknown kind need keep none."""
    spans = outline(body)  # raises StructureError
    if not spans:
        raise EnvelopeError("a frame of no items")
    items: list[Any] = []
    fault = ""
    for begin, end in spans:
        try:
            items.append(_unpack(body[begin:end], True))
        except (ValueError, TypeError) as error:
            fault = fault or _reason(error)
            first = body[begin]
            items.append({} if 0x80 <= first < 0x90 or first in (0xDE, 0xDF) else _BROKEN)
    message = _message(items, body)  # raises EnvelopeError
    if isinstance(message, Unknown):
        return message
    raise ContentError(fault, getattr(message, "id", None), items[0])


_BROKEN: Final = object()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "text that is not valid UTF-8"
    return str(error) or type(error).__name__
