"""Values that go to another process and back: on the way in the protocol's types, at its ends as a field has them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import dspy
from dspex import wire
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from dspex_worker.dspy_app.media import Permissions
from dspex_worker.dspy_app.plain import plain
from dspex_worker.dspy_app.wire_types import strict_type

_ALL: Final = Permissions(media_urls=True)  # they were let in by the process that they come from


def packed(value: dict[str, Any]) -> bytes:
    """Raises DspexError ``not_serializable``."""
    return wire.pack_value(plain(value))


def unpacked(data: bytes) -> dict[str, Any]:
    found = wire.decode_value(data)
    assert isinstance(found, dict)
    return found


def retyped(types: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as fields of these types have them; what fits none is left as it came."""
    return {name: _as(types[name], value) if name in types else value for name, value in values.items()}


def types_of(signature: type[dspy.Signature]) -> dict[str, Any]:
    return {name: field.annotation for name, field in signature.fields.items()}


def _as(kind: Any, value: Any) -> Any:
    adapter = _adapter(kind)
    try:
        return value if adapter is None else adapter.validate_python(value, context=_ALL)
    except ValidationError:
        return value


@lru_cache(1000)
def _adapter(kind: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(strict_type(kind))
    except PydanticSchemaGenerationError:  # a class of the application's that is not pydantic's
        return None
