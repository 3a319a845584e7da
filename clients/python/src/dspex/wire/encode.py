"""Messages to whole frames, length included, ready to be sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .limits import MAX_REASON
from .values import SCALARS, pack, plain_value


def encode_request(id: int, method: str, meta: Mapping[str, Any] | None, params: Mapping[str, Any] | None) -> bytes:
    """Raises NotSerializable, as all of these do."""
    params = plain_value(params, "params")
    return _frame(pack([0, id, method, meta, params], params, "params"))


def encode_response(id: int, meta: Mapping[str, Any] | None, result: Any) -> bytes:
    """The response of a call that succeeded."""
    if type(result) not in SCALARS:
        result = plain_value(result, "result")
    body = pack([1, id, meta, None, result], result, "result")
    return len(body).to_bytes(4, "big") + body  # `_frame`, without the call: this is what a worker sends most


def encode_error(id: int, meta: Mapping[str, Any] | None, error: Mapping[str, Any]) -> bytes:
    """The response of a call that failed; `error` as `DspexError.to_wire` makes it."""
    error = plain_value(error, "error")
    return _frame(pack([1, id, meta, error, None], error, "error"))


def encode_notification(method: str, params: Mapping[str, Any] | None) -> bytes:
    params = plain_value(params, "params")
    return _frame(pack([2, method, None, params], params, "params"))


def encode_item(id: int, item: Any) -> bytes:
    """One item of a stream."""
    if type(item) not in SCALARS:
        item = plain_value(item, "item")
    return _frame(pack([3, id, None, item], item, "item"))


def encode_cancel(id: int, reason: str | None = None) -> bytes:
    """A reason that is too long is cut."""
    if reason is not None:
        reason = reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
    return _frame(pack([4, id, reason], None, "reason"))


def encode_credit(id: int, n: int) -> bytes:
    return _frame(pack([5, id, n], None, "n"))


def encode_change(
    id: int,
    set: Mapping[str, bytes] | None = None,
    delete: Iterable[str] = (),
    secrets: Mapping[str, bytes] | None = None,
) -> bytes:
    """What a call changed in its session; the values are packed already, by `pack_value`."""
    parts = [b"\x93\x06", pack(id, None, "id"), b""]
    entries = 0
    for name, values in (("set", set), ("secrets", secrets)):
        if values:
            entries += 1
            parts += (pack(name, None, ""), pack_map(values))
    if gone := list(delete):
        entries += 1
        parts += (pack("delete", None, ""), pack(gone, None, ""))
    parts[2] = bytes((0x80 | entries,))
    return _frame(b"".join(parts))


def pack_map(values: Mapping[str, bytes]) -> bytes:
    """A map of values that are packed already."""
    count = len(values)
    if count < 16:
        parts = [bytes((0x80 | count,))]
    else:
        parts = [b"\xdf" + count.to_bytes(4, "big")]
    for key, value in values.items():
        parts += (pack(key, None, ""), value)
    return b"".join(parts)


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body
