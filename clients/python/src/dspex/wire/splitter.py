"""Cuts a stream of bytes into frames."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack

from .limits import DEFAULT_FRAME, MAX_ID
from .scan import Body
from .violations import StructureError

_HEADER = 4
_number = struct.Struct(">I").unpack_from
_HEAD_KEPT = 64  # more than the array's header, the kind and the id can take
_GATHER = 64 << 10  # a body is given its whole buffer once this many bytes of it have come


@dataclass(frozen=True, slots=True)
class TooLong:
    """A frame over the limit, which has been read past. `head` is what it began with."""

    length: int
    head: bytes

    def kind_and_id(self) -> tuple[int, int] | None:
        """What the frame was and which call it belongs to, where both can be read."""
        unpacker = msgpack.Unpacker()
        unpacker.feed(self.head)
        try:
            unpacker.read_array_header()
            kind, id = unpacker.unpack(), unpacker.unpack()
        except (msgpack.exceptions.UnpackException, ValueError):
            return None
        if type(kind) is int and type(id) is int and 1 <= id <= MAX_ID and kind != 2:
            return kind, id
        return None


Event = Body | TooLong | StructureError
"""A whole body; a frame read past; or, as the last event there will be, broken framing."""


class FrameSplitter:
    """Bytes in, whole bodies out. Each byte is copied at most twice, however they arrive.

    Give received bytes to `feed`. Where `room` gives a view, a long body is being awaited: bytes may be received right
    into the view, and are then announced with `filled`.
    """

    def __init__(self, max_frame: int = DEFAULT_FRAME) -> None:
        self.max_frame = max_frame
        self._header = b""  # 0 to 3 bytes of a length
        self._length = 0  # of the body under way
        self._body: bytearray | None = None
        self._filled = 0
        self._skip = 0  # bytes to read past
        self._head = b""  # of the frame read past
        self._broken = False

    @property
    def idle(self) -> bool:
        """Whether no frame is incomplete."""
        return self._body is None and not self._header and not self._skip

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Take the bytes that arrived; returns what they complete, in order."""
        events: list[Event] = []
        pos, end = 0, len(data)
        if type(data) is bytes and self.idle and not self._broken:
            pos = self._whole(data, events)
        while pos < end and not self._broken:
            if self._body is not None:
                pos += self._take(data, pos, events)
            elif self._skip:
                pos += self._read_past(data, pos, events)
            elif self._header or end - pos < _HEADER:
                more = bytes(data[pos : pos + _HEADER - len(self._header)])
                self._header += more
                pos += len(more)
                if len(self._header) == _HEADER:
                    length = int.from_bytes(self._header, "big")
                    self._header = b""
                    self._begin(length, events)
            else:
                length = int.from_bytes(data[pos : pos + _HEADER], "big")
                pos += _HEADER
                if 0 < length <= min(end - pos, self.max_frame):
                    events.append(bytes(data[pos : pos + length]))
                    pos += length
                else:
                    self._begin(length, events)
        return events

    def _whole(self, data: bytes, events: list[Event]) -> int:
        """Take the whole frames at the beginning, which mostly is all that arrived; returns where they end."""
        pos, last, limit = 0, len(data) - _HEADER, self.max_frame
        while pos <= last:
            start = pos + _HEADER
            (length,) = _number(data, pos)
            after = start + length
            if after > last + _HEADER or not 0 < length <= limit:
                break
            events.append(data[start:after])
            pos = after
        return pos

    def room(self) -> memoryview | None:
        """The part of a long body that is still missing, where one is awaited."""
        if self._body is None or len(self._body) < self._length or self._length <= _GATHER:
            return None
        return memoryview(self._body)[self._filled :]

    def filled(self, count: int) -> list[Event]:
        """`count` bytes were put into the beginning of `room()`."""
        events: list[Event] = []
        self._filled += count
        self._complete(events)
        return events

    def _begin(self, length: int, events: list[Event]) -> None:
        if length == 0:
            self._broken = True
            events.append(StructureError("a frame of length 0"))
        elif length > self.max_frame:
            self._length = self._skip = length
            self._head = b""
        else:
            self._length = length
            self._body = bytearray(min(length, _GATHER))
            self._filled = 0

    def _take(self, data: bytes | bytearray | memoryview, pos: int, events: list[Event]) -> int:
        assert self._body is not None
        count = min(len(self._body) - self._filled, len(data) - pos)
        self._body[self._filled : self._filled + count] = data[pos : pos + count]
        self._filled += count
        if self._filled == len(self._body) < self._length:
            whole = bytearray(self._length)
            whole[: self._filled] = self._body
            self._body = whole
        self._complete(events)
        return count

    def _complete(self, events: list[Event]) -> None:
        if self._body is not None and self._filled == self._length:
            events.append(self._body)
            self._body = None

    def _read_past(self, data: bytes | bytearray | memoryview, pos: int, events: list[Event]) -> int:
        count = min(self._skip, len(data) - pos)
        if len(self._head) < _HEAD_KEPT:
            self._head += data[pos : pos + min(count, _HEAD_KEPT - len(self._head))]
        self._skip -= count
        if not self._skip:
            events.append(TooLong(self._length, bytes(self._head)))
        return count
