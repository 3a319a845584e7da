"""What an annotation allows: a check of decoded values, and a JSON schema.

Plain types (``str``, ``int``, ``list[T]``, ``dict[str, T]``, ``Literal``, unions of these, …) are checked here, without
conversions except that an integer is a number too. Everything else is pydantic's, which is imported only when an
annotation needs it, so that an application of plain types neither loads nor needs it.
"""

from __future__ import annotations

import collections.abc
import importlib
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

Problems = list[dict[str, str]]  # each {path, message}, as details.errors of invalid_params has them
Check = Callable[[Any, str, Problems], Any]  # (value, path, problems) -> the value to use; what is wrong is appended

_SCALARS: dict[Any, str] = {str: "string", bool: "boolean", int: "integer"}
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Rich(Exception):
    """The annotation is not one of the plain types."""


class Annotation:
    """One annotation: ``schema`` describes it, ``check`` is None where every value is allowed."""

    def __init__(self, annotation: Any) -> None:
        self.check: Check | None
        try:
            self.check, self.schema = _plain(annotation)
        except Rich:
            adapter = _adapter(annotation)
            self.check = _pydantic_check(adapter)
            self.schema = _pydantic_schema(adapter)


def _plain(annotation: Any) -> tuple[Check | None, dict[str, Any]]:
    """Return check and schema of a plain type; raise Rich for any other."""
    if annotation in (Any, object):
        return None, {}
    if annotation is None or annotation is types.NoneType:
        return _none, {"type": "null"}
    if annotation is float:
        return _number, {"type": "number"}
    if annotation is bytes:
        return _exactly(bytes), {"type": "string", "contentEncoding": "base64"}
    if isinstance(annotation, type) and annotation in _SCALARS:
        return _exactly(annotation), {"type": _SCALARS[annotation]}
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin in _LISTS:
        return _list(arguments)
    if origin in _MAPS:
        return _map(arguments)
    if origin is Annotated and all(isinstance(extra, str) for extra in arguments[1:]):
        check, schema = _plain(arguments[0])
        return check, {**schema, "description": " ".join(arguments[1:])}
    raise Rich


def _list(arguments: tuple[Any, ...]) -> tuple[Check, dict[str, Any]]:
    item, schema = _plain(arguments[0]) if arguments else (None, {})

    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) is not list:
            problems.append(_wrong("a list", value, path))
        elif item is not None:
            return [item(each, f"{path}[{index}]", problems) for index, each in enumerate(value)]
        return value

    return check, {"type": "array", **({"items": schema} if schema else {})}


def _map(arguments: tuple[Any, ...]) -> tuple[Check, dict[str, Any]]:
    if arguments and arguments[0] not in (str, Any):
        raise Rich  # keys on the wire are text: only pydantic can make others of them
    item, schema = _plain(arguments[1]) if arguments else (None, {})

    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.append(_wrong("a map", value, path))
        elif item is not None:
            return {key: item(each, f"{path}.{key}", problems) for key, each in value.items()}
        return value

    return check, {"type": "object", **({"additionalProperties": schema} if schema else {})}


def _union(arguments: tuple[Any, ...]) -> tuple[Check | None, dict[str, Any]]:
    parts = [_plain(argument) for argument in arguments]
    schema = {"anyOf": [part for _, part in parts]}
    checks = [check for check, _ in parts if check is not None]
    if len(checks) < len(parts):
        return None, {}

    def check(value: Any, path: str, problems: Problems) -> Any:
        best: Problems | None = None
        for attempt in checks:
            found: Problems = []
            result = attempt(value, path, found)
            if not found:
                return result
            if best is None or len(found[0]["path"]) > len(best[0]["path"]):
                best = found  # the alternative that failed deepest in the value is the one that was meant
        if best is not None and best[0]["path"] != path:
            problems.extend(best)
        else:
            problems.append(_wrong(" or ".join(_spelled(argument) for argument in arguments), value, path))
        return value

    return check, schema


def _literal(arguments: tuple[Any, ...]) -> tuple[Check, dict[str, Any]]:
    if not all(type(argument) in (str, int, bool, types.NoneType) for argument in arguments):
        raise Rich
    allowed = {(type(argument), argument) for argument in arguments}
    spelled = ", ".join(repr(argument) for argument in arguments)

    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) not in (str, int, bool, types.NoneType) or (type(value), value) not in allowed:
            problems.append({"path": path, "message": f"must be one of {spelled}"})
        return value

    return check, {"enum": list(arguments)}


def _exactly(kind: type) -> Check:
    spelled = _spelled(kind)

    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) is not kind:
            problems.append(_wrong(spelled, value, path))
        return value

    return check


def _number(value: Any, path: str, problems: Problems) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    problems.append(_wrong("a number", value, path))
    return value


def _none(value: Any, path: str, problems: Problems) -> Any:
    if value is not None:
        problems.append(_wrong("null", value, path))
    return value


_NAMES: dict[Any, str] = {
    str: "text",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    bytes: "bytes",
    list: "a list",
    dict: "a map",
    types.NoneType: "null",
    None: "null",
}


def _spelled(annotation: Any) -> str:
    origin = get_origin(annotation) or annotation
    return _NAMES.get(origin) or str(getattr(origin, "__name__", annotation))


def _wrong(wanted: str, value: Any, path: str) -> dict[str, str]:
    return {"path": path, "message": f"must be {wanted}, not {_spelled(type(value))}"}


def _adapter(annotation: Any) -> Any:
    """Return pydantic's TypeAdapter for an annotation; raise TypeError where that cannot be had."""
    try:
        pydantic = importlib.import_module("pydantic")
    except ImportError as error:
        raise TypeError(
            f"the annotation {annotation!r} needs pydantic, which is not installed: install it or use plain types"
        ) from error
    try:
        return pydantic.TypeAdapter(annotation)
    except pydantic.errors.PydanticUserError as error:
        raise TypeError(f"values of the annotation {annotation!r} cannot be checked: {error}") from error


def _pydantic_check(adapter: Any) -> Check:
    validation_error = importlib.import_module("pydantic").ValidationError

    def check(value: Any, path: str, problems: Problems) -> Any:
        try:
            return adapter.validate_python(value)
        except validation_error as error:
            for found in error.errors(include_url=False, include_context=False, include_input=False):
                place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"])
                problems.append({"path": path + place, "message": found["msg"]})
            return value

    return check


def _pydantic_schema(adapter: Any) -> dict[str, Any]:
    try:
        return typing.cast(dict[str, Any], adapter.json_schema())
    except importlib.import_module("pydantic").errors.PydanticInvalidForJsonSchema:
        return {}  # the type can be checked but not described (a callable validator, say)
