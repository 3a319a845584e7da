"""A codec and a client of the protocol, written from docs/protocol.md and MessagePack's specification alone.

Nothing of the project's is imported, nor anybody else's. test_protocol_page.py holds that it passes the vectors and
works, which holds that the page says all that is needed.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import Any

DEPTH, VALUES, HEAD, LARGEST_ID = 64, 4_194_304, 65_536, 2**53 - 1
ITEMS = {0: 5, 1: 5, 2: 4, 3: 4, 4: 3, 5: 3, 6: 3}
NAMES = {
    0: ("id", "method", "meta"),
    1: ("id", "meta", "error"),
    2: ("method", "meta"),
    3: ("id", "meta"),
    4: ("id", "reason"),
    5: ("id", "n"),
    6: ("id",),
}
PAYLOADS = (0, 1, 2, 3, 6)


class Broken(Exception):
    """`verdict`: `structure`, `envelope` or `content`; `id`: the request that it belongs to, where it can be told."""

    def __init__(self, verdict: str, id: int | None = None) -> None:
        super().__init__(verdict, id)
        self.verdict = verdict
        self.id = id


class Timestamp:
    def __init__(self, seconds: int, nanoseconds: int) -> None:
        self.seconds = seconds
        self.nanoseconds = nanoseconds


# Structure: what stands at a position, without making it. Sizes of what follows a first byte.

FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
FIXED |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
COUNTED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
SINGLE = re.compile(rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]*", re.DOTALL)  # values of one byte each, in a row
CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # bytes of the count; items of an entry


def head(body: bytes, at: int) -> tuple[int, int, int]:
    """Of the value at a position: where its contents begin, how many bytes they are, or how many items it has."""
    if at >= len(body):
        raise Broken("structure")
    first = body[at]
    at += 1
    if first <= 0x7F or first >= 0xE0:
        return at, 0, 0
    if 0x80 <= first <= 0x9F:
        return at, 0, (first & 15) * (2 if first < 0x90 else 1)
    if 0xA0 <= first <= 0xBF:
        return at, first & 31, 0
    if first in FIXED:
        extension = {0xD6: 4, 0xD7: 8}.get(first)
        if 0xD4 <= first <= 0xD8 and (extension is None or body[at : at + 1] != b"\xff"):
            raise Broken("structure")
        return at, FIXED[first], 0
    if first in COUNTED:
        width = COUNTED[first]
        if at + width > len(body):
            raise Broken("structure")
        size = int.from_bytes(body[at : at + width], "big")
        if first in (0xC7, 0xC8, 0xC9):
            if first != 0xC7 or size != 12 or body[at + 1 : at + 2] != b"\xff":
                raise Broken("structure")
            size += 1
        return at + width, size, 0
    if first in CONTAINERS:
        width, each = CONTAINERS[first]
        if at + width > len(body):
            raise Broken("structure")
        return at + width, 0, int.from_bytes(body[at : at + width], "big") * each
    raise Broken("structure")  # 0xc1


def skip(body: bytes, at: int, inside: int = 0) -> tuple[int, int]:
    """Where the value at a position ends, that lies inside so many containers, and how many values it holds. Without
    recursion: it may be a bomb."""
    values = 0
    open_items: list[int] = [1]
    while open_items:
        if open_items[-1] == 0:
            open_items.pop()
            continue
        run = SINGLE.match(body, at, at + open_items[-1])
        if run and len(open_items) - 1 + inside <= DEPTH and (many := run.end() - at):
            at += many
            values += many
            open_items[-1] -= many
            if values > VALUES:
                raise Broken("structure")
            continue
        open_items[-1] -= 1
        first = body[at] if at < len(body) else 0
        at, size, items = head(body, at)
        values += 1
        container = 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF
        if len(open_items) - 1 + inside > DEPTH:
            raise Broken("structure")
        if at + size > len(body) or items > len(body) - at or values > VALUES:
            raise Broken("structure")
        at += size
        if container:
            open_items.append(items)
    return at, values


def spans(body: bytes) -> list[tuple[int, int]]:
    """The items of a body. Raises Broken (`structure`)."""
    if not body or not (0x90 <= body[0] <= 0x9F or body[0] in (0xDC, 0xDD)):
        raise Broken("structure")
    at, _, count = head(body, 0)
    found = []
    values = 1
    for _ in range(count):
        end, more = skip(body, at, 1)
        values += more
        found.append((at, end))
        at = end
    if at != len(body) or values > VALUES:
        raise Broken("structure")
    return found


# Values

ONE: dict[int, Any] = {byte: byte for byte in range(128)} | {byte: byte - 256 for byte in range(0xE0, 256)}
ONE |= {0xC0: None, 0xC2: False, 0xC3: True}


def value(body: bytes, at: int) -> tuple[Any, int]:
    """The value at a position whose structure is sound, and where it ends. Raises Broken (`content`)."""
    first = body[at]
    start, size, items = head(body, at)
    data = body[start : start + size]
    end = start + size
    if first in ONE:
        return ONE[first], end
    if first in (0xCA, 0xCB):
        return struct.unpack(">f" if first == 0xCA else ">d", data)[0], end
    if 0xCC <= first <= 0xD3:
        return int.from_bytes(data, "big", signed=first >= 0xD0), end
    if first in (0xC4, 0xC5, 0xC6):
        return data, end
    if first in (0xD6, 0xD7, 0xC7):
        return instant(data[1:]), end
    if 0xA0 <= first <= 0xBF or first in (0xD9, 0xDA, 0xDB):
        try:
            return data.decode(), end
        except UnicodeDecodeError:
            raise Broken("content") from None
    made: list[Any] = []
    while len(made) < items:
        run = SINGLE.match(body, end, end + items - len(made))
        if run and run.end() > end:
            made += [ONE[byte] for byte in run[0]]
            end = run.end()
        else:
            item, end = value(body, end)
            made.append(item)
    if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
        return made, end
    keys = made[::2]
    if any(type(key) is not str for key in keys) or len(set(keys)) < len(keys):
        raise Broken("content")
    return dict(zip(keys, made[1::2], strict=True)), end


def instant(data: bytes) -> Timestamp:
    if len(data) == 4:
        return Timestamp(int.from_bytes(data, "big"), 0)
    if len(data) == 8:
        whole = int.from_bytes(data, "big")
        seconds, nanoseconds = whole & (2**34 - 1), whole >> 34
    else:
        nanoseconds, seconds = struct.unpack(">Iq", data)
    if nanoseconds >= 1_000_000_000:
        raise Broken("content")
    return Timestamp(seconds, nanoseconds)


def pack(given: Any) -> bytes:
    if given is None or given is True or given is False:
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[given]
    if isinstance(given, int):
        return struct.pack(">BQ", 0xCF, given) if given >= 0 else struct.pack(">Bq", 0xD3, given)
    if isinstance(given, float):
        return struct.pack(">Bd", 0xCB, given)
    if isinstance(given, str):
        return struct.pack(">BI", 0xDB, len(given.encode())) + given.encode()
    if isinstance(given, bytes):
        return struct.pack(">BI", 0xC6, len(given)) + given
    if isinstance(given, Timestamp):
        return struct.pack(">BBbIq", 0xC7, 12, -1, given.nanoseconds, given.seconds)
    if isinstance(given, dict):
        entries = b"".join(pack(key) + pack(item) for key, item in given.items())
        return struct.pack(">BI", 0xDF, len(given)) + entries
    return struct.pack(">BI", 0xDD, len(given)) + b"".join(map(pack, given))


# Envelopes


def text(given: Any, least: int, most: int) -> bool:
    return type(given) is str and least <= len(given.encode()) <= most


def whole(given: Any, least: int, most: int) -> bool:
    return type(given) is int and least <= given <= most


def decode(body: bytes) -> dict[str, Any] | None:
    """The envelope, with `payload` (bytes) and `value`; None: of a kind that is not known. Raises Broken."""
    found = spans(body)
    if not found:
        raise Broken("envelope")
    kind = head_value(body, found[0], None)
    if not whole(kind, 0, 2**64):
        raise Broken("envelope")
    if kind not in ITEMS:
        return None
    id = None
    if kind != 2:
        id = head_value(body, found[1], None) if len(found) > 1 else None
        if not whole(id, 1, LARGEST_ID):
            raise Broken("envelope")
    if len(found) != ITEMS[kind]:
        raise Broken("envelope", id)
    payload = kind in PAYLOADS
    if payload and found[-1][0] > HEAD:
        raise Broken("envelope", id)
    envelope: dict[str, Any] = {"kind": kind}
    late: Broken | None = None
    for name, span in zip(NAMES[kind], found[1:], strict=False):
        try:
            envelope[name] = head_value(body, span, id)
        except Broken as broken:
            late = late or broken
            envelope[name] = UNREADABLE if first_is_text(body, span) else {}
    check_head(envelope, body, found[-1], id)
    if late is not None:
        raise late
    if payload:
        envelope["payload"] = body[slice(*found[-1])]
        envelope["value"] = head_value(body, found[-1], id)
        if kind in (0, 2) and envelope["value"] is None:
            envelope["value"] = {}
    if kind == 0:
        check_meta(envelope["meta"] or {}, id)
    return envelope


UNREADABLE = object()


def first_is_text(body: bytes, span: tuple[int, int]) -> bool:
    return not (0x80 <= body[span[0]] <= 0x8F or body[span[0]] in (0xDE, 0xDF))


def head_value(body: bytes, span: tuple[int, int], id: int | None) -> Any:
    try:
        return value(body, span[0])[0]
    except Broken as broken:
        broken.id = id
        raise


def check_head(envelope: dict[str, Any], body: bytes, last: tuple[int, int], id: int | None) -> None:
    kind = envelope["kind"]
    sound = "method" not in envelope or text(envelope["method"], 1, 128)
    sound = sound and (type(envelope.get("meta")) is dict or envelope.get("meta") is None)
    if kind in (0, 2):  # params
        sound = sound and (not first_is_text(body, last) or body[last[0]] == 0xC0)
    if kind == 1:
        error = envelope["error"]
        sound = sound and (error is None or (type(error) is dict and body[last[0]] == 0xC0))
    if kind == 4:
        sound = envelope["reason"] is None or text(envelope["reason"], 0, 256)
    if kind == 5:
        sound = whole(envelope["n"], 1, 2**31 - 1)
    if not sound:
        raise Broken("envelope", id)


def check_meta(meta: dict[str, Any], id: int | None) -> None:
    session = meta.get("session", "s")
    sound = [
        text(session, 1, 128) and all(ord(letter) >= 32 and ord(letter) != 127 for letter in session),
        text(meta.get("idempotency_key", "k"), 1, 256),
        type(meta.get("session_token", "")) is str,
        type(meta.get("pool", "")) is str,
        whole(meta.get("timeout_ms", 0), 0, 2**64),
        meta.get("retry", "safe") == "safe",
        whole(meta.get("stream", 1), 1, 2**31 - 1),
        text(meta.get("traceparent", ""), 0, 128),
        type(meta.get("app", {})) is dict,
        whole(meta.get("parent", 1), 1, LARGEST_ID),
    ]
    if not all(sound):
        raise Broken("content", id)


def split(stream: bytes, most: int) -> tuple[list[Any], bool]:
    """The events of a stream of frames, as framing.json has them, and whether it ends inside a frame."""
    events: list[Any] = []
    at = 0
    while len(stream) - at >= 4:
        length = int.from_bytes(stream[at : at + 4], "big")
        if length == 0:
            return [*events, "broken"], False
        if len(stream) - at - 4 < length:
            return events, True
        at += 4
        events.append((length, stream[at : at + length]) if length > most else stream[at : at + length])
        at += length
    return events, at < len(stream)


# A client


class Failed(Exception):
    """A call's error: its code, and the map."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["code"], error)
        self.code = error["code"]
        self.error = error


