"""Programs: what is kept of a session's, what the application registered, and the modules that run."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import dspy
from dspex.errors import DspexError

from dspex_worker.dspy_app.errors import invalid_param, program_not_found
from dspex_worker.dspy_app.inputs import InputChecker
from dspex_worker.dspy_app.kinds import OWN, Kinds, ModuleMaker, outputs_of
from dspex_worker.dspy_app.modules import copy_module, demos_state, load_state, only_asks, predictors, runs_async
from dspex_worker.dspy_app.records import Record, unusable
from dspex_worker.dspy_app.signatures import Field, SignatureCache, SignatureSpec, fields_of, parse_signature
from dspex_worker.offers import own_doc

if TYPE_CHECKING:
    from dspex_worker.app import App
    from dspex_worker.offers import Program as Registered
    from dspex_worker.session import Session

Scope = Literal["session", "application"]

MAX_ID = 128  # bytes
_RECORD = "program."  # prefix of a record's key in the session's reserved state
_LOCAL = "dspex.programs"  # built programs in ``session.local``: id -> (stamp, Program)


class Program:
    """A program that can be executed. ``inputs`` and ``outputs`` are None where they are not known."""

    def __init__(
        self,
        id: str,
        scope: Scope,
        module_name: str,
        module: dspy.Module,
        inputs: tuple[Field, ...] | None,
        outputs: tuple[Field, ...] | None,
        doc: str = "",
        safe: bool = False,
    ) -> None:
        self.id = id
        self.scope: Scope = scope
        self.module_name = module_name
        self.inputs = inputs
        self.outputs = outputs
        self.doc = doc
        self.checker = InputChecker(inputs)
        self.is_async = runs_async(type(module))
        self.safe = safe or only_asks(module)  # it may be run again
        self._module = module

    @property
    def signature(self) -> str | None:
        """The text form, where inputs and outputs are known."""
        return None if self.inputs is None or self.outputs is None else SignatureSpec(self.inputs, self.outputs).text

    @property
    def instructions(self) -> str | None:
        """Those of the only predictor; None where there are several."""
        found = predictors(self._module)
        return found[0][1].signature.instructions if len(found) == 1 else None

    @property
    def demos(self) -> list[dict[str, Any]]:
        """The demos of all predictors."""
        return [dict(demo) for _, predictor in predictors(self._module) for demo in predictor.demos]

    def for_call(self) -> dspy.Module:
        """The module for one call, of its own: what the call does to it is gone with it."""
        return copy_module(self._module)


class ApplicationPrograms:
    """What the application registered: programs, and modules that take a signature (for ``create_program``)."""

    def __init__(self, app: App) -> None:
        modules: dict[str, ModuleMaker] = {}
        self.types = app.named_types
        self.safe = frozenset(name for name, registered in app.programs.items() if registered.retry == "safe")
        self._programs: dict[str, Program] = {}
        for name, registered in app.programs.items():
            if _takes_signature(registered.target):
                if name in OWN:
                    raise ValueError(f"program {name!r} has the name of a module of DSPy's")
                modules[name] = registered.target
            else:
                self._programs[name] = _registered(registered, app.named_types)
        self.kinds = Kinds(modules, app.tools, app.rewards)

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
    return Program(name, "application", type(module).__name__, module, inputs, outputs, doc, safe)


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


class SessionPrograms:
    """The programs of one session, inside one call of it."""

    def __init__(self, session: Session, application: ApplicationPrograms, signatures: SignatureCache) -> None:
        self._reserved: MutableMapping[str, Any] = session.reserved
        self._built: dict[str, tuple[str, Program]] = session.local.setdefault(_LOCAL, {})
        self._application = application
        self._signatures = signatures

    def __contains__(self, id: str) -> bool:
        return _RECORD + id in self._reserved

    def ids(self) -> list[str]:
        """In the order of their names."""
        return sorted(key.removeprefix(_RECORD) for key in self._reserved if key.startswith(_RECORD))

    def listed(self) -> list[dict[str, Any]]:
        """What is told of each, by what was given when it was made: none is built for that, or needs to be."""
        return [{"program": id, "scope": "session"} | _told(id, self._reserved[_RECORD + id]) for id in self.ids()]

    def get(self, id: str) -> Program:
        """The program, built from its record where this worker has not built it yet.

        Raises:
            DspexError: ``program_not_found``; ``invalid_params`` where the record cannot be used: it names what this
                application no longer has, say, or came with an import.
        """
        if id not in self:
            raise program_not_found(id)
        value = self._reserved[_RECORD + id]
        if id in self._built and isinstance(value, Mapping) and value.get("stamp") == self._built[id][0]:
            return self._built[id][1]
        record = Record.read(id, value)
        try:
            program = self._build(id, record)
        except DspexError as error:
            raise unusable(id, error.message) from None
        self._built[id] = (record.stamp, program)
        return program

    def create(self, id: str, record: Record, demos: list[dict[str, Any]] | None) -> Program:
        """Build a program and keep its record; one of the same id is replaced.

        Raises:
            DspexError: ``invalid_signature``, ``invalid_params``.
        """
        program = self._build(id, record)
        if demos:
            record = replace(record, state=demos_state(program.for_call(), demos))
            program = self._build(id, record)
        self._reserved[_RECORD + id] = record.to_value()
        self._built[id] = (record.stamp, program)
        return program

    def delete(self, id: str) -> None:
        """Raises DspexError ``program_not_found``."""
        if id not in self:
            raise program_not_found(id)
        del self._reserved[_RECORD + id]
        self._built.pop(id, None)

    def _build(self, id: str, record: Record) -> Program:
        application = self._application
        spec = parse_signature(record.signature, application.types)
        kind, parts = application.kinds.check(record.module, record.parameters, record.tools, spec)
        module = kind.make(self._signatures.build(spec, record.instructions), parts)
        if record.state is not None:
            module = load_state(module, record.state)
        inputs = kind.inputs(spec, parts.parameters)
        safe = record.module in application.safe
        return Program(id, "session", record.module, module, inputs, outputs_of(module, spec), safe=safe)


def _told(id: str, value: object) -> dict[str, str]:
    try:
        record = Record.read(id, value)
    except DspexError as error:
        return {"module": "", "doc": error.message}
    described = record.signature.get("description") if isinstance(record.signature, Mapping) else None
    return {"module": record.module, "doc": record.instructions or (described if isinstance(described, str) else "")}


def check_id(id: str) -> str:
    """Return a program's id, or raise DspexError ``invalid_params``."""
    if not 1 <= len(id.encode()) <= MAX_ID or not id.isprintable():
        raise invalid_param("id", f"must have 1 to {MAX_ID} bytes and no control characters")
    return id


def new_id() -> str:
    """An id for a program whose maker gave none."""
    return f"program-{secrets.token_hex(4)}"
