"""Bytes, spelled out: these write one form of a value and check nothing."""

from typing import Any

Vector = dict[str, Any]


def text(value: str) -> str:
    data = value.encode()
    if len(data) < 32:
        return f"{0xA0 | len(data):02x}" + data.hex()
    if len(data) < 256:
        return f"d9{len(data):02x}" + data.hex()
    return f"da{len(data):04x}" + data.hex()


def length(body: str) -> str:
    return f"{len(body) // 2:08x}"


def repeat(part: str, times: int) -> Vector:
    return {"repeat": [part, times]}


def request(params: str, *, id: str = "01", method: str = "a161", meta: str = "c0") -> str:
    return "9500" + id + method + meta + params


def result(value: str) -> str:
    """A response whose result is `value`."""
    return "950101c0c0" + value


def vector(name: str, body: Any, verdict: str, **more: Any) -> Vector:
    return {"name": name, "body": body, "verdict": verdict, **more}


OK_RESPONSE = {"kind": 1, "id": 1, "meta": None, "error": None}


def good_value(name: str, data: str, value: Any) -> Vector:
    return vector(name, result(data), "ok", envelope=OK_RESPONSE, payload=data, value=value)
