"""Media inside pydantic models of the application's, whose own rules know no form of them but DSPy's."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, RootModel, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError

from dspex_worker.dspy_app.field_types import is_union
from dspex_worker.dspy_app.media import MEDIA, NOTHING, Permissions, empty, to_media, wrong

_Place = tuple[int | str, ...]


@lru_cache(maxsize=256)
def media_fields(kind: type[BaseModel]) -> dict[str, Any]:
    """The types of a model's fields that may have media in them, by name."""
    return {name: one.annotation for name, one in kind.model_fields.items() if _holds(one.annotation, set())}


def _holds(annotation: Any, seen: set[Any]) -> bool:
    if annotation in MEDIA:
        return True
    if is_model(annotation):
        if annotation in seen:  # models may hold their own kind
            return False
        seen.add(annotation)
        return any(_holds(field.annotation, seen) for field in annotation.model_fields.values())
    return any(_holds(argument, seen) for argument in typing.get_args(annotation))


def is_model(annotation: Any) -> bool:
    """Whether a type is a pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def model_validator(kind: type[BaseModel]) -> WrapValidator:
    """Takes for media inside the model what is taken for them elsewhere."""

    def validate(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        media = _Media(info.context if isinstance(info.context, Permissions) else NOTHING)
        value = media.made(kind, value, ())
        found, made = media.problems, None
        try:
            made = check(value)
        except ValidationError as error:
            found += [_problem(one["loc"], one["msg"]) for one in error.errors(include_url=False, include_input=False)]
        if found:
            raise ValidationError.from_exception_data(kind.__name__, found)
        return made

    return WrapValidator(validate)


def _problem(at: _Place, message: str) -> InitErrorDetails:
    return InitErrorDetails(type=wrong(message), loc=at, input=None)


class _Media:
    """Makes media of what a client sent for them inside models, and notes what cannot be one."""

    def __init__(self, permissions: Permissions) -> None:
        self.problems: list[InitErrorDetails] = []
        self._permissions = permissions

    def made(self, annotation: Any, value: Any, at: _Place) -> Any:
        """The value for pydantic to check. What is wrong has an empty medium in its place: all else is told as well."""
        if annotation in MEDIA:
            return self._medium(annotation, value, at)
        if is_model(annotation):
            return self._model(annotation, value, at)
        arguments = typing.get_args(annotation)
        if typing.get_origin(annotation) is Annotated:
            return self.made(arguments[0], value, at)
        if is_union(annotation):
            return self._member(arguments, value, at)
        if isinstance(value, Mapping) and len(arguments) == 2:
            return {key: self.made(arguments[1], held, (*at, key)) for key, held in value.items()}
        if isinstance(value, (list, tuple)) and arguments:
            own = len(arguments) == len(value) and Ellipsis not in arguments
            each = arguments if own else arguments[:1] * len(value)
            return [self.made(each[i], held, (*at, i)) for i, held in enumerate(value)]
        return value

    def _medium(self, kind: type[Any], value: Any, at: _Place) -> Any:
        try:
            return to_media(kind, value, self._permissions)
        except PydanticCustomError as error:
            self.problems.append(_problem(at, error.message()))
            return empty(kind)

    def _model(self, kind: type[BaseModel], value: Any, at: _Place) -> Any:
        fields = media_fields(kind)
        if issubclass(kind, RootModel):
            return self.made(fields["root"], value, at) if fields else value
        if not isinstance(value, Mapping):
            return value
        by_key = dict(fields)
        for name, annotation in fields.items():
            alias = kind.model_fields[name].validation_alias
            if isinstance(alias, str):
                by_key[alias] = annotation
        return {key: self.made(by_key[key], held, (*at, key)) if key in by_key else held for key, held in value.items()}

    def _member(self, members: tuple[Any, ...], value: Any, at: _Place) -> Any:
        """As the first member that it can be. One of several that it cannot be is left to pydantic."""
        if value is None:
            return value
        members = tuple(member for member in members if member is not type(None))
        for member in members:
            if not _holds(member, set()):
                continue
            attempt = _Media(self._permissions)
            made = attempt.made(member, value, at)
            if len(members) == 1:
                self.problems += attempt.problems
            if len(members) == 1 or not attempt.problems:
                return made
        return value
