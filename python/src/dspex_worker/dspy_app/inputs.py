"""Inputs are checked here before any LM is called: DSPy only logs a warning and spends the call."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from dspex_worker.dspy_app.errors import Problem, invalid_params
from dspex_worker.dspy_app.field_types import is_union, type_text
from dspex_worker.dspy_app.media import NOTHING, Permissions, forbidden
from dspex_worker.dspy_app.names import problem_of_name
from dspex_worker.dspy_app.signatures import Field, allows_none
from dspex_worker.dspy_app.wire_types import strict_type


class InputChecker:
    """Checks a client's inputs against fields; against names only where the fields are not known."""

    def __init__(self, fields: Sequence[Field] | None) -> None:
        self._fields = None if fields is None else {field.name: _FieldChecker(field) for field in fields}

    def check(self, inputs: object, permissions: Permissions = NOTHING, at: str = "inputs") -> dict[str, Any]:
        """Return the inputs as the program takes them; ``at`` is what they are called in errors.

        Raises:
            DspexError: ``invalid_params``, with all that is missing, unknown or of a wrong type.
        """
        if not isinstance(inputs, Mapping):
            raise invalid_params([Problem(at, f"must be a map, is {type(inputs).__name__}")])
        problems: list[Problem] = []
        if self._fields is None:
            checked = self._check_names(inputs, problems)
        else:
            checked = self._check(inputs, permissions, problems)
        for name, value in checked.items():
            problems += [Problem(name, problem) for problem in forbidden(value, permissions)]
        if problems:
            raise invalid_params([Problem(f"{at}.{one.path}", one.message) for one in problems])
        return checked

    def _check_names(self, inputs: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
        for name in inputs:
            if problem := problem_of_name(name, output=False):
                problems.append(Problem(name, problem))
        return dict(inputs)

    def _check(self, inputs: Mapping[str, Any], permissions: Permissions, problems: list[Problem]) -> dict[str, Any]:
        fields = self._fields or {}
        checked: dict[str, Any] = {}
        for name, field in fields.items():
            if name in inputs or not field.expected:
                continue
            if field.optional:
                checked[name] = None  # else DSPy warns of it in every call, and a module's forward lacks an argument
            else:
                problems.append(Problem(name, "is missing"))
        for name, value in inputs.items():
            if name in fields:
                checked[name] = fields[name].check(value, permissions, problems)
            else:
                problems.append(Problem(name, f"is not an input; inputs are {', '.join(fields) or 'none'}"))
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

    def check(self, value: Any, permissions: Permissions, problems: list[Problem]) -> Any:
        try:
            return self._adapter.validate_python(value, context=permissions)
        except ValidationError as error:
            problems.extend(self._problems(value, error))
            return None

    def _problems(self, value: Any, error: ValidationError) -> list[Problem]:
        path = self._name
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
    if is_union(annotation):
        return True
    if typing.get_origin(annotation) is Literal:
        return False
    return any(_has_union(argument) for argument in typing.get_args(annotation))
