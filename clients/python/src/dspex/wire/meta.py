"""The known keys of a request's meta, and what they may hold. For receivers of requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from .limits import MAX_CREDIT, MAX_IDEMPOTENCY_KEY, MAX_SESSION_ID
from .violations import ContentError

_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_MAX_TRACE: Final = 128


def is_session_id(value: Any) -> bool:
    """Text of 1 to 128 bytes without control characters."""
    return _is_text(value) and 0 < len(value.encode()) <= MAX_SESSION_ID and not _CONTROL.search(value)


def check_request_meta(meta: Mapping[str, Any], id: int | None = None) -> None:
    """Raises ContentError (`invalid_frame` for `id`) that names the key whose value is wrong."""
    for key, value in meta.items():
        check = _KNOWN.get(key)
        if check is not None and not check(value):
            raise ContentError(f"meta.{key} has a value of a wrong type or out of range", id)


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


_KNOWN: Final[Mapping[str, Callable[[Any], bool]]] = {
    "session": is_session_id,
    "session_token": _is_text,
    "pool": _is_text,
    "timeout_ms": _is_count,
    "idempotency_key": lambda value: _is_text(value) and 0 < len(value.encode()) <= MAX_IDEMPOTENCY_KEY,
    "detach": lambda value: type(value) is bool,
    "retry": lambda value: type(value) is str and value == "safe",
    "stream": lambda value: type(value) is int and 0 < value <= MAX_CREDIT,
    "traceparent": lambda value: _is_text(value) and len(value.encode()) <= _MAX_TRACE,
    "app": lambda value: type(value) is dict,
    "parent": _is_count,
}
