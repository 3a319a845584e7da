"""Sound frames of each kind."""

from typing import Any

from cases.spell import Vector, request, text, vector


def vectors() -> list[Vector]:
    ids = [
        ("1", "01", 1),
        ("127", "7f", 127),
        ("128 in 8 bits", "cc80", 128),
        ("1 in 8 bits", "cc01", 1),
        ("1 in 16 bits", "cd0001", 1),
        ("65535", "cdffff", 65535),
        ("65536", "ce00010000", 65536),
        ("1 in 32 bits", "ce00000001", 1),
        ("2^32-1", "ceffffffff", 4294967295),
        ("2^32", "cf0000000100000000", 4294967296),
        ("1 in 64 bits", "cf0000000000000001", 1),
        ("2^53-1", "cf001fffffffffffff", 9007199254740991),
        ("1 signed in 8 bits", "d001", 1),
        ("1 signed in 16 bits", "d10001", 1),
        ("1 signed in 32 bits", "d200000001", 1),
        ("1 signed in 64 bits", "d30000000000000001", 1),
        ("2^53-1 signed", "d3001fffffffffffff", 9007199254740991),
    ]
    out = [
        vector(
            f"request with id {name}",
            request("80", id=data),
            "ok",
            envelope={"kind": 0, "id": id, "method": "a", "meta": None},
            payload="80",
            value={},
        )
        for name, data, id in ids
    ]

    def ok(name: str, body: Any, envelope: Vector, **more: Any) -> None:
        out.append(vector(name, body, "ok", envelope=envelope, **more))

    hello = {"kind": 0, "id": 1, "method": "hello", "meta": None}
    params = (
        "82"
        + text("protocols")
        + "9101"
        + text("client")
        + "82"
        + text("name")
        + text("x")
        + text("version")
        + text("1")
    )
    ok(
        "hello",
        "950001" + text("hello") + "c0" + params,
        hello,
        payload=params,
        value={"protocols": [1], "client": {"name": "x", "version": "1"}},
    )
    ok(
        "request with meta",
        "950005a46563686f82" + text("session") + text("chat-1") + text("timeout_ms") + "cd7530" + "81a576616c756501",
        {"kind": 0, "id": 5, "method": "echo", "meta": {"session": "chat-1", "timeout_ms": 30000}},
        payload="81a576616c756501",
        value={"value": 1},
    )
    ok(
        "request with params nil",
        request("c0"),
        {"kind": 0, "id": 1, "method": "a", "meta": None},
        payload="c0",
        value=None,
    )
    ok(
        "request with an empty meta",
        request("80", meta="80"),
        {"kind": 0, "id": 1, "method": "a", "meta": {}},
        payload="80",
        value={},
    )
    ok(
        "request with an unknown key of meta",
        request("80", meta="81a3" + b"new".hex() + "9101"),
        {"kind": 0, "id": 1, "method": "a", "meta": {"new": [1]}},
        payload="80",
        value={},
    )
    ok(
        "request, array header in 16 bits",
        "dc0005" + "0001a161c080",
        {"kind": 0, "id": 1, "method": "a", "meta": None},
        payload="80",
        value={},
    )
    ok(
        "request, array header in 32 bits",
        "dd00000005" + "0001a161c080",
        {"kind": 0, "id": 1, "method": "a", "meta": None},
        payload="80",
        value={},
    )
    ok(
        "request, kind in 64 bits",
        "95cf0000000000000000" + "01a161c080",
        {"kind": 0, "id": 1, "method": "a", "meta": None},
        payload="80",
        value={},
    )
    ok(
        "method of 128 bytes",
        request("80", method=text("m" * 128)),
        {"kind": 0, "id": 1, "method": "m" * 128, "meta": None},
        payload="80",
        value={},
    )
    ok(
        "method of 128 bytes in 64 letters",
        request("80", method=text("é" * 64)),
        {"kind": 0, "id": 1, "method": "é" * 64, "meta": None},
        payload="80",
        value={},
    )
    ok("response", "950107c0c0a26f6b", {"kind": 1, "id": 7, "meta": None, "error": None}, payload="a26f6b", value="ok")
    ok("response with nil", "950107c0c0c0", {"kind": 1, "id": 7, "meta": None, "error": None}, payload="c0", value=None)
    ok(
        "response with meta",
        "95010782" + text("worker") + text("w1") + text("run_us") + "0c" + "c001",
        {"kind": 1, "id": 7, "meta": {"worker": "w1", "run_us": 12}, "error": None},
        payload="01",
        value=1,
    )
    error = (
        "84"
        + text("code")
        + text("queue_full")
        + text("message")
        + text("no")
        + text("retryable")
        + "c3"
        + text("details")
        + "c0"
    )
    ok(
        "response with an error",
        "950107c0" + error + "c0",
        {
            "kind": 1,
            "id": 7,
            "meta": None,
            "error": {"code": "queue_full", "message": "no", "retryable": True, "details": None},
        },
        payload="c0",
        value=None,
    )
    ok(
        "response with an empty error",
        "950107c080c0",
        {"kind": 1, "id": 7, "meta": None, "error": {}},
        payload="c0",
        value=None,
    )
    ok(
        "notification",
        "9402" + text("goaway") + "c0" + "81" + text("drain_ms") + "cd03e8",
        {"kind": 2, "method": "goaway", "meta": None},
        payload="81" + text("drain_ms") + "cd03e8",
        value={"drain_ms": 1000},
    )
    ok("item", "940309c0a568656c6c6f", {"kind": 3, "id": 9, "meta": None}, payload="a568656c6c6f", value="hello")
    ok("item with nil", "940309c0c0", {"kind": 3, "id": 9, "meta": None}, payload="c0", value=None)
    ok("cancel", "930409c0", {"kind": 4, "id": 9, "reason": None})
    ok("cancel with a reason", "930409" + text("gone"), {"kind": 4, "id": 9, "reason": "gone"})
    ok("cancel with an empty reason", "930409a0", {"kind": 4, "id": 9, "reason": ""})
    ok("cancel with a reason of 256 bytes", "930409" + text("r" * 256), {"kind": 4, "id": 9, "reason": "r" * 256})
    ok("credit of 1", "93050901", {"kind": 5, "id": 9, "n": 1})
    ok("credit of 2^31-1", "930509ce7fffffff", {"kind": 5, "id": 9, "n": 2147483647})
    changes = "82" + text("set") + "81a16b01" + text("delete") + "91a164"
    ok("change", "930609" + changes, {"kind": 6, "id": 9}, payload=changes, value={"set": {"k": 1}, "delete": ["d"]})
    return out
