"""Running a program for one call: in a context of its own, of which nothing is left afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import dspy
from dspex.errors import DspexError, ProgramError

from dspex_worker.dspy_app.call_limits import CallLimits
from dspex_worker.dspy_app.code_runs import CodeRuns, Interpreter
from dspex_worker.dspy_app.counts import SESSION, LmCounts
from dspex_worker.dspy_app.history import History
from dspex_worker.dspy_app.lm_errors import lm_error
from dspex_worker.dspy_app.models import LmCache, make_adapter
from dspex_worker.dspy_app.plain import plain
from dspex_worker.dspy_app.programs import Program
from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.dspy_app.stream import Sink
from dspex_worker.dspy_app.thread_calls import run_in_thread
from dspex_worker.dspy_app.tools import ToolLost
from dspex_worker.dspy_app.trace import Trace
from dspex_worker.dspy_app.usage import CallUsage
from dspex_worker.permits import Permits
from dspex_worker.session import copy_of

if TYPE_CHECKING:
    from dspex_worker.calls import Call


class MissingLM(dspy.BaseLM):
    """Stands in where no LM is configured: a program that asks it fails with the reason, one that does not may run."""

    def __init__(self, reason: DspexError) -> None:
        super().__init__(model="none", cache=False)
        self._reason = reason

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise self._reason

    async def acall(self, *_args: Any, **_kwargs: Any) -> Any:
        raise self._reason


class Executor:
    """Runs programs; owns the LMs and the limit on threads."""

    def __init__(self, concurrency: int, counts: LmCounts, permits: Permits | None = None) -> None:
        self.counts = counts
        self.permits = permits
        self.history = 0  # bytes of a session's
        self.code: CodeRuns | None = None  # where code that an LM wrote may be run
        self.lms = LmCache()
        self._threads = anyio.CapacityLimiter(concurrency)

    async def run(
        self,
        program: Program,
        inputs: dict[str, Any],
        settings: LmSettings | DspexError,
        call: Call,
        sink: Sink | None = None,
        trace: Trace | None = None,
    ) -> dict[str, Any]:
        """Run a program on checked inputs and return its outputs; add what its LM requests took to ``call.usage``.

        ``settings`` may be the error that says why there are none. With a ``sink`` the LM's answers are streamed to it;
        ``trace`` is told what happens.

        Raises:
            DspexError: ``lm_error`` for what the LM or its provider did; whatever the program raises goes through.
        """
        if not program.safe:
            await call.unsafe()
        known = settings if isinstance(settings, LmSettings) else None
        limits = self._limits(program, call)
        module = program.for_call()
        async with AsyncExitStack() as stack:
            overrides = await self.lm_overrides(settings, limits, stack)
            if sink is not None:
                sink.watch(module, known.adapter if known else "chat")
            if trace is not None:
                trace.watch(module)
            if watching := [one for one in (sink, trace) if one is not None]:
                overrides["callbacks"] = [*dspy.settings.callbacks, *watching]
            with dspy.context(**overrides, **OWN, send_stream=sink), dspy.track_usage() as tracker:
                try:
                    if program.is_async:
                        returned = await module.acall(**inputs)
                    else:
                        returned = await run_in_thread(self._threads, partial(module, **inputs), limits.stop)
                except ToolLost as lost:
                    raise lost.error from None
                except Exception as error:
                    translated = lm_error(error, known, limits.usage.failed)
                    if translated is None:
                        raise
                    raise translated from error
                finally:
                    limits.usage.add_to(call.usage, tracker)
        return _outputs(program, returned)

    def _limits(self, program: Program, call: Call) -> CallLimits:
        usage = CallUsage(self.counts, program.id if program.scope == "application" else SESSION, program.id)
        copy = None if call.session is None else copy_of(call.session)
        if copy is not None and self.history:
            if copy.history is None:
                copy.history = History(self.history)
            copy.history.most = self.history
        return CallLimits(
            call.deadline,
            usage,
            permits=self.permits,
            share=f"call {call.id}" if copy is None else f"session {copy.key}",
            session=None if copy is None else copy.key,
            history=None if copy is None or not self.history else copy.history,
        )

    async def lm_overrides(
        self, settings: LmSettings | DspexError, limits: CallLimits, stack: AsyncExitStack
    ) -> dict[str, Any]:
        """DSPy's settings of LM, adapter and interpreter, for as long as ``stack`` is open."""
        held = {} if self.code is None else {"interpreter_factory": partial(Interpreter, self.code, limits)}
        if isinstance(settings, LmSettings):
            lm, *others = [await stack.enter_async_context(self.lms.use(s)) for s in (settings, *settings.fallbacks)]
            extraction = None
            if settings.extraction is not None:
                extraction = (await stack.enter_async_context(self.lms.use(settings.extraction))).for_call(limits)
            lm = lm.for_call(limits, tuple(others))
            return {**held, "lm": lm, "adapter": make_adapter(settings, extraction)}
        # An LM that the application configured for itself takes the place of one that was never chosen.
        if dspy.settings.lm is None or settings.code == "lm_error":
            return {**held, "lm": MissingLM(settings)}
        return held


# Without these DSPy keeps each call's inputs and answers in lists of the whole process.
OWN: Final[dict[str, Any]] = {
    "trace": None,
    "disable_history": True,
    "caller_modules": None,
    "caller_predict": None,
    "stream_listeners": [],
}


def _outputs(program: Program, returned: Any) -> dict[str, Any]:
    if isinstance(returned, (dspy.Prediction, dspy.Example)):
        returned = dict(returned.items(include_dspy=True))
    if not isinstance(returned, Mapping):
        raise ProgramError(
            f"program {program.id!r} returned {type(returned).__name__}; it must return a dspy.Prediction or a map",
            details={"type": "TypeError"},
        )
    return {str(name): plain(value) for name, value in returned.items()}
