"""The frames of the protocol as Python values. Maps and payloads are decoded; `meta` and `params` of nil are `{}`."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple


class Kind(IntEnum):
    """The first item of a frame."""

    REQUEST = 0
    RESPONSE = 1
    NOTIFICATION = 2
    ITEM = 3
    CANCEL = 4
    CREDIT = 5
    CHANGE = 6


class Request(NamedTuple):
    id: int
    method: str
    meta: dict[str, Any]
    params: dict[str, Any]


class Response(NamedTuple):
    """`error` is None where the call succeeded; then `result` is what it returned."""

    id: int
    meta: dict[str, Any]
    error: dict[str, Any] | None
    result: Any


class Notification(NamedTuple):
    method: str
    meta: dict[str, Any]
    params: dict[str, Any]


class Item(NamedTuple):
    id: int
    meta: dict[str, Any]
    item: Any


class Cancel(NamedTuple):
    id: int
    reason: str | None


class Credit(NamedTuple):
    id: int
    n: int


class Change(NamedTuple):
    id: int
    changes: Any


class Unknown(NamedTuple):
    """A frame of a kind that this version does not know: ignored and counted."""

    kind: int


Message = Request | Response | Notification | Item | Cancel | Credit | Change | Unknown
