"""One end of the protocol over a channel: what pool-worker and stand-alone mode have in common."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Mapping
from typing import Any

from dspex import wire
from dspex.errors import Cancelled, ConnectionLost, DspexError, FrameTooLarge, InternalError, error_from_wire

from dspex_worker.batch import Batch
from dspex_worker.calls import Call, failure
from dspex_worker.channel import Channel
from dspex_worker.runtime import Runtime
from dspex_worker.session import Changes

log = logging.getLogger("dspex_worker")


class Peer:
    """Reads frames, answers requests, keeps the calls in flight, and asks the other side.

    A front end overrides the ``handle_…`` methods and ``settle``. ``scanned`` says that the other side has checked the
    structure of all that it sends (the sidecar has).
    """

    def __init__(
        self,
        sock: socket.socket,
        batch: Batch,
        *,
        scanned: bool,
        receives: int = wire.DEFAULT_FRAME,
        write_buffer: int | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.runtime: Runtime
        self.calls: dict[int, Call] = {}
        self.max_frame = wire.DEFAULT_FRAME  # of the other side: the longest body that it will receive
        self.ignored = 0  # frames that mean nothing here: of unknown kinds, methods or ids
        self._scanned = scanned
        self._plain = wire.PlainRequests().read if scanned else None
        self._idle: asyncio.Event | None = None
        self._splitter = wire.FrameSplitter(receives)
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[asyncio.Future[Any], Call | None]] = {}
        self.channel = Channel(
            self.loop,
            sock,
            self._splitter,
            batch,
            on_events=self.handle_events,
            on_end=self._on_end,
            on_room=self._on_room,
            write_buffer=write_buffer,
        )

    # What a front end provides.

    def handle_request(self, id: int, name: str, meta: dict[str, Any], params: dict[str, Any]) -> None:
        raise NotImplementedError

    def handle_notification(self, notification: wire.Notification) -> None:  # noqa: ARG002 - for those who override it
        self.ignored += 1

    def handle_cancel(self, id: int, reason: str | None) -> None:
        call = self.calls.get(id)
        if call is None:
            self.ignored += 1
        else:
            self.runtime.cancel(call, Cancelled(reason or "the caller cancelled"))

    def handle_broken(self, message: str) -> None:
        """React to broken framing, after which nothing more can be read."""
        raise NotImplementedError

    def handle_end(self) -> None:
        """React to the end of the connection."""
        raise NotImplementedError

    def settle(self, call: Call, answer: bytes | None, error: DspexError | None, changes: Changes | None) -> None:
        raise NotImplementedError

    # What it has.

    @property
    def receives(self) -> int:
        """The longest body that is received, in bytes."""
        return self._splitter.max_frame

    @receives.setter
    def receives(self, limit: int) -> None:
        self._splitter.max_frame = limit

    @property
    def writable(self) -> bool:
        return self.channel.writable

    def encode(self, call: Call, result: Any) -> bytes:
        meta = None if call._usage is None and call._reply_app is None else call.meta()
        frame = wire.encode_response(call.id, meta, result)
        return frame if len(frame) <= self.max_frame else self._fitting(frame)

    def encode_item(self, call: Call, item: Any) -> bytes:
        return self._fitting(wire.encode_item(call.id, item))

    def item(self, call: Call, item: bytes) -> None:  # noqa: ARG002 - Port gives it
        self.channel.write(item)

    def flush(self) -> None:
        self.channel.flush()

    def respond(self, id: int, result: Any) -> None:
        """Answer a request with what the front end itself made."""
        try:
            frame = self._fitting(wire.encode_response(id, None, result))
        except DspexError as error:
            self.fail(id, error)
        else:
            self.channel.write(frame)

    def fail(self, id: int, error: DspexError, meta: Mapping[str, Any] | None = None) -> None:
        """Answer a request with an error."""
        try:
            frame = self._fitting(wire.encode_error(id, meta, error.to_wire()))
        except DspexError:
            frame = self._plain_error(id, error, meta)
        self.channel.write(frame)

    def _plain_error(self, id: int, error: DspexError, meta: Mapping[str, Any] | None) -> bytes:
        """What is sent where the details or the meta cannot be: the usage stays if it can, since somebody counts it."""
        plain = DspexError(error.message[:1000], code=error.code, retryable=error.retryable).to_wire()
        for kept in (meta, None):
            with contextlib.suppress(DspexError):
                return self._fitting(wire.encode_error(id, kept, plain))
        return wire.encode_error(id, None, InternalError("an error that cannot be packed").to_wire())

    def protocol_error(self, id: int | None, message: str, code: str = "invalid_frame") -> None:
        """Report what cannot be tied to a call."""
        log.warning("protocol error: %s", message)
        params = {"id": id, "code": code, "message": message}
        self.channel.write(wire.encode_notification("protocol_error", params))

    def forget(self, call: Call) -> None:
        """Note that a call is settled: its id is free."""
        del self.calls[call.id]
        if self._idle is not None and not self.calls:
            self._idle.set()

    async def all_settled(self, seconds: float) -> None:
        """Wait until no call is in flight, but no longer than this."""
        self._idle = asyncio.Event()
        if self.calls:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)

    def ask(self, call: Call, method: str, params: dict[str, Any]) -> asyncio.Future[Any]:
        future = self.request(method, {"call": call.id}, params, call)
        if call.asks is None:
            call.asks = set()
        call.asks.add(future)
        future.add_done_callback(call.asks.discard)
        return future

    async def unsafe(self, call: Call) -> None:
        raise NotImplementedError

    def asker(self, id: int) -> Call | None:
        """Return the call whose method asked the other side with this id and waits for the answer."""
        asked = self._asked.get(id)
        return None if asked is None or asked[0].done() else asked[1]

    def request(
        self, method: str, meta: dict[str, Any] | None, params: dict[str, Any], call: Call | None = None
    ) -> asyncio.Future[Any]:
        """Send a request; the future has its result or DspexError, and cancelling it cancels the request."""
        future: asyncio.Future[Any] = self.loop.create_future()
        if self.channel.closed:
            future.set_exception(ConnectionLost("the connection has ended"))
            return future
        id = next(self._ids)
        self.channel.write(self._fitting(wire.encode_request(id, method, meta, params)))
        self._asked[id] = future, call
        future.add_done_callback(lambda asked: self._ask_ended(id, asked))
        return future

    # How it reads.

    def handle_events(self, events: list[wire.Event]) -> None:
        """Take what one read brought, in order."""
        channel = self.channel
        for event in events if self._plain is None else self._plain(events):
            if isinstance(event, list):
                _, id, name, meta, params = event
                try:
                    self.handle_request(id, name, meta, params)
                except Exception as caught:  # noqa: BLE001 - it is reported
                    self._defect(id, caught)
            else:
                self.handle_event(event)
            if not channel.reading:
                return

    def handle_event(self, event: wire.Event) -> None:
        """Take one event of the splitter."""
        if isinstance(event, wire.TooLong):
            self._on_too_long(event)
            return
        if isinstance(event, wire.StructureError):
            self.handle_broken(str(event))
            return
        try:
            message = wire.decode(event, scanned=self._scanned)
        except wire.StructureError as error:
            self.handle_broken(str(error))
        except wire.EnvelopeError as error:
            self.protocol_error(error.id, str(error))
        except wire.ContentError as error:
            self.refuse(event, DspexError(str(error), code="invalid_frame"))
        else:
            try:
                self._on_message(message)
            except Exception as caught:  # noqa: BLE001 - it is reported
                self._defect(message.id if isinstance(message, wire.Request) else None, caught)

    def _defect(self, id: int | None, caught: Exception) -> None:
        """Report what should not happen; it must cost its call only."""
        log.error("handling a frame failed", exc_info=caught)
        if id is not None and id not in self.calls:
            self.fail(id, InternalError(str(failure(caught, False))))

    def _on_message(self, message: wire.Message) -> None:
        if isinstance(message, wire.Request):
            self.handle_request(*message)
        elif isinstance(message, wire.Response):
            self._on_response(message)
        elif isinstance(message, wire.Credit):
            call = self.calls.get(message.id)
            if call is None or call.stream is None:
                self.ignored += 1
            else:
                call.stream.grant(message.n)
        elif isinstance(message, wire.Cancel):
            self.handle_cancel(message.id, message.reason)
        elif isinstance(message, wire.Notification):
            self.handle_notification(message)
        else:
            self.ignored += 1

    def _on_response(self, response: wire.Response) -> None:
        future, _ = self._asked.pop(response.id, (None, None))
        if future is None:
            self.ignored += 1
        elif not future.done():
            if response.error is not None:
                future.set_exception(error_from_wire(response.error))
            else:
                future.set_result(response.result)

    def _on_too_long(self, event: wire.TooLong) -> None:
        limit = self.receives
        error = FrameTooLarge(
            f"a frame of {event.length} bytes is longer than the limit of {limit}",
            details={"limit": limit, "length": event.length},
        )
        self.refuse(event.head, error)

    def refuse(self, head: wire.Body, error: DspexError) -> None:
        """Settle the call of a frame that cannot be taken, if it is known to be of one."""
        found = wire.TooLong(0, bytes(head[:64])).kind_and_id()
        if found is not None and found[0] == wire.Kind.REQUEST and found[1] not in self.calls:
            self.fail(found[1], error)
        elif found is not None and found[0] == wire.Kind.RESPONSE and found[1] in self._asked:
            self._on_response(wire.Response(found[1], {}, error.to_wire(), None))
        else:
            self.protocol_error(found[1] if found else None, error.message, error.code)

    def _ask_ended(self, id: int, asked: asyncio.Future[Any]) -> None:
        if asked.cancelled() and id in self._asked:  # its id stays taken until the response comes
            self.channel.write(wire.encode_cancel(id))
        elif not asked.cancelled():
            asked.exception()  # mark as seen: nobody may be waiting any more

    def _on_end(self) -> None:
        asked = list(self._asked.values())
        self._asked.clear()
        for future, _ in asked:
            if not future.done():
                future.set_exception(ConnectionLost("the connection has ended"))
        self.handle_end()

    def _on_room(self) -> None:
        for call in list(self.calls.values()):
            if call.stream is not None:
                call.stream.resume()

    def _fitting(self, frame: bytes) -> bytes:
        length = len(frame) - 4
        if length > self.max_frame:
            raise FrameTooLarge(
                f"a frame of {length} bytes is longer than its receiver's limit of {self.max_frame}",
                details={"limit": self.max_frame, "length": length},
            )
        return frame