class PageClient:
    """One connection, one call at a time."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.id = 0
        self.answers: dict[str, Any] = {}  # functions that the sidecar may ask for, by name
        hello = {"protocols": [1], "features": [], "client": {"name": "page", "version": "1"}}
        self.server = self.call("hello", hello)

    def send(self, *items: Any) -> None:
        body = pack(list(items))
        self.socket.sendall(struct.pack(">I", len(body)) + body)

    def receive(self) -> dict[str, Any]:
        (length,) = struct.unpack(">I", self.exactly(4))
        message = decode(self.exactly(length))
        return message if message is not None else self.receive()

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the sidecar closed the connection")
            data += more
        return data

    def begin(self, method: str, params: Any = None, **meta: Any) -> int:
        self.id += 1
        self.send(0, self.id, method, meta, params)
        return self.id

    def next_of(self, id: int) -> dict[str, Any]:
        """The next item of a call, or its response; what the sidecar asks meanwhile is answered."""
        while True:
            message = self.receive()
            if message["kind"] == 0:
                self.answer(message)
            elif message.get("id") == id:
                return message

    def answer(self, asked: dict[str, Any]) -> None:
        function = self.answers.get(asked["method"])
        if function is not None:
            self.send(1, asked["id"], None, None, function(asked["value"]))
            return
        error = {"code": "unknown_method", "message": "not here", "retryable": False, "details": None}
        self.send(1, asked["id"], None, error, None)

    def settled(self, id: int) -> Any:
        response = self.next_of(id)
        assert response["kind"] == 1
        if response["error"] is not None:
            raise Failed(response["error"])
        return response["value"]

    def call(self, method: str, params: Any = None, **meta: Any) -> Any:
        return self.settled(self.begin(method, params, **meta))

    def stream(self, method: str, params: Any = None, credit: int = 4, **meta: Any) -> tuple[list[Any], Any]:
        """The items, and the result."""
        id = self.begin(method, params, stream=credit, **meta)
        items = []
        while (message := self.next_of(id))["kind"] == 3:
            items.append(message["value"])
            self.send(5, id, 1)
        if message["error"] is not None:
            raise Failed(message["error"])
        return items, message["value"]

    def cancel(self, id: int) -> None:
        self.send(4, id, None)

    def close(self) -> None:
        self.socket.close()
