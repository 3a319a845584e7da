"""Signatures: from a client's text or fields to a ``dspy.Signature``, and from that to what is told of it.

DSPy's own reader of the text form looks unknown names up in the callers' frames and imports them, drops a name that
stands on both sides, and lets names through that it takes for its own parameters later. So the text is read here, and
DSPy gets fields with types of the allow-list. Nothing is replaced by a default: what cannot be built is refused.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import dspy
from dspex.errors import DspexError
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from dspex_worker.dspy_app.errors import invalid_signature
from dspex_worker.dspy_app.field_types import Tokens, TypeTextError, parse_type, read_type, type_text
from dspex_worker.dspy_app.names import problem_of_name
from dspex_worker.dspy_app.wire_types import wire_schema

MAX_FIELDS = 64  # of inputs and of outputs
MAX_TEXT = 16_384  # characters of a signature's text form, of all types together, of a description, of instructions
_CACHED = 256  # built signatures that are kept


@dataclass(frozen=True)
class Field:
    """One input or output. ``type`` is a type of the allow-list, or of the application's own signature."""

    name: str
    type: Any
    description: str | None = None
    required: bool = True


@dataclass(frozen=True)
class SignatureSpec:
    """A signature as read, checked but not built."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    name: str | None = None
    description: str | None = None

    @property
    def text(self) -> str:
        """The text form."""
        return f"{_fields_text(self.inputs)} -> {_fields_text(self.outputs)}"


def parse_signature(given: object, named: Mapping[str, Any] = MappingProxyType({})) -> SignatureSpec:
    """Read a signature in text form or in field form; ``named`` are the application's types by name.

    Raises:
        DspexError: ``invalid_signature``, saying where and why.
    """
    if isinstance(given, str):
        inputs, outputs = _read_text(given, named)
        spec = SignatureSpec(inputs, outputs)
    elif isinstance(given, Mapping):
        spec = _read_fields(given, named)
    else:
        raise invalid_signature("signature", f"must be text or a map, is {type(given).__name__}")
    _check_sides(spec)
    return spec


def _check_sides(spec: SignatureSpec) -> None:
    for side, fields in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        if not fields:
            raise invalid_signature(side, "there must be at least one")
        if len(fields) > MAX_FIELDS:
            raise invalid_signature(side, f"there are {len(fields)}, at most {MAX_FIELDS} are allowed")
        seen: set[str] = set()
        for field in fields:
            path = f"{side}.{field.name}"
            if problem := problem_of_name(field.name, output=side == "outputs"):
                raise invalid_signature(path, problem)
            if field.name in seen:
                raise invalid_signature(path, "occurs twice")
            if field.type is type(None):
                raise invalid_signature(f"{path}.type", "None alone is no type; write Optional[…]")
            seen.add(field.name)
    for name in [field.name for field in spec.outputs if field.name in {i.name for i in spec.inputs}]:
        raise invalid_signature(f"outputs.{name}", "is an input, too; DSPy would drop one of them")


def _read_text(text: str, named: Mapping[str, Any]) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    if len(text) > MAX_TEXT:
        raise invalid_signature("signature", f"longer than {MAX_TEXT} characters")
    try:
        tokens = Tokens(text, named)
        inputs = _text_fields(tokens)
        tokens.expect("->", "between the inputs and the outputs")
        outputs = _text_fields(tokens)
        if tokens.kind != "end":
            raise tokens.error(f"{tokens.describe()} is not understood here")
    except TypeTextError as error:
        raise invalid_signature(f"character {error.position + 1}", str(error)) from None
    return inputs, outputs


def _text_fields(tokens: Tokens) -> tuple[Field, ...]:
    fields: list[Field] = []
    while tokens.kind == "name":
        name = tokens.take()
        fields.append(Field(name, read_type(tokens) if tokens.accept(":") else str))
        if not tokens.accept(","):
            break
    if tokens.kind not in ("arrow", "end"):
        raise tokens.error(f"expected a name, ',' or '->', found {tokens.describe()}")
    return tuple(fields)


def _read_fields(given: Mapping[str, Any], named: Mapping[str, Any]) -> SignatureSpec:
    _check_keys("signature", given, {"name", "description", "inputs", "outputs"})
    name = given.get("name")
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z]\w{0,63}", name, re.ASCII)):
        raise invalid_signature("name", "must be a letter and up to 63 letters, digits and _")
    sides = {}
    types = 0  # characters
    for side in ("inputs", "outputs"):
        fields = given.get(side)
        if not isinstance(fields, list):
            raise invalid_signature(side, "must be a list of {name, type?, description?}")
        types += sum(len(field["type"]) for field in fields if _has_type_text(field))
        if types > MAX_TEXT:
            raise invalid_signature(side, f"the texts of all types are longer than {MAX_TEXT} characters")
        sides[side] = tuple(_read_field(f"{side}[{index}]", field, named) for index, field in enumerate(fields))
    return SignatureSpec(sides["inputs"], sides["outputs"], name, _optional_text("description", given))


def _has_type_text(given: object) -> bool:
    return isinstance(given, Mapping) and isinstance(given.get("type"), str)


def _read_field(path: str, given: object, named: Mapping[str, Any]) -> Field:
    if not isinstance(given, Mapping):
        raise invalid_signature(path, "must be a map {name, type?, description?}")
    _check_keys(path, given, {"name", "type", "description"})
    name, type_given = given.get("name"), given.get("type", "str")
    if not isinstance(name, str):
        raise invalid_signature(f"{path}.name", "must be text")
    if not isinstance(type_given, str) or len(type_given) > MAX_TEXT:
        raise invalid_signature(f"{path}.type", f"must be the text of a type, of at most {MAX_TEXT} characters")
    try:
        parsed = parse_type(type_given, named)
    except TypeTextError as error:
        raise invalid_signature(f"{path}.type", f"{error} (at character {error.position + 1})") from None
    return Field(name, parsed, _optional_text("description", given, f"{path}."))


def _check_keys(path: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            raise invalid_signature(f"{path}.{key}", f"is not known; known are {', '.join(sorted(known))}")


def _optional_text(key: str, given: Mapping[str, Any], path: str = "") -> str | None:
    value = given.get(key)
    if value is None or (isinstance(value, str) and len(value) <= MAX_TEXT):
        return value or None
    raise invalid_signature(f"{path}{key}", f"must be text of at most {MAX_TEXT} characters")


def _fields_text(fields: Sequence[Field]) -> str:
    return ", ".join(f.name if f.type is str else f"{f.name}: {type_text(f.type)}" for f in fields)


def fields_of(signature: type[dspy.Signature], side: str) -> tuple[Field, ...]:
    """The ``inputs`` or ``outputs`` of a built signature."""
    found = signature.input_fields if side == "inputs" else signature.output_fields
    return tuple(
        Field(name, info.annotation, _description(name, info), required=info.is_required())
        for name, info in found.items()
    )


def _description(name: str, info: Any) -> str | None:
    text = (info.json_schema_extra or {}).get("desc")
    return None if not text or text == f"${{{name}}}" else str(text)


class SignatureCache:
    """Builds signatures (about half a millisecond each) and keeps the last used ones."""

    def __init__(self, size: int = _CACHED) -> None:
        self._size = size
        self._built: OrderedDict[object, type[dspy.Signature]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._built)

    def build(self, spec: SignatureSpec, instructions: str | None) -> type[dspy.Signature]:
        """Return the ``dspy.Signature``; ``instructions`` go before the signature's description.

        Raises:
            DspexError: ``invalid_signature``: DSPy cannot build it.
        """
        key = (
            spec.name,
            spec.text,
            *(f.description for f in spec.inputs + spec.outputs),
            instructions,
            spec.description,
        )
        built: type[dspy.Signature] | None = self._built.get(key)
        if built is None:
            built = self._built[key] = _build(spec, instructions or spec.description)
            while len(self._built) > self._size:
                self._built.popitem(last=False)
        self._built.move_to_end(key)
        return built


def _build(spec: SignatureSpec, instructions: str | None) -> type[dspy.Signature]:
    fields = {}
    for kind, side in ((dspy.InputField, spec.inputs), (dspy.OutputField, spec.outputs)):
        for field in side:
            described = {} if field.description is None else {"desc": field.description}
            fields[field.name] = (field.type, kind(**described))
    try:
        built: type[dspy.Signature] = dspy.make_signature(fields, instructions, spec.name or "StringSignature")
    except Exception as error:  # whatever DSPy and pydantic raise, the signature is the cause
        raise invalid_signature("signature", f"DSPy cannot build it: {error}") from error
    if list(built.input_fields) + list(built.output_fields) != [f.name for f in spec.inputs + spec.outputs]:
        raise invalid_signature("signature", "DSPy dropped or renamed a field")
    return built


def json_schema(fields: Sequence[Field] | None) -> dict[str, Any]:
    """The JSON schema of a map with these fields; of any map where they are not known."""
    if fields is None:
        return {"type": "object"}
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for field in fields:
        described = _schema_of(field.type)
        definitions.update(described.pop("$defs", {}))
        properties[field.name] = described | ({"description": field.description} if field.description else {})
    schema: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": [field.name for field in fields if field.required and not allows_none(field.type)],
        "additionalProperties": False,
    }
    return schema | ({"$defs": definitions} if definitions else {})


def _schema_of(annotation: Any) -> dict[str, Any]:
    try:
        return wire_schema(annotation)
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return {}  # a type of the application's that has no JSON form


def allows_none(annotation: Any) -> bool:
    """Whether None is a value of the type, so that an input of it may be left out."""
    if annotation is Any:
        return False
    try:
        TypeAdapter(annotation).validate_python(None)
    except (DspexError, ValueError, PydanticSchemaGenerationError):
        return False
    return True
