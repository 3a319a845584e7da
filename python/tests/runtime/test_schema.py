"""What annotations allow, with and without pydantic."""

from __future__ import annotations

import datetime
import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from dspex.errors import InvalidParams
from dspex_worker import App, Session
from dspex_worker.app import Method
from dspex_worker.schema import Annotation, Problems


def problems(annotation: Any, value: Any) -> Problems:
    found: Problems = []
    check = Annotation(annotation).check
    if check is not None:
        check(value, "v", found)
    return found


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -1, 2**63], [True, 1.0, "1", None]),
        (float, [1.5, 1], [True, "1"]),
        (bool, [True], [1, "true"]),
        (str, [""], [b"", 1]),
        (bytes, [b""], [""]),
        (None, [None], [0]),
        (list, [[], [1, "a"]], [{}, "ab"]),
        (list[int], [[1]], [["a"]]),
        (dict[str, list[int]], [{"a": [1]}], [{"a": ["b"]}, []]),
        (int | None, [1, None], ["1"]),
        (list[int | list[str]], [[1, ["a"]]], [[["a", 1]]]),
        (Literal["a", 1, None], ["a", 1, None], [True, "b", [], 1.0]),
        (object, [object()], []),
    ],
)
def test_plain_types(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert problems(annotation, value) == []
    for value in bad:
        assert problems(annotation, value) != []


def test_the_place_of_a_problem() -> None:
    assert problems(dict[str, list[int | list[str]]], {"k": [1, ["a", 2]]}) == [
        {"path": "v.k[1][1]", "message": "must be text, not an integer"}
    ]


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Entry:
    when: datetime.date


def test_rich_types_are_pydantics() -> None:
    point, entries = Annotation(Point), Annotation(list[Entry])
    assert point.check is not None
    assert entries.check is not None
    assert point.check({"x": 1}, "p", []) == Point(1)
    assert point.schema["properties"]["x"] == {"title": "X", "type": "integer"}
    found: Problems = []
    assert entries.check([{"when": "2026-01-02"}], "e", found) == [Entry(datetime.date(2026, 1, 2))]
    assert found == []
    entries.check([{"when": "soon"}], "e", found)
    assert found[0]["path"] == "e[0].when"


def test_without_pydantic_rich_types_are_refused_and_plain_ones_work() -> None:
    code = """
import sys
sys.modules["pydantic"] = None
import datetime
from dspex_worker import App
app = App()
def f(a: int, b: list[str] | None = None): ...
app.method(f)
assert app.methods["f"].bind({"a": 1}) == {"a": 1}
def g(a: datetime.date): ...
try:
    app.method(g)
except TypeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs pydantic, which is not installed" in done.stdout


def test_importing_the_package_loads_neither_pydantic_nor_dspy() -> None:
    code = "import sys, dspex_worker; print([name for name in ('pydantic', 'dspy', 'uvloop') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_parameters_are_filled_in_or_sent() -> None:
    def f(a: int, *, session: Session | None, **more: str) -> Iterator[int]:
        yield a

    method = Method(f, "f")
    assert (method.session, method.stream, method.way) == ("optional", True, "thread_stream")
    assert method.result_schema == {"type": "integer"}
    assert method.bind({"a": 1, "b": "x"}) == {"a": 1, "b": "x"}
    with pytest.raises(InvalidParams) as caught:
        method.bind({"session": "s"})
    assert {problem["path"] for problem in caught.value.details["errors"]} == {"a", "session"}
    assert Method(functools.partial(f, 1), "g").session == "optional"


def test_what_cannot_be_registered() -> None:
    app = App()
    app.method("taken")(print_nothing)
    for name in ("taken", "hello", "session.x", "sidecar.health", "admin.x", "x" * 129):
        with pytest.raises(ValueError, match=r"registered twice|reserved|has 1 to"):
            app.method(name=name)(print_nothing)

    def variable(*values: int) -> None: ...

    async def asynchronous() -> None: ...

    with pytest.raises(TypeError, match="by name"):
        app.method(variable)
    with pytest.raises(TypeError, match="plain functions only"):
        app.method(inline=True)(asynchronous)
    with pytest.raises(ValueError, match="'safe' or None"):
        app.method(retry="always")(print_nothing)  # type: ignore[call-overload]


def print_nothing() -> None: ...


def test_programs() -> None:
    app = App()

    @app.program
    class Summarise:
        """Makes it short."""

    @app.program("named", description="Described.")
    def factory() -> Any: ...

    instance = Summarise()
    assert app.program("instance")(instance) is instance
    assert {name: program.description for name, program in app.programs.items()} == {
        "Summarise": "Makes it short.",
        "named": "Described.",
        "instance": "",
    }
    assert app.programs["named"].target is factory
    with pytest.raises(ValueError, match="registered twice"):
        app.program(Summarise)
