"""What an optimiser makes of a program: demos and instructions by predictor."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import dspy

from dspex_worker.dspy_app.modules import predictors
from dspex_worker.dspy_app.plain import plain

State = dict[str, dict[str, Any]]


def state_of(module: dspy.Module, of: Collection[str] | None = None) -> State:
    """As ``modules.load_state`` takes it, and a version's record keeps it; ``of`` are the predictors that count.

    Optimisers leave other candidates on the module that they return, whose predictors are found, too.
    """
    state: State = {}
    for name, predictor in predictors(module):
        if of is not None and name not in of:
            continue
        known = {*predictor.signature.fields, "augmented"}
        demos = [{key: plain(value) for key, value in demo.items() if key in known} for demo in predictor.demos]
        state[name] = {"demos": demos, "instructions": predictor.signature.instructions}
    return state


def as_saved(state: State) -> dict[str, Any]:
    """As DSPy's ``module.save`` writes it: ``import_program`` takes it, and the ``state`` of a configured program."""
    return {
        name: {"demos": of["demos"], "signature": {"instructions": of["instructions"]}} for name, of in state.items()
    }


def differences(before: State, after: State) -> list[dict[str, Any]]:
    """Instructions and demos side by side, by predictor; demos that both have are told once."""
    found = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, {}), after.get(name, {})
        was, now = old.get("demos", []), new.get("demos", [])
        found.append(
            {
                "predictor": name,
                "instructions": {"from": old.get("instructions"), "to": new.get("instructions")},
                "demos": {
                    "same": [demo for demo in now if demo in was],
                    "removed": [demo for demo in was if demo not in now],
                    "added": [demo for demo in now if demo not in was],
                },
            }
        )
    return found
