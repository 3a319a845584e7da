"""Python values to MessagePack, with the place of what cannot be packed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final

import msgpack

from dspex.errors import NotSerializable

from .limits import MAX_DEPTH, MAX_VALUES
from .scan import scan
from .violations import StructureError

_BUFFER: Final = 1024
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, bytearray, datetime, msgpack.Timestamp})
_TEXT: Final = {str}
_TOO_DEEP: Final = f"values are nested deeper than {MAX_DEPTH}, or hold themselves"
_INSIDE_FRAME: Final = MAX_DEPTH - 1  # the frame's own array is around every payload


def pack_value(value: Any, root: str = "value") -> bytes:
    """The MessagePack of one value: None, bool, int, float, str, bytes, datetime, dict with text keys, list, tuple.

    Dataclasses, pydantic models, enums and objects with `toDict()` are packed as what they hold.
    Raises NotSerializable, whose `details["path"]` leads from `root` to what cannot be packed.
    """
    return pack(plain_value(value, root), value, root)


def plain_value(value: Any, root: str) -> Any:
    """`value` as it is where it holds plain values only, else a copy that does. Raises NotSerializable."""
    return value if _is_plain(value, _INSIDE_FRAME) else _convert(value, root, _INSIDE_FRAME)


def pack(whole: Any, value: Any, root: str) -> bytes:
    """Pack `whole`, of which `value`, called `root`, is the part that users know."""
    try:
        # A packer for each frame costs 50 ns, and is safe where a finaliser or another thread packs in between.
        data: bytes = msgpack.Packer(datetime=True, buf_size=_BUFFER).pack(whole)  # type: ignore[call-arg]  # msgpack has it
    except (TypeError, ValueError, OverflowError):
        _convert(value, root, _INSIDE_FRAME)  # finds the culprit
        _convert(whole, "frame", MAX_DEPTH)
        raise
    if len(data) > MAX_VALUES:
        try:
            scan(data)
        except StructureError as error:
            raise _failure(root, str(error)) from None
    return data


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in SCALARS:
        return True
    if kind is dict:
        if not value:
            return True
        if not depth or set(map(type, value)) != _TEXT:
            return False
        value = value.values()
    elif (kind is not list and kind is not tuple) or (value and not depth):
        return False
    if SCALARS.issuperset(map(type, value)):
        return True
    for item in value:
        if type(item) not in SCALARS and not _is_plain(item, depth - 1):
            return False
    return True


def _convert(value: Any, path: str, depth: int) -> Any:
    """A copy of plain values only. Raises NotSerializable."""
    if isinstance(value, Enum):
        return _convert(value.value, path, depth)
    if value is None or isinstance(value, (bool, float, bytes, bytearray, msgpack.Timestamp)):
        return value
    if isinstance(value, (int, str, datetime)):
        return _checked(value, path)
    if isinstance(value, (Mapping, list, tuple)):
        if value and not depth:
            raise _failure(path, _TOO_DEEP)
        if isinstance(value, Mapping):
            return {_key(key, path): _convert(item, step(path, key), depth - 1) for key, item in value.items()}
        return [_convert(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value)]
    inner = _unwrapped(value, path)
    if not isinstance(inner, (dict, list, tuple)):  # it may hold itself
        if not depth:
            raise _failure(path, _TOO_DEEP)
        depth -= 1
    return _convert(inner, path, depth)


def _unwrapped(value: Any, path: str) -> Any:
    """What an object holds, as plainer values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for name in ("model_dump", "toDict"):
        method = getattr(value, name, None)
        if callable(method) and not isinstance(value, type):
            return method()
    kind = type(value)
    hint = "; use a list" if isinstance(value, (set, frozenset)) else ""
    raise _failure(path, f"a value of type {kind.__module__}.{kind.__qualname__} cannot be packed{hint}")


def _checked(value: int | str | datetime, path: str) -> int | str | datetime:
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise _failure(path, "an integer outside -2^63 to 2^64-1")
        return int(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _failure(path, "text with a lone surrogate") from None
        return str(value)
    if value.tzinfo is None:
        raise _failure(path, "a datetime without a time zone")
    return value


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise _failure(path, f"a map key of type {type(key).__name__}: keys are text")
    _checked(key, step(path, key))
    return str(key)


def step(path: str, key: object) -> str:
    """The path to a map's entry."""
    return f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"


def _failure(path: str, message: str) -> NotSerializable:
    return NotSerializable(f"{path}: {message}", details={"path": path})
