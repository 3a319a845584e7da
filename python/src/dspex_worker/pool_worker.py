"""Pool-worker mode: the worker's side of the worker channel of docs/protocol.md, on the socket that it inherited."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from dspex import wire
from dspex.errors import Cancelled, DspexError, UnknownMethod

from dspex_worker import loading, stacks
from dspex_worker.app import App, Method
from dspex_worker.batch import Batch
from dspex_worker.calls import ENDED, Call
from dspex_worker.copies import Copies, change_frames
from dspex_worker.offered import OfferedBySidecar
from dspex_worker.peer import Peer
from dspex_worker.permits import SidecarPermits
from dspex_worker.runtime import Runtime
from dspex_worker.session import Changes, Copy, Session, attach, copy_of
from dspex_worker.worker import CHANNEL_BROKEN, LOAD_FAILED, Worker, versions

log = logging.getLogger("dspex_worker")

DESCRIPTOR = "DSPEX_WORKER_FD"

_TELL_METRICS = 0.1  # seconds after a change: what is counted meanwhile goes along
_TELL_USAGE = 1.0  # seconds between looks at what a call that has the process to itself has used


async def serve(load: Callable[[], App], sock: socket.socket, worker_id: str) -> int:
    """Serve the sidecar at the other end of ``sock`` until it ends the channel; return the exit code."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # says where each thread is, even with the GIL held
    stacks.answer_signal()
    worker = PoolWorker(load, sock, worker_id)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.channel.close)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C in a terminal is for the sidecar, which drains
    worker.channel.start()
    code = await worker.ended
    await worker.stop()
    return code


