"""Pydantic models as parameters and as results, without pydantic: what has their methods will do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from .errors import InvalidResult

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Model(Protocol):
    """A pydantic model."""

    def model_dump(self) -> dict[str, Any]:
        """What it holds."""


class Adapter(Protocol[T_co]):
    """A TypeAdapter of pydantic's."""

    def validate_python(self, value: Any, /) -> T_co:
        """What it makes of a value. Raises ValueError."""


Params = Mapping[str, Any] | Model


def validated(result: type[T] | Adapter[T], value: Any, what: str) -> T:
    """A pydantic model of the value, or what a TypeAdapter makes of it. Raises InvalidResult."""
    validate = getattr(result, "model_validate", None) or getattr(result, "validate_python", None)
    if validate is None:
        raise TypeError(f"a result is made by a pydantic model or a TypeAdapter, not by {result!r}")
    try:
        made: T = validate(value)
    except ValueError as error:  # as pydantic's is
        raise InvalidResult(f"what {what} returned is not what was expected: {error}") from error
    return made
