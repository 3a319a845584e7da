"""One program on many inputs: so many at once, each with a result of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final

from dspex.errors import DspexError

from dspex_worker.calls import failure
from dspex_worker.dspy_app.errors import Problem, invalid_param, invalid_params
from dspex_worker.dspy_app.media import Permissions
from dspex_worker.dspy_app.programs import Program

MAX_INPUTS: Final = 1000
MAX_AT_ONCE: Final = 32

Result = dict[str, Any]  # {index, outputs} or {index, error}
Run = Callable[[], Awaitable[dict[str, Any]]]


def check_batch(
    program: Program, inputs: Sequence[object], concurrency: int, permissions: Permissions
) -> list[dict[str, Any]]:
    """All inputs as the program takes them.

    Raises:
        DspexError: ``invalid_params``, with all that is wrong with any of them: none has been run.
    """
    if program.memory is not None:
        raise invalid_param("program", "keeps a conversation: its turns are calls of their own (execute_program)")
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise invalid_param("inputs", f"are {len(inputs)}, must be 1 to {MAX_INPUTS}")
    if not 1 <= concurrency <= MAX_AT_ONCE:
        raise invalid_param("concurrency", f"must be 1 to {MAX_AT_ONCE}")
    checked: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for index, one in enumerate(inputs):
        try:
            checked.append(program.checker.check(one, permissions, f"inputs[{index}]"))
        except DspexError as error:
            problems += [Problem(told["path"], told["message"]) for told in error.details["errors"]]
    if problems:
        raise invalid_params(problems)
    return checked


async def run_all(runs: Sequence[Run], concurrency: int, tracebacks: bool) -> AsyncGenerator[Result, None]:
    """Yield the result of each as it comes. Left early, or cancelled, it ends those that run and waits for that."""
    results: asyncio.Queue[Result | BaseException] = asyncio.Queue()
    waiting = iter(enumerate(runs))

    async def work() -> None:
        for index, run in waiting:
            try:
                results.put_nowait({"index": index, "outputs": await run()})
            except Exception as error:  # noqa: BLE001 - whatever a program raises is its result
                results.put_nowait({"index": index, "error": failure(error, tracebacks).to_wire()})
            except BaseException as error:
                results.put_nowait(error)
                raise

    workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(runs)))]
    try:
        for _ in runs:
            result = await results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
