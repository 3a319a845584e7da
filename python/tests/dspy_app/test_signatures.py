"""Signatures: what is read, what is refused and where, and that DSPy carries every name that is let through."""

from __future__ import annotations

import inspect
import json
import keyword
import typing
from datetime import date, datetime
from typing import Any, Literal, Optional

import dspy
import pytest
from dspex.errors import InvalidSignature
from dspex_worker.dspy_app.field_types import TypeTextError, parse_type, type_text
from dspex_worker.dspy_app.names import problem_of_name
from dspex_worker.dspy_app.signatures import SignatureCache, json_schema, parse_signature
from dspy.lm15 import Message, Request, Response, Usage
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

TYPES = [
    ("str", str),
    ("int", int),
    ("float", float),
    ("bool", bool),
    ("bytes", bytes),
    ("date", date),
    ("datetime", datetime),
    ("list", list[Any]),
    ("dict", dict[str, Any]),
    ("list[int]", list[int]),
    ("dict[str, list[float]]", dict[str, list[float]]),
    ("Optional[str]", Optional[str]),  # noqa: UP045
    ("int | str | None", int | str | None),
    ("Literal['a', \"b, ]\", 3, -1, True, None]", Literal["a", "b, ]", 3, -1, True, None]),
    (r"Literal['it\'s', 'a\\b', 'x->y']", Literal["it's", "a\\b", "x->y"]),
    (f"Literal[{(1 << 64) - 1}, {-(1 << 63)}]", Literal[18446744073709551615, -9223372036854775808]),
    ("list[Literal['x'] | None]", list[Optional[Literal["x"]]]),  # noqa: UP045
]


@pytest.mark.parametrize(("text", "expected"), TYPES)
def test_type_is_read_and_written(text: str, expected: object) -> None:
    assert parse_type(text) == expected
    assert parse_type(type_text(expected)) == expected


def test_both_forms_make_the_same_signature() -> None:
    text = parse_signature("question, context: list[str] -> answer: float, sure: bool")
    fields = parse_signature(
        {
            "inputs": [{"name": "question"}, {"name": "context", "type": "list[str]"}],
            "outputs": [{"name": "answer", "type": "float"}, {"name": "sure", "type": "bool"}],
        }
    )
    assert text == fields
    built = SignatureCache().build(text, "Answer it.")
    assert built.instructions == "Answer it."
    assert {name: field.annotation for name, field in built.output_fields.items()} == {"answer": float, "sure": bool}
    assert list(built.input_fields) == ["question", "context"]


def test_description_and_schema() -> None:
    spec = parse_signature(
        {
            "name": "Triage",
            "description": "Sort a ticket.",
            "inputs": [
                {"name": "ticket", "description": "as the customer wrote it"},
                {"name": "on", "type": "date | None"},
            ],
            "outputs": [{"name": "team", "type": "Literal['web', 'pay']"}],
        }
    )
    assert SignatureCache().build(spec, None).instructions == "Sort a ticket."
    assert json_schema(spec.inputs) == {
        "type": "object",
        "properties": {
            "ticket": {"type": "string", "description": "as the customer wrote it"},
            "on": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        },
        "required": ["ticket"],
        "additionalProperties": False,
    }
    assert json_schema(spec.outputs)["properties"]["team"]["enum"] == ["web", "pay"]


WRONG: list[tuple[object, str, str]] = [
    ("", "character 1", "'->'"),
    ("a, b", "character 5", "'->'"),
    ("-> b", "inputs", "at least one"),
    ("a ->", "outputs", "at least one"),
    ("a -> b -> c", "character 8", "'->'"),
    ("a b -> c", "character 3", "','"),
    ("a -> a", "outputs.a", "is an input, too"),
    ("a, a -> b", "inputs.a", "twice"),
    ("_a -> b", "inputs._a", "'_'"),
    ("a -> _b", "outputs._b", "'_'"),
    ("lm -> b", "inputs.lm", "parameter"),
    ("config -> b", "inputs.config", "parameter"),
    ("prediction -> b", "inputs.prediction", "parameter"),
    ("a -> instructions", "outputs.instructions", "attribute of dspy.Signature"),
    ("a: Foo -> b", "character 4", "'Foo' is not known"),
    ("a: List[int] -> b", "character 4", "list[…]"),
    ("a: list[int -> b", "character 13", "']'"),
    ("a: dict[int, str] -> b", "character 9", "keys of a dict"),
    ("a: None -> b", "inputs.a.type", "None alone"),
    ("a: Literal[1.5] -> b", "character 13", ".5"),
    ("a: os.PathLike -> b", "character 6", ".PathLike"),
    ("a: __import__('os').system('x') -> b", "character 14", "('os')"),
    ("a=1 -> b", "character 2", "=1"),
    (f"a: {'list[' * 40}int{']' * 40} -> b", "character", "deep"),
    (f"{'x' * 65} -> b", "inputs.", "longer than 64"),
    ("x" * 20_000 + " -> b", "signature", "longer than"),
    (", ".join(f"a{i}" for i in range(65)) + " -> b", "inputs", "65"),
    ("a: " + "|".join(f"Literal[{i}]" for i in range(33)) + " -> b", "character", "at most 32 members"),
    ("a: " + "|".join(f"Optional[Literal[{i}, {i + 50}]]" for i in range(33)) + " -> b", "character", "at most 32"),
    (f"a: Optional[{'|'.join(f'Literal[{i}]' for i in range(32))}] -> b", "character", "at most 32 members"),
    (f"a: Literal[{'9' * 5000}] -> b", "character 12", "2^64"),
    (f"a: Literal[1, {1 << 64}] -> b", "character 15", "2^64"),
    (f"a: Literal[{-(1 << 63) - 1}] -> b", "character 12", "-2^63"),
    (
        {"inputs": [{"name": f"a{i}", "type": f"list[{'str|' * 31}str]"} for i in range(64)] * 2, "outputs": []},
        "inputs",
        "all types",
    ),
    (7, "signature", "is int"),
    ({"inputs": "a", "outputs": []}, "inputs", "list"),
    ({"inputs": [{"name": "a"}], "outputs": [{"name": "b", "type": "Foo"}]}, "outputs[0].type", "'Foo'"),
    ({"inputs": [{"name": "a", "kind": 1}], "outputs": [{"name": "b"}]}, "inputs[0].kind", "not known"),
    ({"inputs": [{"name": 1}], "outputs": [{"name": "b"}]}, "inputs[0].name", "text"),
    ({"inputs": [{"name": "a"}], "outputs": [{"name": "b"}], "module": "os"}, "signature.module", "not known"),
    ({"inputs": [{"name": "a-b"}], "outputs": [{"name": "b"}]}, "inputs.a-b", "not a name"),
    ({"inputs": [{"name": "e\u0301"}], "outputs": [{"name": "b"}]}, "inputs.e\u0301", "normal form"),
]


