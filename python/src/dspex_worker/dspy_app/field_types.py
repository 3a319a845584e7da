"""Types of signature fields: read from their text by a parser of our own, never evaluated or looked up anywhere."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from functools import reduce
from operator import or_
from typing import Any, Literal

import dspy

MAX_DEPTH = 16
MAX_MEMBERS = 32  # of a union: what pydantic and DSPy do with one takes time by the square of its members
ALLOWED = (
    "str, int, float, bool, list, dict, date, datetime, bytes, Literal[…], Optional[…], list[…], dict[str, …],"
    " tuple[…], set[…], unions of these with |, dspy.History, dspy.Image, dspy.Audio, dspy.File"
)

_PLAIN: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "date": date,
    "datetime": datetime,
    "bytes": bytes,
    "None": type(None),
    "list": list[Any],
    "dict": dict[str, Any],
}

_DSPY: dict[str, Any] = {kind.__name__: kind for kind in (dspy.History, dspy.Image, dspy.Audio, dspy.File)}

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<name>(?:dspy\.)?[^\W\d]\w*)
      | (?P<number>-?\d+(?!\w))
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<arrow>->)
      | (?P<sign>[\[\]|,:]|\.\.\.)
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t"}


class TypeTextError(ValueError):
    """The text is no type of the allow-list; ``position`` is where, counted from 0 in characters."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


class Tokens:
    """The tokens of a text, with one to look at. Raises ``TypeTextError`` where no token can be read.

    ``named`` are the types of the application's by name.
    """

    def __init__(self, text: str, named: Mapping[str, Any]) -> None:
        self.named = named
        self._tokens: list[tuple[str, str, int]] = list(_tokens(text))
        self._next = 0

    @property
    def kind(self) -> str:
        """Of the next token: name, number, text, arrow, sign or end."""
        return self._tokens[self._next][0]

    @property
    def value(self) -> str:
        return self._tokens[self._next][1]

    @property
    def position(self) -> int:
        return self._tokens[self._next][2]

    def take(self) -> str:
        """Go past the next token and return its text."""
        value = self.value
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return value

    def accept(self, sign: str) -> bool:
        """Go past ``sign`` if it comes next."""
        if self.kind in ("sign", "arrow") and self.value == sign:
            self.take()
            return True
        return False

    def expect(self, sign: str, why: str) -> None:
        """Go past ``sign``, which must come next."""
        if not self.accept(sign):
            raise self.error(f"expected {sign!r} {why}, found {self.describe()}")

    def describe(self) -> str:
        """The next token, for messages."""
        return "the end" if self.kind == "end" else repr(self.value)

    def error(self, message: str) -> TypeTextError:
        """An error at the next token."""
        return TypeTextError(self.position, message)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    position = 0
    while True:
        match = _TOKEN.match(text, position)
        if match is None:
            position += len(text[position:]) - len(text[position:].lstrip())
            raise TypeTextError(position, f"{text[position : position + 12]!r} is not understood")
        kind = str(match.lastgroup)
        yield kind, match.group(kind), match.start(kind)
        if kind == "end":
            return
        position = match.end()


