"""How the values of a field's type look on the wire: what is strict, and what else is taken.

Text is not taken for numbers, nor numbers for truth values. Dates and times, which a client in another language may
have no type for, are taken as ISO 8601 text too. Types of the application's own are left to their own rules.
"""

from __future__ import annotations

import typing
from datetime import date, datetime
from functools import partial
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Strict, TypeAdapter, ValidationInfo, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ModelSchema

from dspex_worker.dspy_app.field_types import is_union, type_text
from dspex_worker.dspy_app.media import MEDIA, NOTHING, SCHEMA, Permissions, to_media
from dspex_worker.dspy_app.media_in_models import is_model, media_fields, model_validator

_STRICT = frozenset({str, int, float, bool, bytes})


def strict_type(annotation: Any) -> Any:
    """The type with its plain members strict."""
    if isinstance(annotation, type) and annotation in _STRICT:
        return Annotated[annotation, Strict()]
    if annotation in (date, datetime):
        return Annotated[annotation, BeforeValidator(_date_or_text)]
    if annotation in MEDIA:
        return Annotated[annotation, BeforeValidator(partial(_medium, annotation)), WithJsonSchema(SCHEMA)]
    if is_model(annotation):
        return Annotated[annotation, model_validator(annotation)] if media_fields(annotation) else annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if is_union(annotation):
        return Union[tuple(strict_type(argument) for argument in arguments)]  # noqa: UP007 - made at run time
    if origin is Literal:
        return Annotated[annotation, BeforeValidator(partial(_exactly_one_of, arguments))]
    if origin in (list, dict, tuple, set, frozenset):
        return origin[tuple(a if a is Ellipsis else strict_type(a) for a in arguments)]
    return annotation


def wire_schema(annotation: Any) -> dict[str, Any]:
    """The JSON schema of a type's values. Raises what pydantic raises where there is none."""
    return TypeAdapter(strict_type(annotation)).json_schema(schema_generator=_Schema)


class _Schema(GenerateJsonSchema):
    """Tells of media inside models, too, how they are sent."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        return dict(SCHEMA) if schema["cls"] in MEDIA else super().model_schema(schema)


def _medium(kind: type[Any], value: Any, info: ValidationInfo) -> Any:
    return to_media(kind, value, info.context if isinstance(info.context, Permissions) else NOTHING)


def _exactly_one_of(allowed: tuple[Any, ...], value: Any) -> Any:
    """Let a value pass for pydantic to tell whether it is allowed, unless it only equals one: True does 1."""
    if isinstance(value, (bool, int, float)) and not any(type(value) is type(one) and value == one for one in allowed):
        raise PydanticCustomError("literal", f"Input should be {type_text(Literal[allowed])[8:-1]}")
    return value


def _date_or_text(value: Any) -> Any:
    if isinstance(value, (date, str)):
        return value
    raise PydanticCustomError("date", "Input should be a date or time: an instant, or ISO 8601 text")
