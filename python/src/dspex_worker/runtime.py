"""Runs calls: inline, as tasks, on threads, and as streams of both; cancels them; checks them in.

This knows neither sockets nor sessions' whereabouts: front ends (``pool_worker``, ``standalone``) start calls, and take
what became of them through their ``Port``. All methods are for the loop's thread, unless said otherwise.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from dspex.errors import DspexError, ProgramError

from dspex_worker import session as sessions
from dspex_worker.app import App
from dspex_worker.batch import Batch
from dspex_worker.calls import ENDED, QUEUED, Call, CallCancelled, current, failure
from dspex_worker.checkin import Tracking, check_in
from dspex_worker.interrupts import interrupt, take_back
from dspex_worker.objects import PREFIX, load_all
from dspex_worker.session import Changes, Copy, Session
from dspex_worker.streams import Stream
from dspex_worker.threads import Inbox, Threads

log = logging.getLogger("dspex_worker")

Outcome = tuple[bytes | None, DspexError | None, Changes | None]

_SLICE = 200e-6  # seconds that an async generator may produce without letting others run


class Runtime:
    """Executes an application's calls on a running loop and on threads.

    ``grace`` is how long, in seconds, what a call left behind may take to end; ``tracebacks`` says whether errors of
    the application carry theirs.
    """

    def __init__(self, app: App, batch: Batch, *, grace: float, tracebacks: bool) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()
        self.grace = grace
        self._tracebacks = tracebacks
        self._batch = batch
        self._inbox = Inbox(self._loop, batch)
        self._threads = Threads()
        self._guard = threading.Lock()  # what a thread and a cancel both touch: state, thread and stream of a call
        self._base = contextvars.copy_context()  # what every call's context begins as
        self._own_tasks: set[asyncio.Task[Any]] = set()
        self._launch: dict[str, Callable[[Call], None]] = {
            "inline": self._run_inline,
            "task": lambda call: self._begin(call, self._run_task(call)),
            "task_stream": lambda call: self._begin(call, self._run_task_stream(call)),
            "thread": lambda call: self._to_thread(call, self._plain),
            "thread_stream": lambda call: self._to_thread(call, self._streaming),
        }
        Tracking(app, self._loop)
        app.spawn = self.spawn

    def start(self, call: Call) -> None:
        """Begin a call, in the order of the calls of this method."""
        if call.session is not None:
            if self._app.session_objects:
                sessions.register(call.session, self._app.session_objects)
            if (call.first and self._app.session_start_hooks) or sessions.copy_of(call.session).loading is not None:
                self._begin(call, self._prepare_session(call))
                return
        if call.spec.way == "inline":
            self._run_inline(call)
        else:
            self._launch[call.spec.way](call)

    def stream(self, credit: int) -> Stream:
        """Return the credit of a new streaming call."""
        return Stream(credit, self._guard)

    def cancel(self, call: Call, error: DspexError) -> None:
        """Stop a call: it is settled with ``error``, and details that say what ended it, once it has stopped.

        One that has not begun is settled at once. A method cannot be stopped while it runs C code.
        """
        with self._guard:
            if call.cancelled_with is not None or call.state == ENDED:
                return
            call.cancelled_with = error
            queued = call.state == QUEUED
            if not queued and call.thread is not None:
                interrupt(call.thread)
        if call._event is not None:
            call._event.set()
        if call.stream is not None:
            call.stream.resume()
        for asked in list(call.asks or ()):
            asked.cancel()
        if call.task is not None:
            call.task.cancel()
        if queued:
            self._settle(call, None, None, None)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task that belongs to no call, until it ends or the runtime is closed."""
        task = asyncio.Task(coroutine, loop=self._loop, context=self._base.copy())
        self._own_tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    async def start_worker(self) -> None:
        """Run the hooks on the worker's start."""
        for hook in self._app.worker_start_hooks:
            await self._run_worker_hook(hook)

    async def stop_worker(self, seconds: float) -> None:
        """Run the hooks on the worker's stop, for this long at most, and end what belongs to no call."""
        try:
            async with asyncio.timeout(seconds):
                for hook in reversed(self._app.worker_stop_hooks):
                    await self._run_worker_hook(hook)
        except Exception:
            log.exception("a hook on the worker's stop failed")
        for task in self._own_tasks:
            task.cancel()
        if self._own_tasks:
            await asyncio.wait(self._own_tasks, timeout=self.grace)
        self._app.spawn = None
        self._threads.close()
        self._inbox.close()

    async def _run_worker_hook(self, hook: Callable[[], Any]) -> None:
        """Run a hook on the loop's thread, in the context that calls inherit."""
        result = self._base.run(hook)
        if asyncio.iscoroutine(result):
            await asyncio.Task(result, loop=self._loop, context=self._base)

    async def run_end_hooks(self, session: Session) -> None:
        """Run the hooks on a session's end."""
        sessions.register(session, self._app.session_objects)
        for hook in self._app.session_end_hooks:
            try:
                if asyncio.iscoroutinefunction(hook):
                    await hook(session)
                else:
                    await self._in_thread(functools.partial(hook, session))
            except Exception:
                log.exception("a hook on the end of %r failed", session)

    # Inline methods.

    def _run_inline(self, call: Call) -> None:
        call.begin("task")
        answer = error = changes = None
        try:
            answer, changes = self._base.copy().run(_inline, call)
        except BaseException as caught:  # noqa: BLE001 - whatever a method raises is its call's answer
            error = failure(caught, self._tracebacks)
        if call.session is None and call.tasks is None and call.generators is None:
            call.state = ENDED  # nothing can have cancelled it
            call.port.settle(call, answer, error, None)
        else:
            self._conclude(call, answer, error, changes)

    # Tasks.

    def _begin(self, call: Call, body: Coroutine[Any, Any, None]) -> None:
        context = self._base.copy()
        context.run(current.set, call)
        call.task = asyncio.Task(body, loop=self._loop, context=context)
        self._batch.expect()

    async def _run_task(self, call: Call) -> None:
        call.begin("task")
        answer = error = changes = None
        try:
            answer, changes = _finish(call, await call.spec.function(**call.arguments))
        except BaseException as caught:  # noqa: BLE001 - whatever a method raises is its call's answer
            error = failure(caught, self._tracebacks)
        self._conclude(call, answer, error, changes)

    async def _run_task_stream(self, call: Call) -> None:
        call.begin("task")
        answer = error = changes = None
        try:
            generator = call.spec.function(**call.arguments)
            try:
                await self._pump(call, generator)
            finally:
                await generator.aclose()
            answer, changes = _finish(call, call.result)
        except BaseException as caught:  # noqa: BLE001 - whatever a method raises is its call's answer
            error = failure(caught, self._tracebacks)
        self._conclude(call, answer, error, changes)

    async def _pump(self, call: Call, generator: AsyncGenerator[Any, None]) -> None:
        port, stream = call.port, call.stream
        assert stream is not None
        since = time.monotonic()
        first = True
        while True:
            await stream.turn(port)
            try:
                item = await generator.__anext__()
            except StopAsyncIteration:
                return
            port.item(call, port.encode_item(call, item))
            if first:
                port.flush()  # its reader has nothing yet: it does not wait for others to be sent with it
                first = False
            if time.monotonic() - since > _SLICE:
                await asyncio.sleep(0)
                since = time.monotonic()

    def load_objects(self, copy: Copy) -> asyncio.Future[None] | None:
        """Make a restored session's objects on a thread; its calls wait for that. None: there are none."""
        if not any(PREFIX + name in copy.entries for name in self._app.session_objects):
            return None
        work = functools.partial(load_all, copy, self._app.session_objects)
        loading = copy.loading = self.spawn(self._in_thread(work))
        loading.add_done_callback(lambda _: setattr(copy, "loading", None))
        return loading

    async def _prepare_session(self, call: Call) -> None:
        """Wait for a session's objects, or run the hooks on its start, then the call itself."""
        call.begin("task")
        assert call.session is not None
        try:
            if (loading := sessions.copy_of(call.session).loading) is not None:
                await _to_its_end(loading)  # a cancel cannot stop it: the call is over when that is
                if call.cancelled_with is not None:
                    raise asyncio.CancelledError
            for hook in self._app.session_start_hooks if call.first else ():
                if asyncio.iscoroutinefunction(hook):
                    await hook(call.session)
                else:
                    await self._run_hook_in_thread(call, hook)
            if call.first and call.spec.read_only and not call.writes:
                sessions.freeze(call.session)
        except BaseException as caught:  # noqa: BLE001 - whatever a method raises is its call's answer
            self._conclude(call, None, failure(caught, self._tracebacks), None)
            return
        call.task = None
        call.state = QUEUED
        call.ended_by = "queue"
        self._launch[call.spec.way](call)

    async def _run_hook_in_thread(self, call: Call, hook: Callable[..., Any]) -> None:
        ended: asyncio.Future[Outcome] = self._loop.create_future()
        context = contextvars.copy_context()

        def job() -> None:
            outcome = self._interruptible(call, lambda: context.run(hook, call.session))
            self._inbox.post(ended.set_result, outcome)

        self._threads.submit(job)
        await _to_its_end(ended)  # a cancel interrupts the thread, which is waited for all the same
        _, error, _ = ended.result()
        if call.cancelled_with is not None:
            raise asyncio.CancelledError
        if error is not None:
            raise error

    async def _in_thread(self, function: Callable[[], Any]) -> None:
        ended: asyncio.Future[BaseException | None] = self._loop.create_future()
        context = contextvars.copy_context()

        def job() -> None:
            error = None
            try:
                context.run(function)
            except BaseException as caught:  # noqa: BLE001 - whatever a method raises is its call's answer
                error = caught
            self._inbox.post(ended.set_result, error)

        self._threads.submit(job)
        if (error := await ended) is not None:
            raise error

    def _to_thread(self, call: Call, body: Callable[[Call], Outcome]) -> None:
        try:
            self._threads.submit(functools.partial(self._run_thread, call, body))
        except RuntimeError as error:  # there is no thread to be had
            self._conclude(call, None, failure(error, self._tracebacks), None)

    # Threads. What follows runs on them.

    def _run_thread(self, call: Call, body: Callable[[Call], Outcome]) -> None:
        with self._guard:
            if call.cancelled_with is not None:
                return  # it was settled while it waited for a thread
            call.begin("thread")
        outcome = self._interruptible(call, functools.partial(self._base.copy().run, body, call))
        self._inbox.post(self._conclude, call, *outcome)

    def _interruptible(self, call: Call, body: Callable[[], Any]) -> Outcome:
        """Run ``body``, in which, and nowhere else, a cancel may raise CallCancelled."""
        outcome: Outcome = (None, ProgramError("the method raised CallCancelled, but was not cancelled"), None)
        try:
            with self._guard:
                if call.cancelled_with is not None:
                    return outcome
                call.thread = threading.get_ident()
            try:
                outcome = body() or (None, None, None)
            except CallCancelled:
                pass
            except BaseException as caught:  # noqa: BLE001 - whatever a method raises is its call's answer
                outcome = (None, failure(caught, self._tracebacks), None)
            self._leave(call)
        except CallCancelled:  # it was raised, or arrived, when the body had ended
            self._leave(call)
        return outcome

    def _leave(self, call: Call) -> None:
        with self._guard:
            call.thread = None
            if call.cancelled_with is not None:
                take_back()

    def _plain(self, call: Call) -> Outcome:
        current.set(call)
        answer, changes = _finish(call, call.spec.function(**call.arguments))
        return answer, None, changes

    def _streaming(self, call: Call) -> Outcome:
        current.set(call)
        stream = call.stream
        assert stream is not None
        generator = call.spec.function(**call.arguments)
        result = None
        try:
            while True:
                if not stream.thread_turn(call):
                    raise CallCancelled
                try:
                    item = call.port.encode_item(call, next(generator))
                except StopIteration as stop:
                    result = stop.value
                    break
                stream.thread_made(len(item))
                self._inbox.post(self._forward, call, item)
        finally:
            generator.close()
        answer, changes = _finish(call, result)
        return answer, None, changes

    # On the loop's thread again.

    def _forward(self, call: Call, item: bytes) -> None:
        assert call.stream is not None
        call.stream.taken(len(item))
        if call.cancelled_with is None:
            call.port.item(call, item)

    def _conclude(self, call: Call, answer: bytes | None, error: DspexError | None, changes: Changes | None) -> None:
        """Check a call in that has stopped, and settle it."""
        if call.session is not None:
            sessions.close(call.session)
        if call.task is not None:
            call.task = None
        if call.tasks or call.generators:
            self.spawn(self._check_in(call, answer, error, changes))
        else:
            self._settle(call, answer, error, changes)

    async def _check_in(
        self, call: Call, answer: bytes | None, error: DspexError | None, changes: Changes | None
    ) -> None:
        try:
            error = await check_in(call, self.grace) or error
        finally:
            self._settle(call, answer, error, changes)

    def _settle(self, call: Call, answer: bytes | None, error: DspexError | None, changes: Changes | None) -> None:
        call.state = ENDED
        if call.cancelled_with is not None:
            error = call.cancelled_with
            error.details["ended_by"] = call.ended_by
        if error is not None:
            answer = changes = None
        call.port.settle(call, answer, error, changes)

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._own_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", exc_info=error)


def _inline(call: Call) -> tuple[bytes, Changes | None]:
    current.set(call)
    return _finish(call, call.spec.function(**call.arguments))


def _finish(call: Call, result: Any) -> tuple[bytes, Changes | None]:
    """Pack what a method returned, and what it changed in its session. Raises NotSerializable."""
    answer = call.port.encode(call, result)
    return answer, None if call.session is None else sessions.changes(call.session)


async def _to_its_end(future: asyncio.Future[Any]) -> None:
    """Wait for a future, whatever is cancelled meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
