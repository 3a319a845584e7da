"""What an application offers to those who make and run DSPy programs: programs, types, tools, rewards.

Clients refer to all of these by name, and to nothing else of the application's.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Anything = TypeVar("Anything")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
# What signatures call by these names is known already.
_TAKEN = frozenset(
    {"str", "int", "float", "bool", "list", "dict", "set", "tuple", "date", "datetime", "bytes", "None", "Literal"}
    | {"Optional", "History", "Image", "Audio", "File", "dspy"}
)


@dataclass(frozen=True)
class Program:
    """A program registered for all sessions: a ``dspy.Module`` subclass, instance or zero-argument factory."""

    name: str
    target: Any
    description: str
    signature: Any = None
    retry: Literal["safe"] | None = None
    memory: Mapping[str, int] | None = None


class Offers:
    """The part of an ``App`` that its DSPy programs are made of."""

    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}
        self.named_types: dict[str, Any] = {}
        self.tools: dict[str, Callable[..., Any]] = {}
        self.rewards: dict[str, Callable[..., Any]] = {}
        self.scorers: dict[str, Callable[..., Any]] = {}

    @typing.overload
    def program(self, target: builtins.type[Anything], /) -> builtins.type[Anything]: ...
    @typing.overload
    def program(
        self,
        name: str | None = None,
        /,
        *,
        description: str = ...,
        signature: Any = ...,
        retry: Literal["safe"] | None = ...,
        memory: Mapping[str, int] | None = ...,
    ) -> Callable[[Anything], Anything]: ...
    @typing.overload
    def program(
        self,
        target: Anything,
        /,
        *,
        description: str = ...,
        signature: Any = ...,
        retry: Literal["safe"] | None = ...,
        memory: Mapping[str, int] | None = ...,
    ) -> Anything: ...
    def program(
        self,
        target: Any = None,
        /,
        *,
        description: str = "",
        signature: Any = None,
        retry: Literal["safe"] | None = None,
        memory: Mapping[str, int] | None = None,
    ) -> Any:
        """Register a ``dspy.Module`` subclass, instance or zero-argument factory as a program for all sessions.

        As ``@app.program``, ``@app.program("name", …)`` or ``app.program("name")(module)``. ``retry="safe"``: its tools
        and its own code may be run again if the worker dies; what only asks LMs may be in any case. ``memory``:
        ``{"turns": n}`` or ``{"tokens": n}``, for a program with an input of the type ``dspy.History``, which is then
        kept in each session.
        """
        more = {"description": description, "signature": signature, "retry": retry, "memory": memory}
        if target is None or isinstance(target, str):
            return functools.partial(self._add_program, name=target, **more)
        return self._add_program(target, name=None, **more)

    def _add_program(
        self,
        target: Anything,
        *,
        name: str | None,
        description: str,
        signature: Any,
        retry: Literal["safe"] | None,
        memory: Mapping[str, int] | None,
    ) -> Anything:
        name = name or getattr(target, "__name__", None) or type(target).__name__
        if name in self.programs:
            raise ValueError(f"program {name!r} is registered twice")
        if retry not in (None, "safe"):
            raise ValueError(f"program {name!r}: retry is 'safe' or None, not {retry!r}")
        is_named = inspect.isclass(target) or inspect.isfunction(target)
        doc = description or (own_doc(target) if is_named else "")
        self.programs[name] = Program(name, target, doc, signature, retry, memory)
        return target

    def type(self, target: Anything) -> Anything:
        """Let signatures of clients name this class, a pydantic model or an enum, as a type of their fields."""
        name = getattr(target, "__name__", "")
        if not inspect.isclass(target) or not _NAME.fullmatch(name):
            raise TypeError(f"{target!r} is no class with a name that a signature can have")
        if name in _TAKEN or self.named_types.get(name, target) is not target:
            raise ValueError(f"there is a type {name!r} already")
        self.named_types[name] = target
        return target

    def types(self, *targets: Any) -> None:
        """Do the same for several."""
        for target in targets:
            self.type(target)

    @typing.overload
    def tool(self, function: Anything, /) -> Anything: ...
    @typing.overload
    def tool(self, /, *, name: str) -> Callable[[Anything], Anything]: ...
    def tool(self, function: Any = None, /, *, name: str | None = None) -> Any:
        """Let clients' ``react`` programs use this function, plain or async, by its name.

        Its annotations and docstring are what the LM is told; a plain one runs on a thread.
        """
        return _named(self.tools, "tool", function, name)

    @typing.overload
    def reward(self, function: Anything, /) -> Anything: ...
    @typing.overload
    def reward(self, /, *, name: str) -> Callable[[Anything], Anything]: ...
    def reward(self, function: Any = None, /, *, name: str | None = None) -> Any:
        """Let clients' ``best_of_n`` and ``refine`` programs choose answers by this function.

        It takes the inputs, a map, and the ``dspy.Prediction``, and returns a number. ``refine`` shows its source to
        the LM.
        """
        return _named(self.rewards, "reward", function, name)

    @typing.overload
    def metric(self, function: Anything, /) -> Anything: ...
    @typing.overload
    def metric(self, /, *, name: str) -> Callable[[Anything], Anything]: ...
    def metric(self, function: Any = None, /, *, name: str | None = None) -> Any:
        """Let ``evaluate_program`` and ``optimize_program`` score answers by this plain function, by its name.

        It takes the ``dspy.Example`` and the ``dspy.Prediction``, and what else DSPy's optimisers give, as far as it
        has parameters for that: trace, pred_name, pred_trace. It returns a number, best one from 0 to 1, or a map of
        score and feedback.
        """
        return _named(self.scorers, "metric", function, name)


def own_doc(target: Any) -> str:
    """The docstring of a class or function itself, not the one that it inherits."""
    return (
        inspect.cleandoc(vars(target).get("__doc__") or "") if inspect.isclass(target) else inspect.getdoc(target) or ""
    )


def _named(known: dict[str, Callable[..., Any]], kind: str, function: Any, name: str | None) -> Any:
    if function is None:
        return functools.partial(_named, known, kind, name=name)
    name = str(name or getattr(function, "__name__", ""))
    if not callable(function) or not _NAME.fullmatch(name):
        raise TypeError(f"{function!r} is no function with a name of letters, digits and _: give {kind}(name=…)")
    if name in known:
        raise ValueError(f"{kind} {name!r} is registered twice")
    known[name] = function
    return function
