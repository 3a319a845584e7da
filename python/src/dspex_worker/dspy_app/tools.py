"""Tools of ReAct programs that the client runs: each use of one is a request to the client that made the call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, Final

import dspy
from dspex import wire
from dspex.errors import DspexError
from dspy.utils.callback import with_callbacks
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from dspex_worker.calls import current_call
from dspex_worker.dspy_app.errors import invalid_param, invalid_signature
from dspex_worker.dspy_app.signatures import MAX_TEXT, SignatureSpec

REACT: Final = "react"
MAX_TOOLS: Final = 64

_FINISH: Final = "finish"  # ReAct's own tool
# Names that ReAct gives to fields of its own, or takes from a program's inputs.
_INPUTS: Final = frozenset({"trajectory", "next_thought", "next_tool_name", "next_tool_args", "max_iters"})
_OUTPUTS: Final = frozenset({"trajectory", "reasoning"})
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


def react(signature: type[dspy.Signature], tools: list[Mapping[str, Any]]) -> dspy.Module:
    """A ReAct program with tools that `check_tools` let through."""
    return dspy.ReAct(signature, [_tool(**tool) for tool in tools])


def check_tools(tools: object, spec: SignatureSpec) -> None:
    """Raises DspexError `invalid_params`, or `invalid_signature` for names of fields that ReAct uses itself."""
    for side, fields, taken in (("inputs", spec.inputs, _INPUTS), ("outputs", spec.outputs, _OUTPUTS | _INPUTS)):
        for field in fields:
            if field.name in taken:
                raise invalid_signature(f"{side}.{field.name}", "is a name that react uses itself")
    if not isinstance(tools, list) or not 1 <= len(tools) <= MAX_TOOLS:
        raise invalid_param("tools", f"must be a list of 1 to {MAX_TOOLS} tools")
    names = {_FINISH}
    for index, tool in enumerate(tools):
        if problem := _problem(tool):
            raise invalid_param(f"tools[{index}]", problem)
        if tool["name"] in names:
            raise invalid_param(f"tools[{index}].name", f"{tool['name']!r} is taken")
        names.add(tool["name"])


def _problem(tool: object) -> str | None:
    if not isinstance(tool, Mapping) or not tool.keys() <= _KEYS:
        return "must be a map of name, description and schema"
    name, description, schema = tool.get("name"), tool.get("description"), tool.get("schema")
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= wire.MAX_METHOD or not name.isprintable():
        return f"name must be text of 1 to {wire.MAX_METHOD} bytes"
    if description is not None and (not isinstance(description, str) or len(description) > MAX_TEXT):
        return f"description must be text of at most {MAX_TEXT} characters"
    if schema is None:
        return None
    properties = schema.get("properties", {}) if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping) or schema.get("type", "object") != "object":
        return "schema must be the JSON schema of an object: its properties are the arguments"
    if len(str(schema)) > MAX_TEXT:
        return f"schema must be a JSON schema of at most {MAX_TEXT} characters"
    if any("patternProperties" in one for one in _maps(schema)):
        return "schema has patternProperties, which are not supported"
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


# Without `$ref` to elsewhere: the registry is empty, and fetches nothing.
_Validator: Final = extend(Draft202012Validator, {"pattern": _unchecked})


def _tool(name: str, description: str | None = None, schema: Mapping[str, Any] | None = None) -> ClientTool:
    schema = {"type": "object", "properties": {}, **(schema or {})}
    validator = _Validator(schema, registry=Registry())
    optional = [one for one in schema["properties"] if one not in schema.get("required", ())]
    told = [description or "", f"Arguments that may be left out: {', '.join(optional)}." if optional else ""]

    async def ask(**arguments: Any) -> Any:
        try:
            validator.validate(arguments)
        except ValidationError:
            raise
        except Exception as error:  # noqa: BLE001 - a reference that leads nowhere, or in a circle
            raise ValidationError(f"the tool's schema cannot be used: {type(error).__name__}") from None
        try:
            return _plain(await current_call().ask(name, arguments))
        except DspexError as error:
            if error.code == "unknown_method":
                raise ToolLost(error) from None
            raise

    return ClientTool(ask, name=name, desc=" ".join(filter(None, told)), args=dict(schema["properties"]), arg_types={})


def _plain(value: Any) -> Any:
    """A tool's result, as an LM can be told of it."""
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_plain(held) for held in value]
    return value
