"""DSPy's BestOfN and Refine, such that what went wrong in all attempts is told: DSPy prints it and goes on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import dspy
from dspex.errors import ProgramError
from dspy.utils.callback import BaseCallback


class _Failures(BaseCallback):
    """Notes what the attempts of one call ended with."""

    last: Exception | None = None

    def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:  # noqa: ARG002
        self.last = exception or self.last


_failures: ContextVar[_Failures] = ContextVar("dspex_failures")


def noting(reward: Callable[..., Any]) -> Callable[..., Any]:
    """The reward, with its failures noted."""

    @functools.wraps(reward)
    def noted(*arguments: Any) -> float:
        try:
            return float(reward(*arguments))
        except Exception as error:
            _failures.get().last = error
            raise

    try:
        inspect.getsource(reward)
    except (OSError, TypeError):
        del noted.__wrapped__  # Refine, which shows the source, is content with this one's
    return noted


def _told(run: Callable[[], Any]) -> Any:
    failures = _Failures()
    _failures.set(failures)
    # DSPy adds the best attempt's trace to the call's, which there is none of else.
    with dspy.context(trace=[], callbacks=[*dspy.settings.callbacks, failures]):
        returned = run()
    if returned is not None:
        return returned
    raise failures.last or ProgramError("no attempt had a reward that is a number", details={"type": "ValueError"})


class BestOfN(dspy.BestOfN):
    """Raises what the last attempt raised where all did."""

    def forward(self, **inputs: Any) -> Any:
        return _told(functools.partial(super().forward, **inputs))


class Refine(dspy.Refine):
    """Likewise."""

    def forward(self, **inputs: Any) -> Any:
        return _told(functools.partial(super().forward, **inputs))
