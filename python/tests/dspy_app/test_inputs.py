"""Inputs are checked before any LM is called; all that is wrong is named at once."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from dspex.errors import InvalidParams
from dspex_worker.dspy_app.inputs import InputChecker
from dspex_worker.dspy_app.signatures import Field, parse_signature
from pydantic import BaseModel


def checker(signature: str) -> InputChecker:
    return InputChecker(parse_signature(signature).inputs)


def problems(check: InputChecker, inputs: object) -> dict[str, str]:
    with pytest.raises(InvalidParams) as caught:
        check.check(inputs)
    return {problem["path"]: problem["message"] for problem in caught.value.details["errors"]}


def test_all_that_is_wrong_is_named_in_one_error() -> None:
    check = checker("question, context: list[str], limit: int, on: date, note: str | None -> answer")
    found = problems(check, {"context": ["a", 2], "limit": "5", "on": 5, "extra": 1, "note": 1.5})
    assert set(found) == {
        "inputs.question",
        "inputs.context[1]",
        "inputs.limit",
        "inputs.on",
        "inputs.extra",
        "inputs.note",
    }
    assert found["inputs.question"] == "is missing"
    assert found["inputs.extra"] == "is not an input; inputs are question, context, limit, on, note"
    assert found["inputs.note"] == "must be str | None, is float"


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("int", "5"),
        ("int", True),
        ("int", 5.0),
        ("float", "1.5"),
        ("bool", 1),
        ("str", 5),
        ("str", b"x"),
        ("bytes", "x"),
        ("date", "yesterday"),
        ("datetime", 1700000000),
        ("list[int]", [1, "2"]),
        ("dict[str, int]", {"a": "b"}),
        ("Literal['a', 'b']", "c"),
        ("Literal[1]", True),
        ("Literal[True, 'a']", 1),
        ("int | Literal['a']", True),
        ("Literal[3]", 3.0),
        ("int | list[str]", [1]),
    ],
)
def test_values_are_not_taken_for_others(type_: str, value: Any) -> None:
    assert set(problems(checker(f"a: {type_} -> b"), {"a": value})) <= {"inputs.a", "inputs.a[1]", "inputs.a.a"}


@pytest.mark.parametrize(
    ("type_", "value", "taken"),
    [
        ("float", 5, 5.0),
        ("date", "2026-01-31", date(2026, 1, 31)),
        ("datetime", "2026-01-31T10:00:00Z", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("datetime", datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC)),
        ("int | str", "5", "5"),
        ("Literal['a', 3]", 3, 3),
        ("Literal[True, None]", True, True),
        ("Literal[True] | int", 1, 1),
        ("list", [1, "a", None], [1, "a", None]),
        ("dict", {"a": {"b": [1]}}, {"a": {"b": [1]}}),
        ("bytes", b"\x00", b"\x00"),
    ],
)
def test_values_are_taken(type_: str, value: Any, taken: Any) -> None:
    got = checker(f"a: {type_} -> b").check({"a": value})["a"]
    assert got == taken
    assert type(got) is type(taken)


def test_optional_inputs_may_be_left_out() -> None:
    check = checker("a: int | None, b -> c")
    assert check.check({"b": "x"}) == {"b": "x", "a": None}
    assert check.check({"b": "x", "a": None}) == {"b": "x", "a": None}
    assert problems(check, {"a": None}) == {"inputs.b": "is missing"}


def test_names_alone_are_checked_where_the_fields_are_not_known() -> None:
    check = InputChecker(None)
    assert check.check({"anything": 1}) == {"anything": 1}
    assert set(problems(check, {"config": {"api_base": "http://evil"}, "lm": 1, "_trace": 2})) == {
        "inputs.config",
        "inputs.lm",
        "inputs._trace",
    }


def test_inputs_must_be_a_map() -> None:
    assert problems(checker("a -> b"), ["a"]) == {"inputs": "must be a map, is list"}


def test_an_error_stays_short() -> None:
    with pytest.raises(InvalidParams) as caught:
        checker("a -> b").check({f"{'x' * 1000}{number}": 1 for number in range(10_000)})
    assert "and 9981 more" in caught.value.message
    assert len(str(caught.value.to_wire())) < 200_000


class Person(BaseModel):
    name: str
    age: int


class Opaque:
    pass


def test_types_of_the_application() -> None:
    check = InputChecker([Field("who", Person), Field("what", Opaque, required=False)])
    assert check.check({"who": {"name": "Ann", "age": 5}}) == {"who": Person(name="Ann", age=5)}
    assert set(problems(check, {"who": {"name": "Ann"}, "what": 5})) == {"inputs.who.age", "inputs.what"}
