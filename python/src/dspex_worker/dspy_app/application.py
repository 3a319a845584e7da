"""What the application registered: programs, and modules that take a signature (for ``create_program``)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dspy
from dspex.errors import DspexError
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from dspex_worker.dspy_app.configured import configured, registered_program
from dspex_worker.dspy_app.errors import program_not_found
from dspex_worker.dspy_app.kinds import OWN, Kinds, ModuleMaker
from dspex_worker.dspy_app.programs import Builder, Program

if TYPE_CHECKING:
    from dspex_worker.app import App


class ApplicationPrograms:
    """What the application registered: programs, and modules that take a signature (for ``create_program``)."""

    def __init__(self, app: App) -> None:
        modules: dict[str, ModuleMaker] = {}
        self._programs: dict[str, Program] = {}
        for name, registered in app.programs.items():
            if _takes_signature(registered.target):
                if name in OWN:
                    raise ValueError(f"program {name!r} has the name of a module of DSPy's")
                modules[name] = registered.target
            else:
                self._programs[name] = registered_program(registered, app.named_types)
        for name, kind in app.named_types.items():
            _usable(name, kind)
        safe = frozenset(name for name, registered in app.programs.items() if registered.retry == "safe")
        self.builder = Builder(Kinds(modules, app.tools, app.rewards), app.named_types, safe, app.embedder)

    def configure(self, programs: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the programs that the operator configured.

        Raises:
            ValueError: one cannot be imported, or built.
        """
        for name, given in programs.items():
            if name in self._programs:
                raise ValueError(f"programs.{name}: the application registers a program of this name")
            try:
                self._programs[name] = configured(name, given, self.builder)
            except DspexError as error:
                raise ValueError(f"programs.{name}: {error.message}") from error
            except Exception as error:  # whatever importing it, or making it, raises
                raise ValueError(f"programs.{name}: {type(error).__name__}: {error}") from error

    def __contains__(self, id: str) -> bool:
        return id in self._programs

    def __iter__(self) -> Iterator[Program]:
        return iter(self._programs.values())

    def get(self, id: str) -> Program:
        """Raises DspexError ``program_not_found``."""
        if id not in self._programs:
            raise program_not_found(id)
        return self._programs[id]


def _usable(name: str, kind: Any) -> None:
    """Raises TypeError where a type that was registered for signatures cannot be one's."""
    try:
        TypeAdapter(kind).json_schema()
    except PydanticUserError as error:
        raise TypeError(f"the type {name!r} cannot be used in signatures: {error.message}") from error


def _takes_signature(target: Any) -> bool:
    """Whether a class or factory needs exactly one argument: it is a module for signatures, not a program."""
    if isinstance(target, dspy.Module) or not callable(target):
        return False
    # DSPy's metaclass hides what a class takes.
    made = isinstance(target, type)
    parameters = list(inspect.signature(target.__init__ if made else target).parameters.values())[int(made) :]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return len(needed) == 1
