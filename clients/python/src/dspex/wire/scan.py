"""Structure of MessagePack, checked byte by byte without building any value.

This is the exact form of the rules in docs/protocol.md, "Values". It is too slow to run over every frame in Python:
`decode` proves most frames harmless faster, and comes here for what it cannot prove and to tell one fault from another.
"""

from __future__ import annotations

from typing import Final

from .limits import MAX_DEPTH, MAX_VALUES
from .violations import StructureError

Body = bytes | bytearray
"""The bytes of a frame without its length."""


def _sizes() -> list[int]:
    """Bytes of each scalar by its first byte; 0 where more than that byte must be looked at."""
    sizes = [0] * 256
    sizes[0x00:0x80] = [1] * 128
    sizes[0xE0:0x100] = [1] * 32
    sizes[0xA0:0xC0] = range(1, 33)
    for first, size in {
        **dict.fromkeys((0xC0, 0xC2, 0xC3), 1),
        **dict.fromkeys((0xCC, 0xD0), 2),
        **dict.fromkeys((0xCD, 0xD1), 3),
        **dict.fromkeys((0xCA, 0xCE, 0xD2), 5),
        **dict.fromkeys((0xCB, 0xCF, 0xD3), 9),
    }.items():
        sizes[first] = size
    return sizes


_SIZES: Final = _sizes()
_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Width of the length of str and bin, by first byte."""
_CONTAINERS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Width of the length, and values for each item, of arrays and maps."""
_TIMESTAMPS: Final = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")


def scan(body: Body, budget: int = MAX_VALUES) -> bool:
    """Check that `body` is exactly one value of sound structure.

    Returns False where more than `budget` values would have to be looked at.
    Raises StructureError for anything that is not sound, more than MAX_VALUES values included.
    """
    end = skip_value(body, 0, budget)
    if end is None:
        return False
    if end != len(body):
        raise StructureError(f"{len(body) - end} bytes are left over")
    return True


def skip_value(body: Body, pos: int, budget: int = MAX_VALUES) -> int | None:
    """The offset behind the value at `pos`; None where it holds more than `budget` values (see `scan`)."""
    end = len(body)
    open_: list[int] = []  # values still to come in each container around this one
    left = 1
    seen = 0
    while True:
        if pos >= end:
            raise StructureError("cut off")
        seen += 1
        if seen > budget:
            if budget >= MAX_VALUES:
                raise StructureError(f"more than {MAX_VALUES} values")
            return None
        left -= 1
        size = _SIZES[body[pos]]
        items = 0
        if not size:
            size, items = _long_header(body, pos)
        pos += size
        if items:
            if items > end - pos:
                raise StructureError("more items declared than bytes are left")
            if len(open_) == MAX_DEPTH:
                raise StructureError(f"nested deeper than {MAX_DEPTH}")
            open_.append(left)
            left = items
        while not left:
            if not open_:
                if pos > end:
                    raise StructureError("cut off")
                return pos
            left = open_.pop()


def _long_header(body: Body, pos: int) -> tuple[int, int]:
    """Bytes up to the first item (for a scalar: all), and how many values follow inside."""
    first = body[pos]
    if first < 0x90:
        return 1, 2 * (first & 0x0F)
    if first < 0xA0:
        return 1, first & 0x0F
    if first in _BYTES:
        width = _BYTES[first]
        return 1 + width + _number(body, pos + 1, width), 0
    if first in _CONTAINERS:
        width, each = _CONTAINERS[first]
        return 1 + width, each * _number(body, pos + 1, width)
    if first == 0xC1:
        raise StructureError("type 0xc1")
    for head, size in zip(_TIMESTAMPS, (6, 10, 15), strict=True):
        if body.startswith(head, pos):
            return size, 0
    raise StructureError("an extension other than the timestamp, or cut off")


def _number(body: Body, pos: int, width: int) -> int:
    if pos + width > len(body):
        raise StructureError("cut off")
    return int.from_bytes(body[pos : pos + width], "big")


def outline(body: Body) -> list[tuple[int, int]]:
    """Begin and end of each item of the frame's array. Raises StructureError; `body` need not have been scanned."""
    scan(body)
    size, count = _long_header(body, 0) if not _SIZES[body[0]] else (0, 0)
    if not size or not (0x90 <= body[0] < 0xA0 or body[0] in (0xDC, 0xDD)):
        raise StructureError("the body is not an array")
    spans = []
    pos = size
    for _ in range(count):
        end = skip_value(body, pos)
        assert end is not None, "the body was scanned"
        spans.append((pos, end))
        pos = end
    return spans
