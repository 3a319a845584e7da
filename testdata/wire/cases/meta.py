"""The meta of a request."""

from cases.spell import Vector, request, text, vector


def vectors() -> list[Vector]:
    good = [
        ("session", text("chat-1"), "chat-1"),
        ("session", text("s" * 128), "s" * 128),
        ("session", text("Sitzung 7/ü"), "Sitzung 7/ü"),
        ("session_token", text("t"), "t"),
        ("pool", text("default"), "default"),
        ("timeout_ms", "00", 0),
        ("timeout_ms", "cf001fffffffffffff", 9007199254740991),
        ("retry", text("safe"), "safe"),
        ("stream", "01", 1),
        ("stream", "ce7fffffff", 2147483647),
        ("traceparent", text("t" * 128), "t" * 128),
        ("app", "80", {}),
        ("app", "81a16190", {"a": []}),
        ("parent", "07", 7),
        ("unheard-of", "90", []),
    ]
    bad = [
        ("session", "empty", "a0"),
        ("session", "129 bytes", text("s" * 129)),
        ("session", "129 bytes in 43 letters", text("€" * 43)),
        ("session", "a newline", text("a\nb")),
        ("session", "a zero byte", text("a\0")),
        ("session", "U+007F", text("\x7f")),
        ("session", "a number", "01"),
        ("session", "nil", "c0"),
        ("session", "bytes", "c40161"),
        ("session_token", "a number", "01"),
        ("pool", "a number", "01"),
        ("pool", "true", "c3"),
        ("timeout_ms", "-1", "ff"),
        ("timeout_ms", "a float", "cb3ff0000000000000"),
        ("timeout_ms", "text", "a131"),
        ("timeout_ms", "true", "c3"),
        ("timeout_ms", "nil", "c0"),
        ("retry", "another word", text("always")),
        ("retry", "true", "c3"),
        ("stream", "0", "00"),
        ("stream", "-1", "ff"),
        ("stream", "2^31", "ce80000000"),
        ("stream", "true", "c3"),
        ("stream", "a float", "cb3ff0000000000000"),
        ("traceparent", "129 bytes", text("t" * 129)),
        ("traceparent", "a number", "01"),
        ("app", "an array", "90"),
        ("app", "text", "a161"),
        ("parent", "text", "a131"),
        ("parent", "-1", "ff"),
        ("parent", "a float", "cb3ff0000000000000"),
    ]
    out: list[Vector] = []
    for key, data, value in good:
        out.append(
            vector(
                f"{key} {len(out)}",
                request("80", id="05", meta="81" + text(key) + data),
                "ok",
                envelope={"kind": 0, "id": 5, "method": "a", "meta": {key: value}},
                payload="80",
                value={},
            )
        )
    for key, name, data in bad:
        out.append(
            vector(
                f"{key}: {name}", request("80", id="05", meta="81" + text(key) + data), "content", envelope={"id": 5}
            )
        )
    return out