@pytest.mark.parametrize(("given", "path", "why"), WRONG)
def test_refused_with_place_and_reason(given: object, path: str, why: str) -> None:
    with pytest.raises(InvalidSignature) as caught:
        parse_signature(given)
    [problem] = caught.value.details["errors"]
    assert problem["path"].startswith(path)
    assert why in problem["message"]


class Local(BaseModel):
    """A class that DSPy's own reader would find in this module."""


def test_nothing_is_looked_up() -> None:
    Foo = Local  # noqa: F841, N806
    for name in ("Foo", "Local", "dspy", "os", "Path", "object", "Any"):
        with pytest.raises(InvalidSignature):
            parse_signature(f"a: {name} -> b")


@given(st.text(alphabet="ab:, ->[]|'\"\\LiteralOptionalstrint0123", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spec = parse_signature(text)
    except InvalidSignature:
        return
    assert parse_signature(spec.text).text == spec.text


@given(st.text(max_size=30))
def test_any_type_text_is_read_or_refused(text: str) -> None:
    place = 0
    try:
        parse_type(text)
    except TypeTextError as error:
        place = error.position
    assert 0 <= place <= len(text)


def test_literal_text_of_any_kind_survives() -> None:
    @given(st.text(max_size=20).filter(lambda text: "\n" not in text))
    def check(text: str) -> None:
        made = Literal[text]  # type: ignore[valid-type]
        assert typing.get_args(parse_type(type_text(made))) == (text,)

    check()


def test_built_signatures_are_kept_and_bounded() -> None:
    cache = SignatureCache(size=3)
    first = cache.build(parse_signature("a -> b"), None)
    assert cache.build(parse_signature("a -> b"), None) is first
    assert cache.build(parse_signature("a -> b"), "Other.") is not first
    assert cache.build(parse_signature("a: int | str -> b"), None) is not cache.build(
        parse_signature("a: str | int -> b"), None
    )
    for number in range(20):
        cache.build(parse_signature(f"a{number} -> b"), None)
    assert len(cache) == 3
    assert cache.build(parse_signature("a -> b"), None) is not first


class Engine:
    """Answers every output with its own name."""

    def __init__(self, as_json: bool, outputs: list[str]) -> None:
        self._json, self._outputs = as_json, outputs
        self.request: Request | None = None

    def complete(self, request: Request) -> Response:
        self.request = request
        values = {name: f"value of {name}" for name in self._outputs}
        marked = [f"[[ ## {name} ## ]]\n{value}" for name, value in values.items()]
        text = json.dumps(values) if self._json else "\n\n".join([*marked, "[[ ## completed ## ]]"])
        message, usage = Message.assistant(text), Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        return Response(id="1", model="fake/x", message=message, finish_reason="stop", usage=usage)


def candidate_names() -> list[str]:
    """Every name that DSPy or pydantic uses itself, and some that people would."""
    names = {
        *keyword.kwlist,
        "completed",
        "reasoning",
        "args",
        "kwargs",
        "n",
        "temperature",
        "rollout_id",
        "имя",
        "été",
    }
    for cls in (
        dspy.Signature,
        BaseModel,
        dspy.Predict,
        dspy.Module,
        dspy.Prediction,
        dspy.LM,
        dict,
        type(dspy.Signature),
    ):
        for name in dir(cls):
            names.add(name)
            try:
                names.update(inspect.signature(getattr(cls, name)).parameters)
            except (TypeError, ValueError, AttributeError):
                continue
    return sorted(name for name in names if name.isidentifier())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")
@pytest.mark.parametrize("as_json", [False, True])
def test_dspy_carries_every_name_that_is_let_through(as_json: bool) -> None:
    cache = SignatureCache()
    adapter = dspy.JSONAdapter() if as_json else dspy.ChatAdapter(use_json_adapter_fallback=False)
    tried = 0
    for name in candidate_names():
        for output in (False, True):
            if problem_of_name(name, output=output):
                continue
            tried += 1
            text = f"text_ -> {name}, rest_" if output else f"text_, {name} -> rest_"
            signature = cache.build(parse_signature(text), "Do it.")
            engine = Engine(as_json, list(signature.output_fields))
            inputs = {field: f"input of {field}" for field in signature.input_fields}
            lm = dspy.LM("fake/x", engine=engine, cache=False)
            with dspy.context(lm=lm, adapter=adapter, trace=None, disable_history=True):
                got = dspy.Predict(signature)(**inputs).toDict()
            assert got == {field: f"value of {field}" for field in signature.output_fields}, (name, output)
            assert all(value in str(engine.request) for value in inputs.values()), (name, output)
    assert tried > 300