def parse_type(text: str, named: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
    """Return the type that ``text`` names; ``named`` are the application's.

    Raises:
        TypeTextError: it is not of the allow-list.
    """
    tokens = Tokens(text, named)
    parsed = read_type(tokens)
    if tokens.kind != "end":
        raise tokens.error(f"{tokens.describe()} is left over")
    return parsed


def read_type(tokens: Tokens, depth: int = 0) -> Any:
    """Read one type, unions with ``|`` included, from the tokens."""
    if depth > MAX_DEPTH:
        raise tokens.error(f"types lie inside each other more than {MAX_DEPTH} deep")
    members = [_single(tokens, depth)]
    while tokens.accept("|"):
        if len(members) == MAX_MEMBERS:
            raise tokens.error(f"a union has at most {MAX_MEMBERS} members; values go into one Literal[…]")
        members.append(_single(tokens, depth))
    return _union(members, tokens)


def _union(members: list[Any], tokens: Tokens) -> Any:
    """Of the members of unions among them, too, which an Optional[…] is: Python makes one union of all."""
    if all(member is type(None) for member in members):
        return type(None)
    flat = [one for member in members for one in (typing.get_args(member) if is_union(member) else (member,))]
    if len(flat) > MAX_MEMBERS:
        raise tokens.error(f"a union has at most {MAX_MEMBERS} members; values go into one Literal[…]")
    return reduce(or_, members)


def is_union(annotation: Any) -> bool:
    """Whether a type is A | B, however it was written."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _single(tokens: Tokens, depth: int) -> Any:
    at, name = tokens.position, tokens.describe()
    if tokens.kind != "name":
        raise tokens.error(f"expected a type, found {name}")
    name = tokens.take()
    if not tokens.accept("["):
        found = _PLAIN.get(name) or tokens.named.get(name) or _DSPY.get(name.removeprefix("dspy."))
        if found is None:
            raise TypeTextError(at, _unknown(name, tokens.named))
        return found
    if name == "Literal":
        return _literal(tokens)
    made = _generic(name, at, tokens, depth)
    tokens.expect("]", f"after the type in {name}[…]")
    return made


def _generic(name: str, at: int, tokens: Tokens, depth: int) -> Any:
    match name:
        case "list":
            return list[read_type(tokens, depth + 1)]  # type: ignore[misc]
        case "Optional":
            return _union([read_type(tokens, depth + 1), type(None)], tokens)
        case "set":
            return set[read_type(tokens, depth + 1)]  # type: ignore[misc]
        case "tuple":
            return tuple[_members(tokens, depth)]  # type: ignore[misc]
        case "dict":
            key_at = tokens.position
            if read_type(tokens, depth + 1) is not str:
                raise TypeTextError(key_at, "the keys of a dict are str: write dict[str, …]")
            tokens.expect(",", "and the type of the values in dict[str, …]")
            return dict[str, read_type(tokens, depth + 1)]  # type: ignore[misc]
    raise TypeTextError(at, _unknown(name, tokens.named))


def _members(tokens: Tokens, depth: int) -> tuple[Any, ...]:
    members = [read_type(tokens, depth + 1)]
    while tokens.accept(","):
        if len(members) == 1 and tokens.accept("..."):
            return members[0], ...
        if len(members) == MAX_MEMBERS:
            raise tokens.error(f"a tuple has at most {MAX_MEMBERS} members; write tuple[…, ...]")
        members.append(read_type(tokens, depth + 1))
    return tuple(members)


def _literal(tokens: Tokens) -> Any:
    values: list[str | int | bool | None] = []
    while True:
        values.append(_literal_value(tokens))
        if not tokens.accept(","):
            break
    tokens.expect("]", "at the end of Literal[…]")
    return Literal[tuple(values)]


def _literal_value(tokens: Tokens) -> str | int | bool | None:
    kind, value = tokens.kind, tokens.value
    constants = {"True": True, "False": False, "None": None}
    if kind == "text":
        tokens.take()
        return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), value[1:-1])
    if kind == "number":
        if len(value) > 20 or not -(1 << 63) <= int(value) < 1 << 64:
            raise tokens.error("whole numbers are from -2^63 to 2^64-1")
        tokens.take()
        return int(value)
    if kind == "name" and value in constants:
        tokens.take()
        return constants[value]
    raise tokens.error(
        f"expected a quoted text, a whole number, True, False or None in Literal[…], found {tokens.describe()}"
    )


def _unknown(name: str, named: Mapping[str, Any]) -> str:
    hints = {"List": "list[…]", "Dict": "dict[str, …]", "Union": "A | B", "Any": "list or dict", "string": "str"}
    if name in hints:
        return f"type {name!r} is not known: write {hints[name]}"
    if name in ("Literal", "Optional"):
        return f"{name} needs what it holds in brackets: {name}[…]"
    own = "".join(f", {one}" for one in sorted(named))
    return f"type {name!r} is not known; types are {ALLOWED}{own}"


def type_text(annotation: Any) -> str:
    """The text of a type, as ``parse_type`` reads it where the type is of the allow-list."""
    plain = {made: name for name, made in _PLAIN.items() if name not in ("list", "dict")}
    if annotation in plain:
        return plain[annotation]
    if annotation is Ellipsis:
        return "..."
    if annotation in _DSPY.values():
        return f"dspy.{annotation.__name__}"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if annotation in (list, list[Any]):
        return "list"
    if annotation in (dict, dict[str, Any]):
        return "dict"
    if origin is Literal:
        return f"Literal[{', '.join(_quoted(value) for value in arguments)}]"
    if is_union(annotation):
        return " | ".join(type_text(member) for member in arguments)
    if origin in (list, dict, set, tuple, frozenset):
        return f"{origin.__name__}[{', '.join(type_text(argument) for argument in arguments)}]"
    return getattr(annotation, "__name__", str(annotation))


def _quoted(value: object) -> str:
    if not isinstance(value, str):
        return repr(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
