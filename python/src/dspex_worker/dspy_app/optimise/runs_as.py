"""A module that runs another way, and is in all else what it was: to optimisers, to copies, to ``isinstance``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from copy import copy
from typing import Any

import dspy

from dspex_worker.dspy_app.programs import Program

Forward = Callable[..., Any]  # of the module, and its inputs by name
Wait = Callable[[Coroutine[Any, Any, Any]], Any]  # for a thread that waits for what runs on the loop


def running(program: Program, forward: Forward) -> Program:
    """The program, whose module runs by ``forward``; copies of the module do, too."""
    module = program.for_call()
    kind: Any = type(module)
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}  # by which DSPy finds its source
    object.__setattr__(module, "__class__", type(kind)(kind.__name__, (kind,), {**named, "forward": forward}))
    changed = copy(program)
    changed._module = module
    return changed


def only_async(program: Program) -> bool:
    """Whether its module has no ``forward``, as optimisers run it, or one that cannot use the client's tools."""
    return not hasattr(type(program.for_call()), "forward") or bool(program.record and program.record.tools)


def waiting(program: Program, wait: Wait) -> Program:
    """The program such that a thread can run it, though only its module's ``aforward`` can do."""

    def forward(module: dspy.Module, **inputs: Any) -> Any:
        return wait(module.aforward(**inputs))

    return running(program, forward) if only_async(program) else program
