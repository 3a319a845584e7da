"""Tools of ReAct programs: the application's, and the client's, each use of which is a request to the client."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import date
from functools import partial
from typing import Any, Final

import anyio
import dspy
from dspex import wire
from dspex.errors import DspexError
from dspy.utils.callback import with_callbacks
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from dspex_worker.app import RESERVED_PREFIXES
from dspex_worker.calls import current_call, message_of
from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.signatures import MAX_TEXT
from dspex_worker.dspy_app.thread_calls import run_in_thread

REACT: Final = "react"
MAX_TOOLS: Final = 64
MAX_REFERENCES: Final = 2000  # of a client's schema, that are followed for one use of its tool

_FINISH: Final = "finish"  # ReAct's own tool
# Regular expressions of a client's, and what looks for all that has been checked without end.
_UNSUPPORTED: Final = frozenset({"patternProperties", "unevaluatedProperties", "unevaluatedItems"})
_KEYS: Final = frozenset({"name", "description", "schema"})


class ToolLost(BaseException):
    """The client does not have a tool that it named: no error that an LM could do anything about.

    Not an Exception, since ReAct would tell it to the LM.
    """

    def __init__(self, error: DspexError) -> None:
        self.error = error


class ClientTool(dspy.Tool):
    """Its arguments are checked here, where DSPy would look up what a client's schema refers to, wherever that is."""

    @with_callbacks  # type: ignore[untyped-decorator]
    async def use(self, **arguments: Any) -> Any:
        """Have the client run it."""
        return await self.func(**arguments)

    async def acall(self, **arguments: Any) -> Any:
        """What an LM is told of its use: the result, or what went wrong, without this worker's traceback."""
        try:
            return await self.use(**arguments)
        except (DspexError, ValidationError) as error:
            return f"Execution error in {self.name}: {error.message}"


class ApplicationTool(dspy.Tool):
    """A function of the application's. A plain one runs on a thread, and leaves the loop to other calls."""

    @with_callbacks  # type: ignore[untyped-decorator]
    async def use(self, **arguments: Any) -> Any:
        """Run it, with what fits its annotations."""
        run = partial(self.func, **self._validate_and_parse_args(**arguments))
        if inspect.iscoroutinefunction(self.func):
            return await run()
        return await run_in_thread(anyio.CapacityLimiter(1), run, lambda: None)

    async def acall(self, **arguments: Any) -> Any:
        """What an LM is told of its use: the result, or what went wrong, without the traceback."""
        try:
            return for_lm(await self.use(**arguments))
        except Exception as error:  # noqa: BLE001 - whatever a tool raises, the LM may do something about it
            return f"Execution error in {self.name}: {message_of(error)}"[:10_000]


def react(signature: type[dspy.Signature], tools: list[dspy.Tool], max_iters: int) -> dspy.Module:
    """A ReAct program with tools that `check_tools` made."""
    return dspy.ReAct(signature, tools, max_iters=max_iters)


def check_tools(tools: object, known: Mapping[str, Callable[..., Any]]) -> list[dspy.Tool]:
    """The tools that a client named: text is one of the application's, a map one of its own.

    Raises DspexError `invalid_params`.
    """
    if not isinstance(tools, list) or not 1 <= len(tools) <= MAX_TOOLS:
        raise invalid_param("tools", f"must be a list of 1 to {MAX_TOOLS} tools")
    made: dict[str, dspy.Tool] = {_FINISH: None}
    for index, tool in enumerate(tools):
        if isinstance(tool, str):
            if tool not in known:
                have = ", ".join(sorted(known)) or "none"
                raise invalid_param(f"tools[{index}]", f"the application has no tool {tool[:200]!r}; it has: {have}")
            name = tool
        else:
            if problem := _problem(tool):
                raise invalid_param(f"tools[{index}]", problem)
            name = tool["name"]
        if name in made:
            raise invalid_param(f"tools[{index}].name", f"{name!r} is taken")
        made[name] = ApplicationTool(known[name], name=name) if isinstance(tool, str) else _tool(**tool)
    del made[_FINISH]
    return list(made.values())


def _problem(tool: object) -> str | None:
    if not isinstance(tool, Mapping) or not tool.keys() <= _KEYS:
        return "must be a map of name, description and schema, or the name of a tool of the application's"
    name, description, schema = tool.get("name"), tool.get("description"), tool.get("schema")
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= wire.MAX_METHOD or not name.isprintable():
        return f"name must be text of 1 to {wire.MAX_METHOD} bytes"
    if name.startswith(RESERVED_PREFIXES):
        return f"name begins with what is the sidecar's: {', '.join(RESERVED_PREFIXES)}"
    if description is not None and (not isinstance(description, str) or len(description) > MAX_TEXT):
        return f"description must be text of at most {MAX_TEXT} characters"
    if schema is None:
        return None
    properties = schema.get("properties", {}) if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping) or schema.get("type", "object") != "object":
        return "schema must be the JSON schema of an object: its properties are the arguments"
    if len(str(schema)) > MAX_TEXT:
        return f"schema must be a JSON schema of at most {MAX_TEXT} characters"
    for one in _maps(schema):
        if found := _UNSUPPORTED & one.keys():
            return f"schema has {', '.join(sorted(found))}: not supported"
        if one is not schema and isinstance(one.get("$schema"), str):
            return "schema has another in it with a $schema of its own: not supported"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"schema: {error.message}"[:1000]
    return None


def _maps(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    for held in value if isinstance(value, list) else ():
        yield from _maps(held)


def _unchecked(*_: object) -> None:
    """A client's regular expression could hold up the whole worker: the LM is told of it, and the client checks it."""


_left: ContextVar[list[int]] = ContextVar("dspex_references_left")


def _counted(follow: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """References that branch at each step are followed two to the power of their number times."""

    def followed(*given: Any) -> Iterator[Any]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise RecursionError
        yield from follow(*given)

    return followed


# Without `$ref` to elsewhere: the registry is empty, and fetches nothing.
_REFERENCES: Final = {name: _counted(Draft202012Validator.VALIDATORS[name]) for name in ("$ref", "$dynamicRef")}
_Validator: Final = extend(Draft202012Validator, {"pattern": _unchecked, **_REFERENCES})


def _tool(name: str, description: str | None = None, schema: Mapping[str, Any] | None = None) -> ClientTool:
    schema = {"type": "object", "properties": {}, **(schema or {})}
    schema.pop("$schema", None)  # whatever it is, it is read as what was checked
    validator = _Validator(schema, registry=Registry())
    optional = [one for one in schema["properties"] if one not in schema.get("required", ())]
    told = [description or "", f"Arguments that may be left out: {', '.join(optional)}." if optional else ""]

    async def ask(**arguments: Any) -> Any:
        _left.set([MAX_REFERENCES])
        try:
            validator.validate(arguments)
        except ValidationError:
            raise
        except Exception as error:  # noqa: BLE001 - a reference that leads nowhere, or in a circle
            raise ValidationError(f"the tool's schema cannot be used: {type(error).__name__}") from None
        try:
            return for_lm(await current_call().ask(name, arguments))
        except DspexError as error:
            if error.code == "unknown_method":
                raise ToolLost(error) from None
            raise

    return ClientTool(ask, name=name, desc=" ".join(filter(None, told)), args=dict(schema["properties"]), arg_types={})


def for_lm(value: Any) -> Any:
    """A tool's result, as an LM can be told of it."""
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: for_lm(held) for key, held in value.items()}
    if isinstance(value, list):
        return [for_lm(held) for held in value]
    return value
