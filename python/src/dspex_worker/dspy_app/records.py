"""What a session's state keeps of a program that a client made, and how it is read again.

A state may have come from a file (``session.import``), so what it holds is trusted no more than a client's parameters:
it is checked here each time a program is built of it, on any worker. The signature is checked where it is parsed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspex.errors import DspexError, InvalidParams

from dspex_worker.dspy_app.errors import shortened
from dspex_worker.dspy_app.signatures import MAX_TEXT

MAX_DEMOS = 1000  # of one predictor


@dataclass(frozen=True)
class Record:
    """The module is built from it on any worker."""

    signature: Any  # as the client gave it
    module: str
    instructions: str | None
    state: dict[str, Any] | None  # demos and instructions by predictor, as ``modules.load_state`` takes it
    stamp: str  # another one after each change, so that a module built earlier is not taken for this one
    # These are as the client gave them, and checked where the program is built.
    tools: Any = None  # of a react program
    parameters: Any = None  # of the module

    @classmethod
    def read(cls, id: str, value: object) -> Record:
        """The record that a state holds as ``value``. Raises DspexError ``invalid_params``."""
        if problem := _problem(value):
            raise unusable(id, problem)
        assert isinstance(value, Mapping)
        return cls(**value)

    def to_value(self) -> dict[str, Any]:
        """As it is kept in the session's state."""
        return {name: value for name, value in vars(self).items() if name not in _OPTIONAL or value is not None}


def new_stamp() -> str:
    """A stamp that no record has yet."""
    return secrets.token_hex(8)


def unusable(id: str, why: str) -> DspexError:
    """The error for a program whose record nothing can be built of."""
    path = f"program {shortened(id)!r}"
    message = f"what the session's state holds of it cannot be used: {why}; make it again with replace: true"
    return InvalidParams(f"{path}: {message}", details={"errors": [{"path": path, "message": message}]})


_FIELDS = frozenset(Record.__dataclass_fields__)
_OPTIONAL = frozenset({"tools", "parameters"})  # absent from records that were written before there were any


def _problem(value: object) -> str | None:
    if not isinstance(value, Mapping) or not _FIELDS - _OPTIONAL <= value.keys() <= _FIELDS:
        return f"it is no map of {', '.join(sorted(_FIELDS))}"
    for name in ("module", "stamp"):
        if not isinstance(value[name], str) or not 0 < len(value[name]) <= 256:
            return f"{name} is no text of 1 to 256 characters"
    if value["instructions"] is not None and not _is_text(value["instructions"]):
        return f"instructions are no text of at most {MAX_TEXT} characters"
    if value["state"] is None:
        return None
    if not isinstance(value["state"], Mapping):
        return "state is no map"
    return next(filter(None, (_state_problem(f"state.{name}", of) for name, of in value["state"].items())), None)


def _state_problem(path: str, state: object) -> str | None:
    """What is wrong with the state of one predictor."""
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
