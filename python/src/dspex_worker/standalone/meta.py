"""The meta of a client's request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dspex import wire
from dspex.errors import InvalidFrame

from dspex_worker.standalone.table import valid_id


def check(meta: dict[str, Any]) -> None:
    """Raise InvalidFrame where a known key has a value of another type, or one out of range."""
    for key, value in meta.items():
        rule = _RULES.get(key)
        if rule is not None and not rule(value):
            raise InvalidFrame(f"meta.{key} has a value of a wrong type or out of range")


def _integer(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _text(value: Any) -> bool:
    return type(value) is str


_RULES: dict[str, Callable[[Any], bool]] = {
    "session": lambda value: _text(value) and valid_id(value),
    "session_token": _text,
    "pool": _text,
    "timeout_ms": lambda value: _integer(value, 0, 2**64 - 1),
    "retry": lambda value: value == "safe",
    "stream": lambda value: _integer(value, 1, wire.MAX_CREDIT),
    "traceparent": lambda value: _text(value) and len(value.encode()) <= 128,
    "app": lambda value: type(value) is dict,
    "parent": lambda value: _integer(value, 1, wire.MAX_ID),
}
