"""Inputs are checked here before any LM is called: DSPy only logs a warning and spends the call.

Text is not taken for numbers, nor numbers for truth values. Dates and times, which a client in another language may
have no type for, are taken as ISO 8601 text too.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import PydanticCustomError

from dspex_worker.dspy_app.errors import Problem, invalid_params
from dspex_worker.dspy_app.field_types import type_text
from dspex_worker.dspy_app.names import problem_of_name
from dspex_worker.dspy_app.signatures import Field, allows_none

_STRICT = frozenset({str, int, float, bool, bytes})


class InputChecker:
    """Checks a client's inputs against fields; against names only where the fields are not known."""

    def __init__(self, fields: Sequence[Field] | None) -> None:
        self._fields = None if fields is None else {field.name: _FieldChecker(field) for field in fields}

    def check(self, inputs: object) -> dict[str, Any]:
        """Return the inputs as the program takes them.

        Raises:
            DspexError: ``invalid_params``, with all that is missing, unknown or of a wrong type.
        """
        if not isinstance(inputs, Mapping):
            raise invalid_params([Problem("inputs", f"must be a map, is {type(inputs).__name__}")])
        problems: list[Problem] = []
        checked = self._check_names(inputs, problems) if self._fields is None else self._check(inputs, problems)
        if problems:
            raise invalid_params(problems)
        return checked

    def _check_names(self, inputs: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
        for name in inputs:
            if problem := problem_of_name(name, output=False):
                problems.append(Problem(f"inputs.{name}", problem))
        return dict(inputs)

    def _check(self, inputs: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
        fields = self._fields or {}
        checked: dict[str, Any] = {}
        for name, field in fields.items():
            if name in inputs or not field.expected:
                continue
            if field.optional:
                checked[name] = None  # else DSPy warns of it in every call, and a module's forward lacks an argument
            else:
                problems.append(Problem(f"inputs.{name}", "is missing"))
        for name, value in inputs.items():
            if name in fields:
                checked[name] = fields[name].check(value, problems)
            else:
                problems.append(Problem(f"inputs.{name}", f"is not an input; inputs are {', '.join(fields) or 'none'}"))
        return checked


class _FieldChecker:
    def __init__(self, field: Field) -> None:
        self.expected = field.required
        self.optional = allows_none(field.type)
        self._name = field.name
        self._type = field.type
        self._has_union = _has_union(field.type)
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(strict_type(field.type))
        except PydanticSchemaGenerationError:  # a class of the application's that is not pydantic's
            self._adapter = TypeAdapter(field.type, config=ConfigDict(arbitrary_types_allowed=True))

    def check(self, value: Any, problems: list[Problem]) -> Any:
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            problems.extend(self._problems(value, error))
            return None

    def _problems(self, value: Any, error: ValidationError) -> list[Problem]:
        path = f"inputs.{self._name}"
        if self._has_union:  # pydantic tells one error for each member
            return [Problem(path, f"must be {type_text(self._type)}, is {_told(value)}")]
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [Problem(path + _place(one["loc"]), one["msg"]) for one in found]


def _place(location: Sequence[int | str]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)


def _told(value: Any) -> str:
    if isinstance(value, list):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a list of {' and '.join(kinds)}" if kinds else "an empty list"
    return type(value).__name__


def _has_union(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return True
    if typing.get_origin(annotation) is Literal:
        return False
    return any(_has_union(argument) for argument in typing.get_args(annotation))


def strict_type(annotation: Any) -> Any:
    """The type with its plain members strict; types of the application's own are left to their own rules."""
    if isinstance(annotation, type) and annotation in _STRICT:
        return Annotated[annotation, Strict()]
    if annotation in (date, datetime):
        return Annotated[annotation, BeforeValidator(_date_or_text)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return Union[tuple(strict_type(argument) for argument in arguments)]  # noqa: UP007 - made at run time
    if origin is Literal:
        return Annotated[annotation, BeforeValidator(partial(_exactly_one_of, arguments))]
    if origin in (list, dict, tuple, set, frozenset):
        return origin[tuple(a if a is Ellipsis else strict_type(a) for a in arguments)]
    return annotation


def _exactly_one_of(allowed: tuple[Any, ...], value: Any) -> Any:
    """Let a value pass for pydantic to tell whether it is allowed, unless it only equals one: True does 1."""
    if isinstance(value, (bool, int, float)) and not any(type(value) is type(one) and value == one for one in allowed):
        raise PydanticCustomError("literal", f"Input should be {type_text(Literal[allowed])[8:-1]}")
    return value


def _date_or_text(value: Any) -> Any:
    if isinstance(value, (date, str)):
        return value
    raise PydanticCustomError("date", "Input should be a date or time: an instant, or ISO 8601 text")
