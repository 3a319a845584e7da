"""Broken structure."""

from cases.spell import Vector, repeat, request, result, text, vector

GOOD = (
    "9500cd012ca46563686f81"
    + text("timeout_ms")
    + "cd03e8"
    + "82a17694ca3fc00000a2c3a9c402ff00d7ff0000000000000001a17701"
)


def vectors() -> list[Vector]:
    cases: list[tuple[str, object]] = [
        ("2 MB of 0x91", [repeat("91", 2_000_000)]),
        ("2 MB of 0x91 as a payload", [request(""), repeat("91", 2_000_000)]),
        ("2 MB of 0x81 as a payload", [request(""), repeat("81", 2_000_000)]),
        ("an array of 2^32-1 items", "ddffffffff"),
        ("an array of 2^32-1 items as a payload", result("ddffffffff")),
        ("an array of 2^31 items as a payload", result("dd80000000")),
        ("a map of 2^32-1 entries as a payload", request("dfffffffff")),
        ("a map of 2^31 entries as a payload", request("df80000000")),
        ("a map of 2^31-1 entries as a payload", request("df7fffffff")),
        ("bytes of 2^32-1", result("c6ffffffff")),
        ("text of 2^32-1", result("dbffffffff")),
        ("text of 2^31", result("db80000000")),
        ("5000 arrays of 65535, each in the one before", [repeat("dcffff", 5000)]),
        ("60 arrays of 65535, each in the one before, as a payload", [result(""), repeat("dcffff", 60)]),
        ("60 arrays of 65535 with 64 KiB behind them", [result(""), repeat("dcffff", 60), repeat("c0", 65536)]),
        ("60 maps of 65535", [request(""), repeat("deffffa161", 60)]),
        ("one item more than bytes are left", result("93" + "c0c0")),
        ("one entry more than bytes are left", result("82" + "a161" + "c0")),
        ("a map with a key and no value", result("81" + "a161")),
        ("a value inside 65 arrays", result("91" * 64 + "c0")),
        ("an array inside 65 arrays", result("91" * 64 + "90")),
        ("a value inside 64 maps and the frame", result("81a161" * 64 + "c0")),
        ("a key inside 65 containers", result("91" * 63 + "81" + "a161" + "c0")),
        (
            "a value inside 65 arrays, many arrays beside",
            result("93" + "91" * 63 + "c0" + "dc00c8" + "90" * 200 + "c0"),
        ),
        ("a value inside 65 arrays, in meta", request("80", meta="81a161" + "91" * 63 + "c0")),
        (
            "a value inside 65 arrays, 20 KB behind it",
            [result("92" + "91" * 63 + "c0" + "da5000"), repeat("78", 0x5000)],
        ),
        ("4194305 values", [result("dd003ffffb"), repeat("c0", 4194299)]),
        ("0xc1 as the body", "c1"),
        ("0xc1 as a payload", result("c1")),
        ("0xc1 as a kind", "95c101a161c080"),
        ("0xc1 in an array", result("93c0c1c0")),
        ("0xc1 as a key", result("81c101")),
        ("0xc1 in meta", request("80", meta="81a161c1")),
        ("left over: one byte", request("80") + "00"),
        ("left over: a second frame", request("80") * 2),
        ("left over behind an empty array", "9000"),
        ("not an array: nil", "c0"),
        ("not an array: a number", "00"),
        ("not an array: text", "a161"),
        ("not an array: a map", "81a16101"),
        ("not an array: a map whose keys are a frame's items", "820001a161c0"),
        ("not an array: a timestamp", "d6ff00000000"),
        ("extension 1 of 1 byte", result("d40100")),
        ("extension 1 of 2 bytes", result("d5010000")),
        ("extension 1 of 4 bytes", result("d60100000000")),
        ("extension 1 of 8 bytes", result("d7010000000000000000")),
        ("extension 1 of 16 bytes", result("d801" + "00" * 16)),
        ("extension 1, 8-bit length", result("c7010100")),
        ("extension 1, 16-bit length", result("c800010100")),
        ("extension 1, 32-bit length", result("c9000000010100")),
        ("extension 1 of 2^32-1 bytes", result("c9ffffffff01")),
        ("extension of no bytes", result("c70001")),
        ("extension -2 of 4 bytes", result("d6fe00000000")),
        ("extension 0x7f in meta", request("80", meta="81a161d47f00")),
        ("timestamp of 0 bytes", result("c700ff")),
        ("timestamp of 1 byte", result("d4ff00")),
        ("timestamp of 2 bytes", result("d5ff0000")),
        ("timestamp of 16 bytes", result("d8ff" + "00" * 16)),
        ("timestamp of 4 bytes, not in its form", result("c704ff00000000")),
        ("timestamp of 8 bytes, not in its form", result("c708ff" + "00" * 8)),
        ("timestamp of 12 bytes, 16-bit length", result("c8000cff" + "00" * 12)),
        ("timestamp of 12 bytes, 32-bit length", result("c90000000cff" + "00" * 12)),
        ("timestamp of 12 bytes, cut", result("c70cff" + "00" * 11)),
        ("text that is not UTF-8, and cut behind it", result("92a1ff")),
        ("a repeated key, and 0xc1 behind it", result("9282a16101a16102c1")),
        ("a bad id, and cut behind it", "950000a161c0"),
        ("an unknown kind, cut", "9363"),
        ("an unknown kind, 0xc1", "9263c1"),
    ]
    out = [vector(name, body, "structure") for name, body in cases]
    out += [vector(f"cut after {n} bytes", GOOD[: 2 * n], "structure") for n in range(1, len(GOOD) // 2)]
    out.append(
        vector(
            "not cut",
            GOOD,
            "ok",
            envelope={"kind": 0, "id": 300, "method": "echo", "meta": {"timeout_ms": 1000}},
            payload="82a17694ca3fc00000a2c3a9c402ff00d7ff0000000000000001a17701",
            value={"v": [1.5, "é", {"$bin": "ff00"}, {"$timestamp": [1, 0]}], "w": 1},
        )
    )
    return out
