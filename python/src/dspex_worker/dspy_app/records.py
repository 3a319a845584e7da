"""What is kept of a program that a client made, and how it is read again.

A state may have come from a file (``session.import``), so what it holds is trusted no more than a client's parameters:
it is checked here each time a program is built of it, on any worker. Signature, parameters, tools, memory and nearest
are so where the program is built.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dspex.errors import DspexError, InvalidParams

from dspex_worker.dspy_app.errors import shortened
from dspex_worker.dspy_app.signatures import MAX_TEXT

MAX_DEMOS = 1000  # of one predictor
MAX_META = 16_384  # characters of a version's meta, as text


@dataclass(frozen=True)
class Record:
    """One version of a program: the module is built from it on any worker.

    ``stamp`` is another one after each change, so that a module built earlier is not taken for this one.
    """

    signature: Any  # as the client gave it, as are tools, parameters and memory
    module: str
    instructions: str | None
    state: dict[str, Any] | None  # demos and instructions by predictor, as ``modules.load_state`` takes it
    stamp: str = field(default_factory=lambda: secrets.token_hex(8))
    tools: Any = None
    parameters: Any = None
    memory: Any = None
    nearest: Any = None  # rows of which each call's demos are chosen: k, embedder, rows
    version: int = 1
    created: int = field(default_factory=lambda: int(time.time() * 1000))  # milliseconds since 1970
    source: str = "created"  # what made it: created, replaced, imported, …
    meta: dict[str, Any] | None = None  # what that says of it: a score, settings

    @classmethod
    def read(cls, id: str, value: object) -> Record:
        """The record that a state holds as ``value``. Raises DspexError ``invalid_params``."""
        if problem := _problem(value):
            raise unusable(id, problem)
        assert isinstance(value, Mapping)
        return cls(**{"created": 0, **value})

    def to_value(self) -> dict[str, Any]:
        """As it is kept in the session's state."""
        return {name: value for name, value in vars(self).items() if name not in _OPTIONAL or value is not None}

    def told(self) -> dict[str, Any]:
        """As a version is listed."""
        created = datetime.fromtimestamp(self.created / 1000, UTC)
        told = {"version": self.version, "created": created, "source": self.source, "module": self.module}
        return {**told, "meta": self.meta or {}}


def unusable(id: str, why: str) -> DspexError:
    """The error for a program whose record nothing can be built of."""
    path = f"program {shortened(id)!r}"
    message = f"what the session's state holds of it cannot be used: {why}; make it again with replace: true"
    return InvalidParams(f"{path}: {message}", details={"errors": [{"path": path, "message": message}]})


_FIELDS = frozenset(Record.__dataclass_fields__)
# Absent from records that were written before there were any.
_OPTIONAL = frozenset({"tools", "parameters", "memory", "nearest", "version", "created", "source", "meta"})


def _problem(value: object) -> str | None:
    if not isinstance(value, Mapping) or not _FIELDS - _OPTIONAL <= value.keys() <= _FIELDS:
        return f"it is no map of {', '.join(sorted(_FIELDS))}"
    for name in ("module", "stamp", "source"):
        if not isinstance(value.get(name, "-"), str) or not 0 < len(value.get(name, "-")) <= 256:
            return f"{name} is no text of 1 to 256 characters"
    for name, most in (("version", 1 << 32), ("created", 1 << 47)):
        if type(value.get(name, 1)) is not int or not 0 <= value.get(name, 1) < most:
            return f"{name} is no whole number from 0"
    if value["instructions"] is not None and not _is_text(value["instructions"]):
        return f"instructions are no text of at most {MAX_TEXT} characters"
    return meta_problem(value.get("meta")) or state_problem(value["state"])


def meta_problem(meta: object) -> str | None:
    """What is wrong with what is said of a version."""
    if meta is not None and (not isinstance(meta, Mapping) or len(str(meta)) > MAX_META):
        return f"meta is no map of at most {MAX_META} characters"
    return None


def state_problem(state: object) -> str | None:
    """What is wrong with demos and instructions by predictor."""
    if state is None:
        return None
    if not isinstance(state, Mapping):
        return "state is no map"
    return next(filter(None, (_predictor_problem(f"state.{name}", of) for name, of in state.items())), None)


def _predictor_problem(path: str, state: object) -> str | None:
    if not isinstance(state, Mapping) or not state.keys() <= {"demos", "instructions"}:
        return f"{path} is no map of demos and instructions"
    if "instructions" in state and not _is_text(state["instructions"]):
        return f"{path}.instructions are no text of at most {MAX_TEXT} characters"
    demos = state.get("demos", [])
    if not isinstance(demos, list) or len(demos) > MAX_DEMOS or not all(isinstance(demo, Mapping) for demo in demos):
        return f"{path}.demos are no list of at most {MAX_DEMOS} maps"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT
