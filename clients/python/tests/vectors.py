"""Reads testdata/wire (its README tells the format)."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import msgpack

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "testdata" / "wire"


@functools.cache
def load(name: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())["vectors"]
    return vectors


def expand(data: str | list[Any]) -> bytes:
    if isinstance(data, str):
        return bytes.fromhex(data)
    return b"".join(
        bytes.fromhex(part) if isinstance(part, str) else bytes.fromhex(part["repeat"][0]) * part["repeat"][1]
        for part in data
    )


def untag(value: Any) -> Any:
    """The value that a vector's JSON stands for; timestamps as msgpack.Timestamp."""
    if isinstance(value, list):
        return [untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("$bin", data)]:
            return bytes.fromhex(data)
        case [("$timestamp", [seconds, nanoseconds])]:
            return msgpack.Timestamp(seconds, nanoseconds)
        case [("$int", digits)]:
            return int(digits)
        case [("$float", digits)]:
            return float(digits)
    return {key: untag(item) for key, item in value.items()}
