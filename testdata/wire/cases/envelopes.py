"""Heads that cannot be read."""

from typing import Any

from cases.spell import Vector, repeat, request, text, vector


def vectors() -> list[Vector]:
    out: list[Vector] = []

    def bad(name: str, body: Any, id: int | None) -> None:
        out.append(vector(name, body, "envelope", envelope={"id": id}))

    bad("no items", "90", None)
    for name, kind in [
        ("nil", "c0"),
        ("-1", "ff"),
        ("true", "c3"),
        ("0 as a float", "cb0000000000000000"),
        ("text", "a130"),
        ("an array", "90"),
    ]:
        bad(f"kind: {name}", f"95{kind}01a161c080", None)
    for name, data in [
        ("0", "00"),
        ("0 in 64 bits", "cf0000000000000000"),
        ("2^53", "cf0020000000000000"),
        ("2^63", "cf8000000000000000"),
        ("2^64-1", "cfffffffffffffffff"),
        ("-1", "ff"),
        ("-1 in 64 bits", "d3ffffffffffffffff"),
        ("-2^63", "d38000000000000000"),
        ("1 as a float", "cb3ff0000000000000"),
        ("1 as a float 32", "ca3f800000"),
        ("nil", "c0"),
        ("true", "c3"),
        ("text", "a131"),
        ("bytes", "c40101"),
        ("an array", "9101"),
        ("a timestamp", "d6ff00000001"),
    ]:
        bad(f"id: {name}", request("80", id=data), None)
    bad("id of a response: 0", "950100c0c0c0", None)
    bad("id of an item: 2^53", "9403cf0020000000000000c0c0", None)
    bad("id of a cancel: nil", "9304c0c0", None)
    bad("id of a credit: text", "9305a13101", None)
    bad("id of a change: -1", "9306ff80", None)
    for count, body, id in [
        (1, "9100", None),
        (2, "920001", 1),
        (3, "930001a161", 1),
        (4, "940001a161c0", 1),
        (6, "960001a161c080c0", 1),
        (16, "dc0010" + "0001a161c080" + "c0" * 11, 1),
    ]:
        bad(f"a request of {count} items", body, id)
    bad("a response of 4 items", "940107c0c0", 7)
    bad("a response of 6 items", "960107c0c0c0c0", 7)
    bad("a notification of 3 items", "9302a161c0", None)
    bad("a notification of 5 items, with an id", "950201a161c080", None)
    bad("a notification of 5 items", "9502a161c080c0", None)
    bad("an item of 3 items", "930307c0", 7)
    bad("an item of 5 items", "950307c0c0c0", 7)
    bad("a cancel of 2 items", "920407", 7)
    bad("a cancel of 4 items", "940407c0c0", 7)
    bad("a credit of 2 items", "920507", 7)
    bad("a credit of 4 items", "94050701c0", 7)
    bad("a change of 2 items", "920607", 7)
    bad("a change of 4 items", "94060780c0", 7)
    for name, method in [
        ("empty", "a0"),
        ("129 bytes", text("m" * 129)),
        ("129 bytes in 43 letters", text("€" * 43)),
        ("nil", "c0"),
        ("a number", "01"),
        ("bytes", "c40161"),
        ("an array", "91a161"),
        ("not UTF-8", "a1ff"),
    ]:
        bad(f"method: {name}", request("80", method=method), 1)
        bad(f"method of a notification: {name}", f"9402{method}c080", None)
    for name, value in [("false", "c2"), ("0", "00"), ("text", "a161"), ("an array", "90"), ("bytes", "c400")]:
        bad(f"meta: {name}", request("80", meta=value), 1)
        bad(f"params: {name}", request(value), 1)
        bad(f"meta of a response: {name}", f"950107{value}c0c0", 7)
        bad(f"error: {name}", f"950107c0{value}c0", 7)
        bad(f"meta of a notification: {name}", f"9402a161{value}80", None)
        bad(f"params of a notification: {name}", f"9402a161c0{value}", None)
        bad(f"meta of an item: {name}", f"940307{value}c0", 7)
    bad("an error and a result", "950107c08000", 7)
    bad("an error and false as a result", "950107c080c2", 7)
    for name, value in [
        ("257 bytes", text("r" * 257)),
        ("a number", "00"),
        ("bytes", "c40161"),
        ("a map", "80"),
        ("not UTF-8", "a1ff"),
    ]:
        bad(f"reason: {name}", f"930407{value}", 7)
    for name, value in [
        ("0", "00"),
        ("-1", "ff"),
        ("2^31", "ce80000000"),
        ("2^64-1", "cfffffffffffffffff"),
        ("1 as a float", "cb3ff0000000000000"),
        ("nil", "c0"),
        ("text", "a131"),
        ("true", "c3"),
    ]:
        bad(f"credit: {name}", f"930507{value}", 7)
    bad("a bad id before text that is not UTF-8", request("81a161a1ff", id="00"), None)
    bad("a bad method before a repeated key", request("82a16101a16102", method="a0"), 1)
    bad("too many items, and a repeated key", "960001a161c0" + "82a16101a16102" + "c0", 1)

    # The head ends before the payload. meta is {"a": text}: 81 a161 da.... are 6 bytes, and the text.
    def head(before: str, length: int) -> list[Any]:
        padding = length - len(before) // 2 - 6
        return [f"{before}81a161da{padding:04x}", repeat("78", padding)]

    out.append(
        vector(
            "a request's head of 65536 bytes",
            [*head("950001a161", 65536), "80"],
            "ok",
            envelope={"kind": 0, "id": 1, "method": "a"},
            payload="80",
            value={},
        )
    )
    bad("a request's head of 65537 bytes", [*head("950001a161", 65537), "80"], 1)
    out.append(
        vector(
            "a notification's head of 65536 bytes",
            [*head("9402a161", 65536), "80"],
            "ok",
            envelope={"kind": 2, "method": "a"},
            payload="80",
            value={},
        )
    )
    bad("a notification's head of 65537 bytes", [*head("9402a161", 65537), "80"], None)
    out.append(
        vector(
            "an item's head of 65536 bytes",
            [*head("940307", 65536), "c0"],
            "ok",
            envelope={"kind": 3, "id": 7},
            payload="c0",
            value=None,
        )
    )
    bad("an item's head of 65537 bytes", [*head("940307", 65537), "c0"], 7)
    out.append(
        vector(
            "a response's head of 65536 bytes, by its error",
            [*head("950107c0", 65536), "c0"],
            "ok",
            envelope={"kind": 1, "id": 7, "meta": None},
            payload="c0",
            value=None,
        )
    )
    bad("a response's head of 65537 bytes, by its error", [*head("950107c0", 65537), "c0"], 7)
    bad("a response's head of 65537 bytes, by its meta", [*head("950107", 65536), "c0c0"], 7)
    bad("a head of 200 KB in small values", ["950001a16181a161dd00030d40", repeat("c0", 200_000), "80"], 1)

    for name, body in [
        ("7", "93070180"),
        ("7, alone", "9107"),
        ("127", "927f01"),
        ("200", "95ccc801c0c0c0"),
        ("2^64-1", "91cfffffffffffffffff"),
        ("7, text that is not UTF-8", "9207a1ff"),
        ("7, a repeated key", "920782a16101a16102"),
        ("7, keys that are not text", "920781c0c0"),
        ("7, id 0", "930700c0"),
    ]:
        out.append(vector(f"unknown kind: {name}", body, "unknown_kind"))
    return out
