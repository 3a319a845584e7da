"""Sound values."""

from typing import Any

from cases.spell import OK_RESPONSE, Vector, good_value, repeat, result, text, vector


def vectors() -> list[Vector]:
    rows: list[tuple[str, str, Any]] = [
        ("nil", "c0", None),
        ("false", "c2", False),
        ("true", "c3", True),
        ("0", "00", 0),
        ("127", "7f", 127),
        ("-1", "ff", -1),
        ("-32", "e0", -32),
        ("8 bits: 0", "cc00", 0),
        ("8 bits: 255", "ccff", 255),
        ("16 bits: 256", "cd0100", 256),
        ("16 bits: 65535", "cdffff", 65535),
        ("32 bits: 65536", "ce00010000", 65536),
        ("32 bits: 2^32-1", "ceffffffff", 4294967295),
        ("64 bits: 2^32", "cf0000000100000000", 4294967296),
        ("64 bits: 2^53-1", "cf001fffffffffffff", 9007199254740991),
        ("64 bits: 2^53", "cf0020000000000000", {"$int": "9007199254740992"}),
        ("64 bits: 2^63-1", "cf7fffffffffffffff", {"$int": "9223372036854775807"}),
        ("64 bits: 2^64-1", "cfffffffffffffffff", {"$int": "18446744073709551615"}),
        ("signed 8 bits: -33", "d0df", -33),
        ("signed 8 bits: -128", "d080", -128),
        ("signed 8 bits: 127", "d07f", 127),
        ("signed 16 bits: -129", "d1ff7f", -129),
        ("signed 16 bits: -32768", "d18000", -32768),
        ("signed 32 bits: -32769", "d2ffff7fff", -32769),
        ("signed 32 bits: -2^31", "d280000000", -2147483648),
        ("signed 64 bits: -2^31-1", "d3ffffffff7fffffff", -2147483649),
        ("signed 64 bits: -2^53+1", "d3ffe0000000000001", -9007199254740991),
        ("signed 64 bits: -2^53", "d3ffe0000000000000", {"$int": "-9007199254740992"}),
        ("signed 64 bits: -2^63", "d38000000000000000", {"$int": "-9223372036854775808"}),
        ("float 32: 1.5", "ca3fc00000", 1.5),
        ("float 64: 0.1", "cb3fb999999999999a", 0.1),
        ("float 64: 1", "cb3ff0000000000000", {"$float": "1"}),
        ("float 64: -0", "cb8000000000000000", {"$float": "-0"}),
        ("float 64: inf", "cb7ff0000000000000", {"$float": "inf"}),
        ("float 64: -inf", "cbfff0000000000000", {"$float": "-inf"}),
        ("float 64: nan", "cb7ff8000000000000", {"$float": "nan"}),
        ("text: empty", "a0", ""),
        ("text: 31 bytes", "bf" + "78" * 31, "x" * 31),
        ("text: 8-bit length, empty", "d900", ""),
        ("text: 8-bit length", "d920" + "78" * 32, "x" * 32),
        ("text: 16-bit length", "da0001" + "78", "x"),
        ("text: 32-bit length", "db00000001" + "78", "x"),
        ("text: two, three and four bytes a letter", "a9c3a9e282acf09f9880", "é€😀"),
        ("text: a zero byte", "a100", "\x00"),
        ("text: noncharacter U+FFFF", "a3efbfbf", "\uffff"),
        ("text: U+10FFFF", "a4f48fbfbf", "\U0010ffff"),
        ("text: before the surrogates", "a3ed9fbf", "\ud7ff"),
        ("text: behind the surrogates", "a3ee8080", "\ue000"),
        ("bytes: empty", "c400", {"$bin": ""}),
        ("bytes: 8-bit length", "c403ff00c1", {"$bin": "ff00c1"}),
        ("bytes: 16-bit length", "c5000191", {"$bin": "91"}),
        ("bytes: 32-bit length", "c600000001dd", {"$bin": "dd"}),
        ("array: empty", "90", []),
        ("array: 15", "9f" + "01" * 15, [1] * 15),
        ("array: 16-bit length, empty", "dc0000", []),
        ("array: 16-bit length", "dc0010" + "01" * 16, [1] * 16),
        ("array: 32-bit length", "dd0000000201c0", [1, None]),
        ("map: empty", "80", {}),
        ("map: 16-bit length", "de0001a16101", {"a": 1}),
        ("map: 32-bit length", "df00000001a16101", {"a": 1}),
        ("map: nested", "82a16181a16190a16281a161c0", {"a": {"a": []}, "b": {"a": None}}),
        ("map: the empty key", "81a001", {"": 1}),
        (
            "map: __proto__ is a key like another",
            "81" + text("__proto__") + "81" + text("x") + "01",
            {"__proto__": {"x": 1}},
        ),
        (
            "map: constructor and toString",
            "82" + text("constructor") + "01" + text("toString") + "02",
            {"constructor": 1, "toString": 2},
        ),
        ("map: keys that look like numbers keep", "82a13101a13002", {"1": 1, "0": 2}),
        ("map: keys composed and decomposed differ", "82a2c3a901a365cc8102", {"é": 1, "e\u0301": 2}),
        (
            "map: 20 keys",
            "de0014"
            + "".join(
                f"a3{b'k'.hex()}{n:02d}".replace(f"{n:02d}", (f"{n:02d}").encode().hex()) + "01" for n in range(20)
            ),
            {f"k{n:02d}": 1 for n in range(20)},
        ),
        ("timestamp 32: 0", "d6ff00000000", {"$timestamp": [0, 0]}),
        ("timestamp 32: 2^32-1", "d6ffffffffff", {"$timestamp": [4294967295, 0]}),
        ("timestamp 64: 1 s, 1 µs", "d7ff" + f"{(1000 << 34) | 1:016x}", {"$timestamp": [1, 1000]}),
        ("timestamp 64: 999999999 ns", "d7ff" + f"{(999999999 << 34) | 5:016x}", {"$timestamp": [5, 999999999]}),
        ("timestamp 64: 2^34-1 s", "d7ff00000003ffffffff", {"$timestamp": [17179869183, 0]}),
        ("timestamp 96: before 1970", "c70cff" + "1dcd6500" + "ffffffffffffffff", {"$timestamp": [-1, 500000000]}),
        ("timestamp 96: 1 s", "c70cff" + "00000000" + "0000000000000001", {"$timestamp": [1, 0]}),
        (
            "timestamp 96: beyond the year 9999",
            "c70cff" + "00000000" + "0000010000000000",
            {"$timestamp": [1099511627776, 0]},
        ),
        (
            "many bytes that look like containers",
            "d9c8" + "c280" * 100,
            "\u0080" * 100,
        ),
        ("62 arrays side by side", "dc003e" + "90" * 62, [[]] * 62),
        ("200 arrays side by side", "dc00c8" + "90" * 200, [[]] * 200),
    ]
    out = [good_value(*row) for row in rows]
    deep = "91" * 63 + "c0"
    out.append(good_value("a value inside 64 arrays", deep, nested(63, None)))
    out.append(good_value("an empty array inside 64 arrays", "91" * 63 + "90", nested(63, [])))
    out.append(good_value("an empty map inside 64 arrays", "91" * 63 + "80", nested(63, {})))
    maps: object = None
    for _ in range(63):
        maps = {"a": maps}
    out.append(good_value("a value inside 63 maps and the frame", "81a161" * 63 + "c0", maps))
    out.append(vector("1 MiB of bytes", [result("c600100000"), repeat("91", 1 << 20)], "ok", envelope=OK_RESPONSE))
    out.append(vector("1 MiB of text", [result("db00100000"), repeat("c280", 1 << 19)], "ok", envelope=OK_RESPONSE))
    out.append(vector("4194304 values", [result("dd003ffffa"), repeat("c0", 4194298)], "ok", envelope=OK_RESPONSE))
    return out


def nested(times: int, inner: object) -> object:
    for _ in range(times):
        inner = [inner]
    return inner
