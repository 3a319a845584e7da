"""One connection with asyncio: the event loop reads, and a call is a future."""

# ruff: noqa: ASYNC109 - the protocol carries the deadline; asyncio.timeout around a call works as well

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Self, cast

from dspex.core import Ask, Call, Core, State
from dspex.deadline import Deadline
from dspex.errors import ConnectionLost, DspexError
from dspex.models import Params
from dspex.place import lost, new_socket, no_greeting, no_sidecar

_SCRATCH = 256 << 10  # bytes taken from the socket at once


class TaskCall(Call):
    """A call that a task waits for."""

    __slots__ = ("deadline", "waiter")

    def __init__(self, method: str, credit: int = 0) -> None:
        super().__init__(method, credit)
        self.waiter: asyncio.Future[None] | None = None
        self.deadline: Deadline | None = None  # while a task waits

    def wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Link(asyncio.BufferedProtocol):
    """One connection to a sidecar. All methods but `abandon` belong to the thread of the event loop."""

    def __init__(self, sock: socket.socket, max_frame: int, asked: Callable[[Link, Ask], None]) -> None:
        self.core = Core(max_frame)
        self._asked = asked  # called with what the sidecar asks, and again where that has ended
        self._loop = asyncio.get_running_loop()
        self._socket = sock  # the transport's
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._filling = False  # the buffer that the loop fills is the splitter's
        self._flushing = False  # a flush has been scheduled
        self._quiet = True  # nothing was sent since something was last received
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None  # rings at the first deadline, or before
        self._transport: asyncio.Transport

    @classmethod
    async def connect(
        cls,
        path: str,
        hello: Mapping[str, Any],
        max_frame: int,
        timeout: float,
        asked: Callable[[Link, Ask], None],
    ) -> Self:
        """Connect and greet, within `timeout` seconds. Raises DspexError."""
        sock = new_socket()
        loop = asyncio.get_running_loop()
        try:
            sock.setblocking(False)
            await asyncio.wait_for(loop.sock_connect(sock, path), timeout)
            _, link = await loop.create_unix_connection(lambda: cls(sock, max_frame, asked), sock=sock)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise no_sidecar(path, error) from None
            raise
        try:
            greeting = await link.start("hello", link.core.greeting(hello), None)
            await link.wait(greeting, Deadline(timeout))
            if isinstance(greeting.error, TimeoutError):
                raise no_greeting(path, timeout)
            link.core.welcome(greeting)
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def usable(self) -> bool:
        """Whether new calls may be made."""
        return self.core.state is State.READY

    @property
    def stranded(self) -> bool:
        """Whether its event loop has ended. Raises RuntimeError where it runs on, and is not this one."""
        if self._loop is asyncio.get_running_loop():
            return False
        if self._loop.is_closed():
            return True
        raise RuntimeError("this AsyncClient is connected in another event loop: make one for each loop")

    async def start(
        self,
        method: str,
        params: Params | None,
        meta: Mapping[str, Any] | None,
        credit: int = 0,
        deadline: Deadline | None = None,
    ) -> TaskCall:
        """Send a request. Raises DspexError where it was not sent."""
        call = TaskCall(method, credit)
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(None if deadline is None else deadline.left()):
                    await self._writable.wait()
            except TimeoutError:
                assert deadline is not None
                raise deadline.error(method) from None
        self.core.request(call, meta, params)
        self._send()
        return call

    async def wait(self, call: TaskCall, deadline: Deadline | None = None) -> None:
        """Until `call` is settled, or has an item; once its deadline has passed it settles as `deadline_exceeded`."""
        if call.ready():
            return
        if deadline is not None:
            self._set_alarm(call, deadline)
        call.waiter = self._loop.create_future()
        try:
            await call.waiter
        except BaseException:
            self.cancel(call)  # the task was cancelled: the answer is wanted no more
            raise
        call.deadline = None

    def grant(self, call: TaskCall, n: int) -> None:
        """Let a stream go on by `n` items."""
        self.core.grant(call, n)
        self._send()

    def cancel(self, call: TaskCall, error: DspexError | None = None) -> None:
        """Settle a call as cancelled, and tell the sidecar. Never waits."""
        self.core.cancel(call, error)
        self._send()

    def cancel_from_any_thread(self, call: TaskCall) -> None:
        """`cancel`, from outside the event loop as well."""
        self._loop.call_soon_threadsafe(self.cancel, call)

    def respond(self, ask: Ask, result: Any, error: DspexError | None) -> None:
        """Answer what the sidecar asked, unless it wants the answer no more. Never waits."""
        self.core.respond(ask, result, error)
        if not self._transport.is_closing():
            self._send()

    async def finish(self) -> bool:
        """Close the connection if nothing is in flight on it. True: it is closed."""
        if self.core.calls:
            return False
        await self.close()
        return True

    async def close(self) -> None:
        """End the connection: what is in flight settles as `connection_lost`. Returns when the descriptor is closed."""
        self.core.close(ConnectionLost("the client was closed"))
        self._tell()
        self._transport.abort()
        await self._lost.wait()

    def abandon(self) -> None:
        """In a forked child, or where the event loop has ended: forget the connection."""
        self._socket.close()  # this process's descriptor alone: a parent's connection goes on
        self.core.outgoing.clear()
        self.core.asks.clear()
        calls = list(self.core.calls.values())
        for call in calls:
            if isinstance(call, TaskCall):
                call.waiter = None  # of a task that is not here any more
        self.core.close(ConnectionLost("the connection belongs to another process, or to an event loop that has ended"))

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none of asyncio's classes

    def get_buffer(self, _sizehint: int) -> memoryview:
        room = self.core.splitter.room()
        self._filling = room is not None
        return self._scratch if room is None else room

    def buffer_updated(self, nbytes: int) -> None:
        core = self.core
        self._quiet = True
        if self._filling:
            core.handle(core.splitter.filled(nbytes))
        else:
            core.receive(self._scratch[:nbytes])
        self._tell()
        if core.outgoing:
            self._send()
        if core.state is State.CLOSED:
            self._transport.abort()

    def eof_received(self) -> None:
        self.core.end_of_file()
        self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        if isinstance(error, OSError):
            self.core.close(lost(error))
        else:
            self.core.end_of_file()
        self._tell()
        if self._alarm is not None:
            self._alarm.cancel()
        self._writable.set()
        self._lost.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _tell(self) -> None:
        if self.core.news:
            for ask in self.core.take_news():
                self._asked(self, ask)

    # Writing and deadlines

    def _send(self) -> None:
        """The first frame after something was received goes at once; more of them go together, a little later."""
        if self._quiet:
            self._flush()
            self._quiet = False
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.core.outgoing:
            self._transport.write(self.core.take_outgoing())

    def _set_alarm(self, call: TaskCall, deadline: Deadline) -> None:
        """One timer for all calls: most end before their deadlines, and would only have set and cleared one."""
        call.deadline = deadline
        gives_up = deadline.gives_up(self.core.stop_report)
        if self._alarm is None or self._alarm.when() > gives_up:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(gives_up, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now, report = monotonic(), self.core.stop_report
        waiting = [call for call in self.core.calls.values() if isinstance(call, TaskCall) and not call.done]
        for call in waiting:
            if call.deadline is not None and call.deadline.gives_up(report) <= now:
                self.cancel(call, call.deadline.error(call.method))
        ahead = [call.deadline.gives_up(report) for call in waiting if not call.done and call.deadline is not None]
        if ahead:
            self._alarm = self._loop.call_at(min(ahead), self._ring)
