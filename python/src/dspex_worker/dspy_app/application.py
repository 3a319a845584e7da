"""What the application registered: programs, and modules that take a signature (for ``create_program``)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dspy

from dspex_worker.dspy_app.errors import program_not_found
from dspex_worker.dspy_app.kinds import OWN, Kinds, ModuleMaker
from dspex_worker.dspy_app.memory import Memory, check_memory, history_fields
from dspex_worker.dspy_app.modules import runs_async
from dspex_worker.dspy_app.programs import Builder, Program
from dspex_worker.dspy_app.signatures import Field, fields_of, parse_signature
from dspex_worker.offers import own_doc

if TYPE_CHECKING:
    from dspex_worker.app import App
    from dspex_worker.offers import Program as Registered


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
                self._programs[name] = _registered(registered, app.named_types)
        safe = frozenset(name for name, registered in app.programs.items() if registered.retry == "safe")
        self.builder = Builder(Kinds(modules, app.tools, app.rewards), app.named_types, safe)

    def __contains__(self, id: str) -> bool:
        return id in self._programs

    def __iter__(self) -> Iterator[Program]:
        return iter(self._programs.values())

    def get(self, id: str) -> Program:
        """Raises DspexError ``program_not_found``."""
        if id not in self._programs:
            raise program_not_found(id)
        return self._programs[id]


def _takes_signature(target: Any) -> bool:
    """Whether a class or factory needs exactly one argument: it is a module for signatures, not a program."""
    if isinstance(target, dspy.Module) or not callable(target):
        return False
    # DSPy's metaclass hides what a class takes.
    made = isinstance(target, type)
    parameters = list(inspect.signature(target.__init__ if made else target).parameters.values())[int(made) :]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return len(needed) == 1


def _registered(registered: Registered, types: Mapping[str, Any]) -> Program:
    name, target = registered.name, registered.target
    module = target if isinstance(target, dspy.Module) else target()
    if not isinstance(module, dspy.Module):
        raise TypeError(f"program {name!r}: {target!r} made {type(module).__name__}, not a dspy.Module")
    inputs, outputs = _told_fields(module, registered.signature, types)
    dspys = type(module).__module__.partition(".")[0] == "dspy"
    doc = registered.description or ("" if dspys else own_doc(type(module)))  # a base's tells of DSPy, not of this
    safe = registered.retry == "safe"
    memory = None if registered.memory is None else _memory(name, registered.memory, inputs)
    return Program(name, "application", type(module).__name__, module, inputs, outputs, doc, safe, memory)


def _memory(name: str, given: Mapping[str, int], inputs: tuple[Field, ...] | None) -> Memory:
    fields = history_fields(inputs or ())
    if len(fields) != 1:
        raise ValueError(f"program {name!r}: memory needs one input of type dspy.History; there are {len(fields)}")
    return Memory(fields[0], **check_memory(given))


def _told_fields(
    module: dspy.Module, declared: Any, types: Mapping[str, Any]
) -> tuple[tuple[Field, ...] | None, tuple[Field, ...] | None]:
    """The fields that the decorator tells, else the module's own signature, else the parameters of its ``forward``."""
    if isinstance(declared, (str, Mapping)):
        spec = parse_signature(declared, types)
        return spec.inputs, spec.outputs
    signature = declared or getattr(module, "signature", None)
    if signature is None and isinstance(module, dspy.ChainOfThought):
        signature = module.predict.signature
    if isinstance(signature, type) and issubclass(signature, dspy.Signature):
        return fields_of(signature, "inputs"), fields_of(signature, "outputs")
    return _parameters(type(module)), None


def _parameters(module: type[dspy.Module]) -> tuple[Field, ...] | None:
    function = module.aforward if runs_async(module) else getattr(module, "forward", None)
    if function is None:
        raise TypeError(f"{module.__name__} has neither forward nor aforward")
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY) for p in parameters):
        return None
    return tuple(
        Field(p.name, Any if p.annotation is p.empty else p.annotation, required=p.default is p.empty)
        for p in parameters
    )
