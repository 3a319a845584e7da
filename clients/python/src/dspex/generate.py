"""Types of what a sidecar serves, as a stub for the type checker: `python -m dspex generate`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from .errors import NoWorkers

if TYPE_CHECKING:
    from ._sync.client import Client

RUNTIME: Final = '''"""Written by `python -m dspex generate`; the types are in the stub beside it."""


def typed(caller):
    """The same client or session, whose calls the type checker knows."""
    return caller
'''

_HEAD: Final = """# Written by `python -m dspex generate`: write it anew instead of changing it.
# fmt: off
# ruff: noqa
from datetime import date, datetime
from typing import Any, Literal, NotRequired, TypedDict, Unpack, overload

import dspex

"""
_TYPED: Final = """
@overload
def typed(caller: dspex.AsyncCaller | dspex.AsyncSession) -> AsyncServed: ...
@overload
def typed(caller: dspex.Caller | dspex.Session) -> Served: ...
"""
_PLAIN: Final = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_OPTIONS: Final = "*, timeout: float | None = ..., **options: Any"
_DEEPEST: Final = 16  # a type that holds itself is Any from there on


def stub(client: Client) -> str:
    """Ask what the sidecar serves; the text of the stub. Raises NoWorkers where that is not known yet."""
    methods = client.call("sidecar.methods")["methods"]
    if not methods:
        raise NoWorkers("no worker has told yet what it serves: try again, and see `reasons` of sidecar.health")
    programs = []
    if any(method["name"] == "list_programs" for method in methods):
        programs = [client.program(one["program"]).info() for one in client.call("list_programs")["programs"]]
    types = _Types()
    served = "".join(_served(types, methods, programs, prefix) for prefix in ("", "Async"))
    return _HEAD + types.written + served + _TYPED


class _Types:
    """Writes types of schemas: maps with known keys become TypedDicts, each once."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}  # of TypedDicts, by their names

    @property
    def written(self) -> str:
        return "".join(f"{name} = TypedDict({name!r}, {{{body}}})\n" for name, body in self._bodies.items())

    def of(self, schema: Any, name: str) -> str:
        """The type of the values that a schema allows. What a stub cannot say is wider than the schema."""
        return self._of(schema, name, schema, 0)

    def _of(self, schema: Any, name: str, root: Any, depth: int) -> str:
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            return "Any"

        def inner(one: Any, more: str = "") -> str:
            return self._of(one, name + more, root, depth + 1)

        if isinstance(reference := schema.get("$ref"), str):
            return inner(_referred(reference, root))
        if "enum" in schema or "const" in schema:
            return _literal(schema.get("enum", [schema.get("const")]))
        several = schema.get("anyOf") or schema.get("oneOf")
        if isinstance(several, list):
            return _union([inner(one, str(index)) for index, one in enumerate(several, 1)])
        kind = schema.get("type")
        if isinstance(kind, list):
            return _union([inner({**schema, "type": one}) for one in kind])
        if kind == "string" and schema.get("contentEncoding") == "base64":
            return "bytes"
        if kind == "string" and schema.get("format") in ("date", "date-time"):
            return "str | date" if schema["format"] == "date" else "str | datetime"
        if kind == "array":
            return f"list[{inner(schema.get('items'), 'Item')}]"
        if properties := schema.get("properties"):
            return self._map(schema, name, {key: inner(of, _camel(key)) for key, of in properties.items()})
        if kind == "object":
            return f"dict[str, {inner(schema.get('additionalProperties'), 'Value')}]"
        return _PLAIN.get(str(kind), "Any")

    def _map(self, schema: Mapping[str, Any], name: str, types: Mapping[str, str]) -> str:
        required = schema.get("required", ())
        fields = {key: of if key in required else f"NotRequired[{of}]" for key, of in types.items()}
        body = ", ".join(f"{key!r}: {of}" for key, of in fields.items())
        while self._bodies.setdefault(name, body) != body:
            name += "_"
        return name


def _served(types: _Types, methods: list[Any], programs: list[Any], prefix: str) -> str:
    """The classes of the client for threads, or of the one for asyncio."""
    define = "async def" if prefix else "def"
    calls, streams, named, classes = [], [], [], []
    for method, name in zip(methods, _named(method["name"] for method in methods), strict=True):
        params, result = types.of(method["params"], f"{name}Params"), types.of(method["result"], f"{name}Result")
        given = f"params: {params}" if method["params"].get("required") else f"params: {params} | None = ..."
        head = f"(self, method: Literal[{method['name']!r}], {given}, {_OPTIONS})"
        if method["stream"] != "required":
            calls.append(f"    {define} call{head} -> {result}: ...")
        if method["stream"] != "none":
            streams.append(f"    def stream{head} -> {prefix}{name}Stream: ...")
            step = "async def __anext__" if prefix else "def __next__"
            classes.append(f"\nclass {prefix}{name}Stream(dspex.{prefix}Stream[Any]):\n")
            classes.append(f"    {step}(self) -> {types.of(method['item'], f'{name}Item')}: ...\n")
    for program, name in zip(programs, _named(program["program"] for program in programs), strict=True):
        named.append(f"    def program(self, id: Literal[{program['program']!r}]) -> {prefix}{name}Program: ...")
        inputs, outputs = (types.of(program[side], f"{name}{_camel(side)}") for side in ("inputs", "outputs"))
        given = f"**inputs: Unpack[{inputs}]" if program["inputs"].get("properties") else "**inputs: Any"
        classes.append(f"\nclass {prefix}{name}Program:\n    id: str\n")
        classes.append(f"    {define} __call__(self, {given}) -> {outputs}: ...\n")
        classes.append(f"    {define} run(self, inputs: {inputs}, {_OPTIONS}) -> {outputs}: ...\n")
        classes.append(f"    def stream(self, {given}) -> dspex.{prefix}Stream[{outputs}]: ...\n")
    parts = [_overloaded(lines) for lines in (calls, streams, named) if lines] or ["    ..."]
    return "".join(classes) + f"\nclass {prefix}Served:\n" + "\n".join(parts) + "\n"


def _overloaded(lines: list[str]) -> str:
    return lines[0] if len(lines) == 1 else "\n".join(f"    @overload\n{line}" for line in lines)


def _referred(reference: str, root: Any) -> Any:
    """What `#/$defs/Name` stands for."""
    found = root if reference.startswith("#") else None
    for step in reference.split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _literal(values: list[Any]) -> str:
    if not all(value is None or type(value) in (str, int, bool) for value in values):
        return "Any"
    return f"Literal[{', '.join(map(repr, values))}]"


def _union(types: list[str]) -> str:
    return "Any" if "Any" in types else " | ".join(dict.fromkeys(types))


def _named(names: Iterable[str]) -> list[str]:
    """What the classes of each begin with: no two alike, not with `Async` before one of them either."""
    bases: list[str] = []
    for name in names:
        base = _camel(name) if _camel(name).isidentifier() else f"_{_camel(name)}"
        while {base, f"Async{base}", base.removeprefix("Async")} & set(bases):
            base += "_"
        bases.append(base)
    return bases


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", name))
