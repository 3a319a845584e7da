"""Programs that can be executed, and how one is built of its record."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Literal

import dspy

from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.inputs import InputChecker
from dspex_worker.dspy_app.kinds import Kinds, outputs_of
from dspex_worker.dspy_app.memory import Memory, remembering
from dspex_worker.dspy_app.modules import copy_module, load_state, only_asks, predictors, runs_async
from dspex_worker.dspy_app.nearest import Embed, nearest
from dspex_worker.dspy_app.records import Record
from dspex_worker.dspy_app.signatures import Field, SignatureCache, SignatureSpec, parse_signature

Scope = Literal["session", "shared", "application"]

MAX_ID = 128  # bytes


class Program:
    """A program that can be executed. ``inputs`` and ``outputs`` are None where they are not known.

    The input of a conversation that is kept for the client is not among the inputs.
    """

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
        memory: Memory | None = None,
        record: Record | None = None,
    ) -> None:
        self.id = id
        self.scope: Scope = scope
        self.module_name = module_name
        if memory is not None and inputs is not None:
            inputs = tuple(field for field in inputs if field.name != memory.field)
        self.inputs = inputs
        self.outputs = outputs
        self.doc = doc
        self.memory = memory
        self.model: str | None = None  # the configured model that it uses unless its client says otherwise
        self.record = record  # what it was built of; None: the application registered it
        self.checker = InputChecker(inputs)
        self.is_async = runs_async(type(module))
        self.safe = safe or only_asks(module)  # it may be run again
        self._module = module

    @property
    def signature(self) -> str | None:
        """The text form, where inputs and outputs are known."""
        return None if self.inputs is None or self.outputs is None else SignatureSpec(self.inputs, self.outputs).text

    @property
    def names(self) -> frozenset[str] | None:
        """Those of its fields, without the conversation's; None where they are not known."""
        if self.inputs is None or self.outputs is None:
            return None
        return frozenset(field.name for field in self.inputs + self.outputs)

    @property
    def instructions(self) -> str | None:
        """Those of the only predictor; None where there are several."""
        found = predictors(self._module)
        return found[0][1].signature.instructions if len(found) == 1 else None

    @property
    def demos(self) -> list[dict[str, Any]]:
        """The demos of all predictors."""
        return [dict(demo) for _, predictor in predictors(self._module) for demo in predictor.demos]

    def said(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Of a call's outputs, those that belong to a conversation."""
        names = None if self.outputs is None else {field.name for field in self.outputs} - {"trajectory"}
        return {name: value for name, value in outputs.items() if names is None or name in names}

    def for_call(self) -> dspy.Module:
        """The module for one call, of its own: what the call does to it is gone with it."""
        return copy_module(self._module)


class Builder:
    """Builds programs of records; keeps built signatures."""

    def __init__(
        self, kinds: Kinds, types: Mapping[str, Any], safe: frozenset[str], embedder: Callable[[str], Embed]
    ) -> None:
        self.kinds = kinds
        self.embedder = embedder
        self.types = types
        self._safe = safe  # modules of the application's that may be run again
        self._signatures = SignatureCache()

    def build(self, id: str, record: Record, scope: Scope) -> Program:
        """Raises DspexError ``invalid_signature``, ``invalid_params``."""
        spec = parse_signature(record.signature, self.types)
        memory = None
        if record.memory is not None:
            spec, memory = remembering(spec, record.memory)
        kind, parts = self.kinds.check(record.module, record.parameters, record.tools, spec)
        module = kind.make(self._signatures.build(spec, record.instructions), parts)
        if record.state is not None:
            module = load_state(module, record.state)
        outputs = outputs_of(module, spec)
        safe = record.module in self._safe
        if record.nearest is not None:
            safe = safe or only_asks(module)
            module = nearest(module, record.nearest, tuple(field.name for field in spec.inputs), self.embedder)
        inputs = kind.inputs(spec, parts.parameters)
        doc = record.instructions or spec.description or ""
        return Program(id, scope, record.module, module, inputs, outputs, doc, safe, memory, record)


def check_id(id: str) -> str:
    """Return a program's id, or raise DspexError ``invalid_params``."""
    if not 1 <= len(id.encode()) <= MAX_ID or not id.isprintable():
        raise invalid_param("id", f"must have 1 to {MAX_ID} bytes and no control characters")
    return id


def new_id() -> str:
    """An id for a program whose maker gave none."""
    return f"program-{secrets.token_hex(4)}"
