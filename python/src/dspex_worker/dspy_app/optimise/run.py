"""One run: DSPy's work on a thread, in LM settings, limits and usage of its own, told of as a stream."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any

import anyio
import dspy
from dspex.errors import DspexError

from dspex_worker.calls import Call, CallCancelled
from dspex_worker.dspy_app.call_limits import CallLimits
from dspex_worker.dspy_app.counts import SESSION
from dspex_worker.dspy_app.execute import OWN, Executor
from dspex_worker.dspy_app.lm_errors import lm_error
from dspex_worker.dspy_app.modules import predictors
from dspex_worker.dspy_app.optimise.budget import Budget, Limits, RunUsage
from dspex_worker.dspy_app.optimise.progress import Item, Progress
from dspex_worker.dspy_app.optimise.states import state_of
from dspex_worker.dspy_app.programs import Program
from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.dspy_app.thread_calls import run_in_thread
from dspex_worker.dspy_app.tools import ToolLost
from dspex_worker.session import copy_of

Work = Callable[[dict[str, dict[str, Any]]], Any]


class Run:
    """``best`` is what it has come to, for the error that says that its limits ended it."""

    def __init__(self, executor: Executor, program: Program, call: Call, limits: Limits) -> None:
        self._executor = executor
        self._call = call
        self._limits: CallLimits | None = None
        self.budget = Budget(limits, call.deadline)
        label = program.id if program.scope == "application" else SESSION
        self.usage = RunUsage(executor.counts, label, program.id, call, self.budget)
        names = [name for name, _ in predictors(program.for_call())]
        self.progress = Progress(self.usage, self.budget, partial(state_of, of=names))
        self.best: Callable[[], dict[str, Any] | None] = lambda: None
        self.result: Any = None
        self.stopped = threading.Event()  # for what waits on threads
        self._failed: DspexError | None = None  # ended it, wherever that was found
        self._task: asyncio.Future[Any] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def call(self) -> Call:
        return self._call

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """For a thread of the run's: wait for what runs on the loop, until the run is stopped."""
        assert self._limits is not None
        return self._limits.request(work)

    def fail(self, error: DspexError) -> None:
        """End the run with this error. On any thread."""
        self._failed = self._failed or error
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def stream(
        self,
        what: str,
        work: Work,
        settings: LmSettings | DspexError,
        others: Mapping[str, LmSettings],
        **overrides: Any,
    ) -> AsyncGenerator[Item, None]:
        """Yield progress; ``result`` is then what ``work`` returned.

        ``work`` is given DSPy settings, LM and adapter, by the names of ``others``; it runs on a thread.

        Raises:
            DspexError: ``budget_exceeded``, ``lm_error``; whatever else ``work`` raises goes through.
        """
        self._task = task = asyncio.ensure_future(self._work(work, settings, others, overrides))
        task.add_done_callback(lambda _: self.progress.wake())
        self.budget.start(task.cancel)
        try:
            while not task.done():
                for item in await self.progress.next():
                    yield item
        finally:
            self.budget.close()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if isinstance(error, (asyncio.CancelledError, CallCancelled)):
            if self.budget.exceeded is not None:
                raise self.budget.error(what, self.usage, self.best()) from None
            if self._failed is not None:
                raise self._failed
        self.result = task.result()

    async def _work(
        self,
        work: Work,
        settings: LmSettings | DspexError,
        others: Mapping[str, LmSettings],
        overrides: dict[str, Any],
    ) -> Any:
        session = None if self._call.session is None else copy_of(self._call.session)
        limits = CallLimits(
            self.budget.ends,
            self.usage,
            permits=self._executor.permits,
            share=f"call {self._call.id}" if session is None else f"session {session.key}",
            session=None if session is None else session.key,
        )
        self._limits = limits

        def stop() -> None:
            self.stopped.set()
            limits.stop()

        async with AsyncExitStack() as stack:
            overrides = {**overrides, **await self._executor.lm_overrides(settings, limits, stack)}
            made = {name: await self._executor.lm_overrides(other, limits, stack) for name, other in others.items()}
            overrides["callbacks"] = [*dspy.settings.callbacks, self.progress]
            with dspy.context(**overrides, **OWN), _no_rows_in_the_log():
                try:
                    return await run_in_thread(anyio.CapacityLimiter(1), partial(work, made), stop)
                except ToolLost as lost:
                    raise lost.error from None
                except Exception as error:
                    known = settings if isinstance(settings, LmSettings) else None
                    translated = lm_error(error, known, self.usage.failed)
                    if translated is None:
                        raise
                    raise translated from error


@contextmanager
def _no_rows_in_the_log() -> Iterator[None]:
    """DSPy logs examples that failed, and prompts that it tries: data of the client's, which belongs into no log."""

    def says_no_row(record: logging.LogRecord) -> bool:
        return not record.name.startswith(("dspy.evaluate", "dspy.teleprompt", "dspy.utils.parallelizer"))

    handlers = logging.getLogger("dspy").handlers
    for handler in handlers:
        handler.addFilter(says_no_row)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(says_no_row)
