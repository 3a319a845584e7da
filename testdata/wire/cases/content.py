"""Values that break the rules on content."""

from typing import Any

from cases.spell import Vector, request, result, text, vector


def vectors() -> list[Vector]:
    out: list[Vector] = []

    def bad(name: str, body: Any, id: int | None = 1) -> None:
        out.append(vector(name, body, "content", envelope={"id": id}))

    for name, data in [
        ("0xff", "a1ff"),
        ("a byte of continuation alone", "a180"),
        ("two bytes, cut", "a1c3"),
        ("three bytes, cut", "a2e282"),
        ("four bytes, cut", "a3f09f98"),
        ("a slash in two bytes", "a2c0af"),
        ("zero in two bytes", "a2c080"),
        ("three bytes where two do", "a3e09f80"),
        ("four bytes where three do", "a4f08f8080"),
        ("U+D800", "a3eda080"),
        ("U+DFFF", "a3edbfbf"),
        ("a pair of surrogates", "a6eda0bdedb880"),
        ("U+110000", "a4f4908080"),
        ("0xfe", "a4fe808080"),
        ("behind 200 good letters", "d9c9" + "78" * 200 + "ff"),
        ("in an array", "93c0a1ff01"),
        ("in a value of a map", "81a161a1ff"),
        ("in a key", "81a1ff01"),
    ]:
        bad(f"not UTF-8: {name}", result(data))
    bad("not UTF-8 in params", request("81a161a1ff", id="05"), 5)
    bad("not UTF-8 in meta", request("80", id="05", meta="81a161a1ff"), 5)
    bad("not UTF-8 in a key of meta", request("80", id="05", meta="81a1ff01"), 5)
    bad("not UTF-8 in an error", "950107c081a161a1ffc0", 7)
    bad("not UTF-8 in an item", "940307c0a1ff", 7)
    bad("not UTF-8 in a change", "93060781a3736574a1ff", 7)
    bad("not UTF-8 in a notification", "9402a161c081a161a1ff", None)
    for name, data in [
        ("beside each other", "82a16101a16102"),
        ("with equal values", "82a16101a16101"),
        ("apart", "83a16101a16201a16102"),
        ("in another form", "82a16101d9016102"),
        ("the empty key", "82a001a002"),
        ("__proto__", "82" + text("__proto__") + "80" + text("__proto__") + "80"),
        ("deep", "9181a16182a16201a16202"),
        ("of 40", "de0028" + "".join("a2" + f"{n:02d}".encode().hex() + "01" for n in [*range(39), 0])),
    ]:
        bad(f"a key twice: {name}", result(data))
    bad("a key twice in params", request("82a16101a16102", id="05"), 5)
    bad("a key twice in meta", request("80", id="05", meta="82a16101a16102"), 5)
    bad("a key twice in an error", "950107c082a16101a16102c0", 7)
    bad("a key twice in a notification", "9402a161c082a16101a16102", None)
    for name, key in [
        ("nil", "c0"),
        ("true", "c3"),
        ("0", "00"),
        ("-1", "ff"),
        ("1 in 64 bits", "cf0000000000000001"),
        ("a float", "cb3ff8000000000000"),
        ("bytes", "c40161"),
        ("no bytes", "c400"),
        ("an array", "9101"),
        ("an empty array", "90"),
        ("a map", "81a16101"),
        ("an empty map", "80"),
        ("a timestamp", "d6ff00000000"),
    ]:
        bad(f"a key that is not text: {name}", result(f"81{key}01"))
    bad("a key that is not text, among others", result("82a16101c4016201"))
    bad("a key that is not text, deep", result("9181a16181c40162c0"))
    bad("a key that is not text, in params", request("810101", id="05"), 5)
    bad("a key that is not text, in meta", request("80", id="05", meta="810101"), 5)
    bad("timestamp 64: 1000000000 ns", result("d7ff" + f"{(1000000000 << 34) | 1:016x}"))
    bad("timestamp 64: 2^30-1 ns", result("d7ffffffffff" + "ffffffff"))
    bad("timestamp 96: 1000000000 ns", result("c70cff3b9aca00" + "0000000000000001"))
    bad("timestamp 96: 2^32-1 ns", result("c70cffffffffff" + "0000000000000001"))
    bad("timestamp in a map: 1000000000 ns", result("81a161d7ff" + f"{1000000000 << 34:016x}"))
    return out
