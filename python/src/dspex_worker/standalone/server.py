"""Stand-alone mode: one process that listens on a Unix socket itself and runs the calls itself."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from dspex import wire
from dspex.errors import Cancelled, PermissionDenied, QueueFull, SessionNotFound

from dspex_worker import loading
from dspex_worker.app import App
from dspex_worker.batch import Batch
from dspex_worker.offered import OfferedHere
from dspex_worker.runtime import Runtime
from dspex_worker.session import Changes, Copy, Session
from dspex_worker.standalone import listener
from dspex_worker.standalone.client import Client
from dspex_worker.standalone.dispatch import Dispatcher
from dspex_worker.standalone.methods import OwnMethods, turn_methods
from dspex_worker.standalone.permits import LocalPermits
from dspex_worker.standalone.settings import Settings
from dspex_worker.standalone.table import Record, Table, check_keys, not_found
from dspex_worker.worker import LOAD_FAILED, SOCKET_FAILED, Worker, version_of

log = logging.getLogger("dspex_worker")

_TICK = 0.5  # seconds between looks at what waits for too long
_ACCEPTED_AT_ONCE = 64
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


async def serve(load: Callable[[], App], settings: Settings, worker_id: str) -> int:
    """Listen, serve until SIGTERM or SIGINT, drain; return the exit code."""
    limited = settings.models | {f"embedder:{name}": given for name, given in settings.embedders.items()}
    worker = Worker(
        id=worker_id,
        concurrency=settings.concurrency,
        models=settings.models,
        tracebacks=settings.tracebacks,
        dspy=settings.dspy,
        embedders=settings.embedders,
        history=settings.history,
        permits=LocalPermits(limited),
        datasets=OfferedHere(),
    )
    try:
        app = load()
        app.init_worker(worker)
        server = Server(app, settings, worker)
        await server.runtime.start_worker()
    except Exception as error:
        log.exception("%s", loading.load_failure(error).message)
        return LOAD_FAILED
    loading.settle_memory()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    if settings.end_with_stdin:
        loop.add_reader(0, _end_with_stdin, loop, server)
    try:
        server.listen()
    except listener.ListenError as error:
        log.error("%s", error)
        return SOCKET_FAILED
    await server.run()
    return 0


def _end_with_stdin(loop: asyncio.AbstractEventLoop, server: Server) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        server.end()


class Server:
    """All of stand-alone mode. Made on a running loop."""

    def __init__(self, app: App, settings: Settings, worker: Worker) -> None:
        self.app = app
        self.settings = settings
        self.worker = worker
        self.version = version_of("dspex-worker") or "0"
        self.since = monotonic()
        self.commands = 0
        self.errors = 0
        self.clients: set[Client] = set()
        own = {0, os.getuid()}
        self.admin_uids = settings.admin_uids or frozenset(own)
        self.allow_uids = (settings.allow_uids or frozenset(own)) | self.admin_uids
        self.table = Table(ttl=settings.ttl, max_age=settings.max_age, limit=settings.max, max_state=settings.max_state)
        self.batch = Batch(asyncio.get_running_loop())
        self.runtime = Runtime(
            app,
            self.batch,
            grace=settings.cancel_grace,
            tracebacks=settings.tracebacks,
        )
        self.dispatcher = Dispatcher(
            self.runtime,
            slots=settings.concurrency,
            queue_limit=settings.queue_limit,
            checkout_timeout=settings.checkout_timeout,
        )
        self.own = OwnMethods(self)
        self.methods = {**app.methods, **turn_methods()}
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._made: tuple[int, int] | None = None
        self._numbers = itertools.count(1)
        self._ending = asyncio.Event()
        self._now = asyncio.Event()  # end without waiting any longer
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def draining(self) -> bool:
        return self._ending.is_set()

    @property
    def state(self) -> str:
        return "draining" if self.draining else "ready"

    @property
    def queued(self) -> int:
        """How many calls wait for a turn or a slot."""
        return len(self.dispatcher.calls) - self.dispatcher.running

    def listen(self) -> None:
        """Open the socket. Raises ListenError."""
        path = self.settings.socket
        self._socket = listener.listen(path, self.settings.mode)
        self._made = listener.identity(path)
        self._loop.add_reader(self._socket.fileno(), self._accept)
        self._tick()
        log.info("serving %d methods on %s", len(self.app.methods), path)

    def end(self) -> None:
        """Begin to drain; called again, do not wait for what still runs."""
        if self._ending.is_set():
            self._now.set()
        self._ending.set()

    async def run(self) -> None:
        """Serve until ``end``, then drain and close everything."""
        await self._ending.wait()
        seconds = self.settings.shutdown_timeout
        log.info("draining: %d calls are in flight", len(self.dispatcher.calls))
        self._close_socket()
        goaway = wire.encode_notification("goaway", {"reason": "shutdown", "drain_ms": int(seconds * 1000)})
        for client in list(self.clients):
            if client.greeted:
                client.channel.write(goaway)
        await self._until_idle(seconds)
        for call in self.dispatcher.calls:
            self.dispatcher.stop(call, Cancelled("the server ended before the call did"))
        await self._until_idle(0 if self._now.is_set() else self.settings.cancel_grace)
        await self.runtime.stop_worker(self.settings.cancel_grace)
        for client in list(self.clients):
            client.channel.end()
        await asyncio.sleep(0)
        for client in list(self.clients):
            client.channel.close()
        if self._ticker is not None:
            self._ticker.cancel()

    def end_session(self, record: Record) -> None:
        """End a session at once: its calls are settled, and nothing more commits."""
        self.table.remove(record)
        for call in record.turns.calls:
            self.dispatcher.stop(call, SessionNotFound(f"the session {record.key[1]!r} was ended"))
        if self.app.session_end_hooks and record.started:
            self.runtime.spawn(self.runtime.run_end_hooks(Session(record.copy, read_only=True)))

    def share(self, admin: bool, value: Any, program: str = "", dataset: str = "") -> None:
        """Put a program or a dataset in force for all, until this process ends. Raises PermissionDenied."""
        if not admin:
            raise PermissionDenied("only administrators change what is there for all (listen.admin_uids)")
        if dataset:
            assert isinstance(self.worker.datasets, OfferedHere)
            _put(self.worker.datasets.values, dataset, value)
            return
        shared = dict(self.worker.shared)
        _put(shared, program, value)
        self.worker.shared = shared
        self.app.use_models(self.worker.models)

    async def update_session(self, copy: Copy, set: dict[str, Any], delete: list[str]) -> None:
        """Change a session from a background task, in a turn of its own."""
        check_keys([*set, *delete])
        packed = {key: wire.pack_value(value, f"set[{key!r}]") for key, value in set.items()}
        record = next((record for record in self.table if record.copy is copy), None)
        if record is None:
            raise not_found(copy.id)
        turn = object()
        come = asyncio.Event()
        record.turns.enter(turn, lambda _: True, lambda _: come.set())
        try:
            await come.wait()
            if record.ended:
                raise not_found(copy.id)
            gone = [key for key in delete if key in copy.entries]
            record.commit(Changes(packed, gone, {}), self.settings.max_state)
        finally:
            record.turns.leave(turn)

    def left(self, client: Client) -> None:
        """Forget a connection that has ended."""
        self.clients.discard(client)

    def _accept(self) -> None:
        assert self._socket is not None
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                log.error("no connection can be accepted: %s", error)
                self._loop.remove_reader(self._socket.fileno())  # it stays readable: look again later
                self._loop.call_later(_TICK, self._accept_again)
                return
            self._welcome(sock)

    def _accept_again(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    def _welcome(self, sock: socket.socket) -> None:
        pid, uid = listener.credentials(sock)
        refusal: PermissionDenied | QueueFull | None = None
        if uid not in self.allow_uids:
            refusal = PermissionDenied(f"uid {uid} may not connect (listen.allow_uids)")
        elif len(self.clients) >= self.settings.max_connections and uid not in self.admin_uids:
            refusal = QueueFull("there are too many connections", details={"retry_after_ms": 1000})
        client = Client(self, sock, f"c{next(self._numbers)}", pid, uid, refusal)
        self.clients.add(client)
        client.channel.start()

    def _tick(self) -> None:
        now = monotonic()
        for client in list(self.clients):
            client.tick(now)
        for record in self.table.due():
            self.end_session(record)
        self._ticker = self._loop.call_later(_TICK, self._tick)

    async def _until_idle(self, seconds: float) -> None:
        """Wait until no call is in flight, for so long at most, or until there is no more waiting."""
        now = asyncio.ensure_future(self._now.wait())
        idle = asyncio.ensure_future(self.dispatcher.idle())
        await asyncio.wait((now, idle), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        now.cancel()
        idle.cancel()

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
            listener.unlink(self.settings.socket, self._made)


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        values.pop(name, None)
    else:
        values[name] = value