class PoolWorker(Peer):
    """A worker of a pool. ``ended`` has the exit code once the channel is closed."""

    def __init__(self, load: Callable[[], App], sock: socket.socket, worker_id: str) -> None:
        self._batch = Batch(asyncio.get_running_loop())
        super().__init__(sock, self._batch, scanned=True)
        self.ended: asyncio.Future[int] = self.loop.create_future()
        self._load = load
        self._worker_id = worker_id
        self._app: App | None = None
        self._methods: dict[str, Method] = {}
        self._copies = Copies()
        self._grace = 5.0  # seconds
        self._code = 0

    async def stop(self) -> None:
        """Cancel what runs, run the stop hooks, end what is left. Calls that do not stop are left behind."""
        if self._app is None:
            return
        for call in list(self.calls.values()):
            self.runtime.cancel(call, Cancelled("the sidecar ended the channel"))
        await self.all_settled(self._grace)
        await self.runtime.stop_worker(self._grace)

    def handle_request(self, id: int, name: str, meta: dict[str, Any], params: dict[str, Any]) -> None:
        if id in self.calls:
            self.protocol_error(id, f"request id {id} is in flight")
            return
        method = self._methods.get(name)
        try:
            if method is None:
                self._control(wire.Request(id, name, meta, params))
                return
            call = Call(id, method, params, self)
            if (timeout := meta.get("timeout_ms")) is not None:
                call.deadline = monotonic() + timeout / 1000
            if len(meta) > 1 or timeout is None:
                self._take_meta(call, meta)
            method.bind_call(call)
            if method.writes is not None:
                self._take_turn(call)
        except DspexError as error:
            self.fail(id, error)
            return
        self.calls[id] = call
        if method.process is not None:
            self.runtime.spawn(self._tell_usage(call))
        self.runtime.start(call)

    def handle_notification(self, notification: wire.Notification) -> None:
        if notification.method == "sidecar.settings" and self._app is not None:
            self._take_settings(notification.params)
            return
        if notification.method != "session.drop":
            self.ignored += 1
            return
        copies = self._copies.drop(notification.params.get("keys", []))
        if notification.params.get("ended") is True and self._app is not None and self._app.session_end_hooks:
            for copy in copies:
                self.runtime.spawn(self.runtime.run_end_hooks(Session(copy, read_only=True)))

    def handle_broken(self, message: str) -> None:
        log.error("the sidecar's frames cannot be read: %s", message)
        self._code = CHANNEL_BROKEN
        self.channel.close()

    def handle_end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(self._code)

    def settle(self, call: Call, answer: bytes | None, error: DspexError | None, changes: Changes | None) -> None:
        self.forget(call)
        if call.session is None and error is None and answer is not None:
            self.channel.write(answer)
            return
        copy = None if call.session is None else copy_of(call.session)
        frames: list[bytes] = []
        if changes is not None:
            try:
                frames = change_frames(call.id, changes, self.max_frame)
            except DspexError as too_long:
                error = too_long
        if error is not None or answer is None:
            if copy is not None and call.began:
                copy.local = {}  # what a failed call did to these objects is not known
            self.fail(call.id, error or DspexError("the call ended without an answer"), call.meta())
            return
        if copy is not None and changes is not None:
            copy.commit(changes, call.front)
        for frame in frames:
            self.channel.write(frame)
        self.channel.write(answer)

    async def unsafe(self, call: Call) -> None:
        await self.request("call.unsafe", None, {"call": call.id})

    def _take_meta(self, call: Call, meta: dict[str, Any]) -> None:
        """Take what few requests' meta holds. Raises DspexError where the call cannot run."""
        call.app = meta.get("app")
        if (key := meta.get("key")) is not None:
            copy = self._copies.find(key, meta["session"], meta["version"])
            call.front = meta.get("next")
            call.session = Session(copy, read_only=call.front is None)
            call.first = meta.get("start") is True
            attach(call.session, self._update_session)
        if (credit := meta.get("stream")) is not None:
            call.stream = self.runtime.stream(credit)

    def _take_turn(self, call: Call) -> None:
        """Find out whether the call of a read-only method writes. Raises DspexError where it may not."""
        assert call.spec.writes is not None
        if call.session is not None and call.spec.writes(call):
            if call.front is None:
                raise DspexError("this call writes to its session", code="turn_wanted")
            call.writes = True

    def _control(self, request: wire.Request) -> None:
        if request.method == "ping":
            self.respond(request.id, {})
        elif request.method == "sidecar.stacks":
            ids: list[int] = request.params.get("calls", [])
            self.respond(request.id, {"stacks": stacks.of_calls(map(self.calls.get, ids))})
        elif request.method == "session.restore":
            self._restore(request)
        elif request.method == "hello" and self._app is None:
            self._hello(request)
        else:
            raise UnknownMethod(f"there is no method {request.method!r}")

    def _restore(self, request: wire.Request) -> None:
        """Answer when the application's objects have been made: a worker that dies of them dies in the restore."""
        copy = self._copies.restore(request.params)
        made = None if copy is None else self.runtime.load_objects(copy)
        if made is None:
            self._restored(request.id)
        else:
            made.add_done_callback(lambda _: self._restored(request.id))

    def _restored(self, id: int) -> None:
        """Say so before the call that follows runs: what that does to this process is not the restore's doing."""
        self.respond(id, {})
        self.channel.flush()

    def _hello(self, request: wire.Request) -> None:
        """Load the application, here on the main thread, and have the rest of the start done beside pings."""
        hello = request.params
        if wire.PROTOCOL not in hello.get("protocols", ()):
            self.fail(request.id, DspexError("no protocol version in common", code="unsupported_protocol"))
            return
        # The sidecar's limit is this worker's own, too: what it lets in has to reach the method.
        self.max_frame = self.receives = hello.get("max_frame", wire.DEFAULT_FRAME)
        self._grace = hello.get("cancel_grace_ms", 5000) / 1000
        worker = Worker(
            id=hello.get("worker", self._worker_id),
            pool=hello.get("pool", "default"),
            generation=hello.get("generation", 1),
            concurrency=hello.get("concurrency", 64),
            models=hello.get("models") or {},
            dspy=hello.get("dspy") or {},
            shared=hello.get("shared") or {},
            tracebacks=hello.get("tracebacks", False),
            embedders=hello.get("embedders") or {},
            history=hello.get("history", 0),
            permits=SidecarPermits(self),
            datasets=OfferedBySidecar(self),
        )
        try:
            self._app = app = self._load()
            app.metrics.begin(self._metrics_changed)  # what was counted where this was forked from is not this worker's
            self.channel.before_end = self._tell_metrics
            app.init_worker(worker)
        except BaseException as error:  # noqa: BLE001 - importing an application may raise anything
            self._load_failed(request.id, error)
            return
        self.runtime = Runtime(app, self._batch, grace=self._grace, tracebacks=worker.tracebacks)
        self.runtime.spawn(self._get_ready(request.id, app))

    async def _get_ready(self, id: int, app: App) -> None:
        try:
            await self.runtime.start_worker()
        except BaseException as error:  # noqa: BLE001 - a hook may raise anything
            self._load_failed(id, error)
            return
        loading.settle_memory()
        self._methods = app.methods
        answer = {
            "protocol": wire.PROTOCOL,
            "features": [],
            "worker": versions(),
            "pid": os.getpid(),
            "max_frame": self.receives,
            "methods": [method.describe() for method in app.methods.values()],
        }
        self.respond(id, answer)

    def _metrics_changed(self) -> None:
        """For any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is to be told any more
            self.loop.call_soon_threadsafe(self.loop.call_later, _TELL_METRICS, self._tell_metrics)

    def _tell_metrics(self) -> None:
        if self._app is not None and not self.channel.closed and (counted := self._app.metrics.take()):
            self.channel.write(wire.encode_notification("sidecar.metrics", {"metrics": counted}))

    async def _tell_usage(self, call: Call) -> None:
        """Say what a call has used so far, so that limits count while it runs."""
        told: dict[str, Any] = {}
        while call.state != ENDED:
            await asyncio.sleep(_TELL_USAGE)
            if call.usage != told and call.state != ENDED:
                told = dict(call.usage)
                self.channel.write(wire.encode_notification("call.usage", {"call": call.id, "usage": told}))

    def _take_settings(self, params: dict[str, Any]) -> None:
        """Take what counts for calls that come after it; the frame comes ahead of those."""
        assert self._app is not None
        if (worker := self._app.worker) is not None:
            worker.shared = params.get("shared") or {}
            worker.embedders, worker.history = params.get("embedders") or {}, params.get("history", 0)
        self._app.use_models(params.get("models") or {})
        self._grace = self.runtime.grace = params.get("cancel_grace_ms", 5000) / 1000

    def _load_failed(self, id: int, error: BaseException) -> None:
        log.error("the application cannot be loaded", exc_info=error)
        self._app = None
        self._code = LOAD_FAILED
        self.fail(id, loading.load_failure(error))
        self.channel.end()

    async def _update_session(self, copy: Copy, set: dict[str, Any], delete: list[str]) -> None:
        await self.request("session.update", None, {"key": copy.key, "set": set, "delete": delete})
