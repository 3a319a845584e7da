"""Streams of frames."""

from typing import Any

from cases.spell import Vector, length, repeat, request, result


def vectors() -> list[Vector]:
    out: list[Vector] = []
    a, b = request("80"), "930409c0"

    def case(name: str, stream: Any, events: list[Vector], *, max_frame: int = 65536, incomplete: bool = False) -> None:
        out.append({"name": name, "stream": stream, "max_frame": max_frame, "events": events, "incomplete": incomplete})

    def body(data: Any) -> Vector:
        return {"body": data}

    def too_long(length: int, kind: int | None, id: int | None) -> Vector:
        return {"too_long": {"length": length, "kind": kind, "id": id}}

    case("nothing", "", [])
    case("one frame", length(a) + a, [body(a)])
    case("three frames", length(a) + a + length(b) + b + length(a) + a, [body(a), body(b), body(a)])
    case("a frame of one byte", "0000000190", [body("90")])
    case("a length, cut", "000000", [], incomplete=True)
    case("a frame, then a length, cut", length(a) + a + "00", [body(a)], incomplete=True)
    case("a length alone", length(a), [], incomplete=True)
    case("a frame, cut", length(a) + a[:-2], [], incomplete=True)
    case("length 0", "00000000", [{"broken": "length 0"}])
    case("length 0 behind a frame", length(a) + a + "00000000" + length(b) + b, [body(a), {"broken": "length 0"}])
    limit = [result("c50ff8"), repeat("91", 0xFF8)]  # 5 + 3 + 4088 = 4096 bytes
    case("exactly the limit", ["00001000", *limit], [body(limit)], max_frame=4096)
    long_request = [request("81a161c50ff4", id="cd0102"), repeat("91", 0xFF4)]  # 8 + 6 + 4084 = 4098; see below
    case(
        "over the limit, then a frame",
        [f"{8 + 6 + 0xFF4:08x}", *long_request, length(b) + b],
        [too_long(8 + 6 + 0xFF4, 0, 258), body(b)],
        max_frame=4096,
    )
    case(
        "over the limit by one",
        ["00001001", result("c50ff9"), repeat("91", 0xFF9), length(b) + b],
        [too_long(4097, 1, 1), body(b)],
        max_frame=4096,
    )
    case(
        "over the limit: an item with a large id",
        ["00001001", "9403cf001fffffffffffffc0", repeat("c0", 4085)],
        [too_long(4097, 3, 9007199254740991)],
        max_frame=4096,
    )
    case(
        "over the limit: array header and numbers at their widest",
        ["00001001", "dd00000005" + "cf0000000000000000" + "cf0000000000000005", repeat("c0", 4074)],
        [too_long(4097, 0, 5)],
        max_frame=4096,
    )
    case(
        "over the limit: a notification has no id",
        ["00001001", "940205c0", repeat("c0", 4093)],
        [too_long(4097, None, None)],
        max_frame=4096,
    )
    case("over the limit: no array", ["00001001", repeat("78", 4097)], [too_long(4097, None, None)], max_frame=4096)
    case(
        "over the limit: id 0", ["00001001", "950000", repeat("c0", 4094)], [too_long(4097, None, None)], max_frame=4096
    )
    case(
        "over the limit: 2^53 as an id",
        ["00001001", "9500cf0020000000000000", repeat("c0", 4086)],
        [too_long(4097, None, None)],
        max_frame=4096,
    )
    case("over the limit: nesting", ["00001001", repeat("91", 4097)], [too_long(4097, None, None)], max_frame=4096)
    case("over the limit: 0xc1", ["00001001", repeat("c1", 4097)], [too_long(4097, None, None)], max_frame=4096)
    case(
        "twice over the limit, frames between",
        [
            length(b) + b,
            "00001001",
            "950103",
            repeat("c0", 4094),
            length(a) + a,
            "00001002",
            "950104",
            repeat("c0", 4095),
            length(b) + b,
        ],
        [body(b), too_long(4097, 1, 3), body(a), too_long(4098, 1, 4), body(b)],
        max_frame=4096,
    )
    case(
        "the longest length there is",
        ["ffffffff", "950001a161c0", repeat("c0", 5000)],
        [],
        max_frame=4096,
        incomplete=True,
    )
    big = [result("c600030000"), repeat("91", 0x30000)]
    case(
        "a large frame between small ones",
        [length(a) + a, f"{5 + 5 + 0x30000:08x}", *big, length(b) + b],
        [body(a), body(big), body(b)],
        max_frame=1 << 20,
    )
    return out
