"""One client's connection in stand-alone mode: handshake, admission, answers."""

from __future__ import annotations

import asyncio
import logging
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from dspex import wire
from dspex.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    DspexError,
    InternalError,
    InvalidFrame,
    InvalidParams,
    QueueFull,
    SessionBusy,
)

from dspex_worker.calls import ENDED, Call
from dspex_worker.peer import Peer
from dspex_worker.session import Changes, Session, attach, thaw
from dspex_worker.standalone.dispatch import Ticket
from dspex_worker.standalone.methods import RESET, TURNS
from dspex_worker.standalone.table import Record, not_found, owner_of

if TYPE_CHECKING:
    from dspex_worker.app import Method
    from dspex_worker.standalone.server import Server

log = logging.getLogger("dspex_worker")

_FOREVER = 10**9  # milliseconds of a timeout, beyond which it makes no difference


class Client(Peer):
    """A connection. ``refusal`` is what its handshake is answered with, where it may not be."""

    def __init__(
        self, server: Server, sock: socket.socket, id: str, pid: int, uid: int, refusal: DspexError | None
    ) -> None:
        settings = server.settings
        super().__init__(
            sock, server.batch, scanned=False, receives=settings.max_frame, write_buffer=settings.write_buffer
        )
        self.runtime = server.runtime
        self.server = server
        self.id = id
        self.pid = pid
        self.uid = uid
        self.admin = uid in server.admin_uids
        self.name = self.version = ""
        self.since = monotonic()
        self.commands = 0
        self._refusal = refusal
        self._token: str | None = None
        self.greeted = False
        self._patience = self.loop.call_later(settings.handshake_timeout, self._too_late)

    def owner(self, token: str | None = None) -> str:
        """Return whose sessions this client finds, with the token that a request names, if it does."""
        return owner_of(self.uid, token or self._token)

    def handle_request(self, id: int, name: str, meta: dict[str, Any], params: dict[str, Any]) -> None:
        if id in self.calls:
            self.protocol_error(id, f"request id {id} is in flight")
            return
        self.commands += 1
        self.server.commands += 1
        try:
            self._admit(id, name, meta, params)
        except DspexError as error:
            self.server.errors += 1
            self.fail(id, error)

    def handle_cancel(self, id: int, reason: str | None) -> None:
        call = self.calls.get(id)
        if call is None:
            self.ignored += 1
        else:
            self.server.dispatcher.stop(call, Cancelled(reason or "the client cancelled the call"))

    def handle_event(self, event: wire.Event) -> None:
        if self.greeted:
            super().handle_event(event)
            return
        reason = "it cannot be read"
        if isinstance(event, bytes | bytearray):
            try:
                message = wire.decode(event)
            except wire.ContentError as error:
                self.refuse(event, InvalidFrame(str(error)))
                self.channel.end()
                return
            except wire.Violation as error:
                reason = str(error)
            else:
                if isinstance(message, wire.Request):
                    self._greet(message)
                    return
                reason = "it is no request"
        self.protocol_error(None, f"the first frame has to be the request hello: {reason}", "handshake_required")
        self.channel.end()

    def handle_broken(self, message: str) -> None:
        self.protocol_error(None, message)
        self.channel.end()

    def handle_end(self) -> None:
        self._patience.cancel()
        for call in list(self.calls.values()):
            self.server.dispatcher.stop(call, Cancelled("the client left"))
        self.server.left(self)

    def tick(self, now: float) -> None:
        """End the connection where it keeps this side waiting for too long, and streams that it does not read."""
        settings = self.server.settings
        blocked, incomplete = self.channel.blocked_since, self.channel.incomplete_since
        if blocked is not None and now - blocked > settings.write_timeout:
            log.info("client %s takes nothing of what waits for it: its connection is ended", self.id)
            self.channel.close()
            return
        if incomplete is not None and now - incomplete > settings.frame_timeout:
            self.handle_broken("a frame stayed incomplete for too long")
            return
        for call in list(self.calls.values()):
            stalled = None if call.stream is None else call.stream.stalled_since
            if stalled is not None and now - stalled > settings.stream_stall:
                message = f"the stream waited for credit longer than {settings.stream_stall:g} s"
                self.server.dispatcher.stop(call, Cancelled(message))

    def encode(self, call: Call, result: Any) -> bytes:
        return self._fitting(wire.encode_response(call.id, self.meta(call), result))

    def item(self, call: Call, item: bytes) -> None:
        if self.calls.get(call.id) is call:  # else it was answered, and its id may be another's by now
            self.channel.write(item)

    def settle(self, call: Call, answer: bytes | None, error: DspexError | None, changes: Changes | None) -> None:
        ticket: Ticket = call.front
        record = ticket.record
        if record is not None:
            try:
                self._commit(record, call, error is None, changes)
            except DspexError as refused:
                error = refused
                record.copy.local = {}  # made of what is not in force
        if not ticket.answered:
            if error is None and answer is None:
                error = InternalError("the call ended without an answer")
            self.answer(call, error or answer)
        self.server.dispatcher.done(call)

    def answer(self, call: Call, answer: bytes | DspexError | None) -> None:
        """Send the response of a call; its id is free."""
        call.front.answered = True
        self.forget(call)
        if isinstance(answer, DspexError):
            self.server.errors += 1
            self.fail(call.id, answer, self.meta(call))
        elif answer is not None:
            self.channel.write(answer)

    def ask(self, call: Call, method: str, params: dict[str, Any]) -> asyncio.Future[Any]:
        if method != "sidecar.share":
            return super().ask(call, method, params)
        answer: asyncio.Future[Any] = self.loop.create_future()
        try:
            self.server.share(self.admin, **params)
            answer.set_result({})
        except DspexError as error:
            answer.set_exception(error)
        return answer

    async def unsafe(self, call: Call) -> None:
        """Nothing is run again here: the calls of a process that dies are lost with it."""

    def takes_alone(self, call: Call) -> bool:
        """Whether a call whose turn in its session is next takes it alone."""
        return self._is_first(call) or not call.spec.read_only or _writes(call)

    def starting(self, call: Call) -> None:
        """Take note that a call starts: it is its session's first where none before it has committed since a reset."""
        if self._is_first(call):
            assert call.session is not None
            call.first = True
            thaw(call.session)
        if _writes(call):
            assert call.session is not None
            call.writes = True
            thaw(call.session)

    def _is_first(self, call: Call) -> bool:
        record: Record | None = call.front.record
        hooks = self.server.app.session_start_hooks
        return record is not None and not record.started and bool(hooks) and call.method not in TURNS

    def meta(self, call: Call) -> dict[str, Any]:
        """Return the meta of a call's response."""
        ticket: Ticket = call.front
        meta: dict[str, Any] = {"worker": self.server.worker.id}
        if ticket.started:
            meta["queue_us"] = int((ticket.started - ticket.arrived) * 1e6)
            meta["run_us"] = int((monotonic() - ticket.started) * 1e6)
        return meta | (call.meta() or {})

    def _commit(self, record: Record, call: Call, succeeded: bool, changes: Changes | None) -> None:
        """Have a call's changes in force. Raises DspexError where they cannot be."""
        if not succeeded:
            if call.began:
                record.copy.local = {}  # what a failed call did to these objects is not known
            return
        if record.ended:
            raise not_found(record.key[1])
        if changes is not None:
            record.commit(changes, self.server.settings.max_state)
        if call.method == RESET:
            record.started, record.copy.local = False, {}
        else:
            record.started = record.started or call.method not in TURNS

    def _greet(self, request: wire.Request) -> None:
        """Answer the first request, which has to be hello."""
        try:
            answer = self._greeting(request)
        except DspexError as error:
            self.fail(request.id, error)
            self.channel.end()
            return
        self.greeted = True
        self._patience.cancel()
        self.respond(request.id, answer)

    def _greeting(self, request: wire.Request) -> dict[str, Any]:
        if request.method != "hello":
            raise DspexError(f"the first request has to be hello, not {request.method!r}", code="handshake_required")
        hello = request.params
        protocols, client, max_frame = hello.get("protocols"), hello.get("client") or {}, hello.get("max_frame")
        if not isinstance(protocols, list) or wire.PROTOCOL not in protocols:
            raise DspexError(
                f"protocol {wire.PROTOCOL} is spoken here",
                code="unsupported_protocol",
                details={"protocols": [wire.PROTOCOL]},
            )
        if self._refusal is not None:
            raise self._refusal
        if self.server.draining:
            raise Draining("the server is ending")
        if max_frame is not None and (type(max_frame) is not int or max_frame < wire.MIN_FRAME_LIMIT):
            raise InvalidParams(f"max_frame is at least {wire.MIN_FRAME_LIMIT}")
        token = hello.get("token")
        if (token is not None and type(token) is not str) or not isinstance(client, dict):
            raise InvalidParams("client is a map, and token text")
        self.max_frame = max_frame or wire.DEFAULT_FRAME
        self._token = token or None
        self.name, self.version = _printable(client.get("name")), _printable(client.get("version"))
        settings = self.server.settings
        return {
            "protocol": wire.PROTOCOL,
            "features": [],
            "server": {"name": "dspex-worker", "version": self.server.version},
            "connection": self.id,
            "max_frame": settings.max_frame,
            "max_in_flight": settings.max_in_flight,
        }

    def _admit(self, id: int, name: str, meta: dict[str, Any], params: dict[str, Any]) -> None:
        """Answer a method of the server's own, or make and queue the call of one of the application's."""
        server = self.server
        try:
            wire.check_request_meta(meta)
        except wire.ContentError as error:
            raise InvalidFrame(str(error)) from None
        deadline = monotonic() + min(meta.get("timeout_ms", server.settings.default_timeout * 1000), _FOREVER) / 1000
        if meta.get("timeout_ms") == 0:
            raise DeadlineExceeded("the deadline had passed when the call came", details={"ended_by": "queue"})
        if len(self.calls) >= server.settings.max_in_flight:
            details = {"retry_after_ms": 10, "limit": server.settings.max_in_flight}
            raise QueueFull(f"{len(self.calls)} calls of this connection are in flight", details=details)
        if meta.get("pool", "default") != "default":
            raise InvalidParams(f"there is no pool {meta['pool']!r}")
        if "idempotency_key" in meta and meta.get("retry") != "safe":
            raise InvalidParams(
                'stand-alone mode keeps no answers: meta.idempotency_key is for the sidecar, or beside retry: "safe"',
                details={"errors": []},
            )
        method = server.methods.get(name)
        if method is None:
            self.respond(id, server.own.call(self, name, meta, params))
            return
        parent = self._parent(meta)
        if (
            server.draining and parent is None and name not in TURNS
        ):  # what the server itself answers goes on to the end
            raise Draining("the server is ending")
        record = server.own.session_of(self, name, meta, params)
        if record is not None and record in _waiting_sessions(parent):
            raise SessionBusy(f"a call of session {record.key[1]!r} waits for this one")
        ticket = Ticket(self, record, parent)
        call = self._call(method, id, meta, params, ticket)
        call.deadline = deadline
        self.calls[id] = call
        server.dispatcher.submit(call)

    def _call(self, method: Method, id: int, meta: dict[str, Any], params: dict[str, Any], ticket: Ticket) -> Call:
        call = Call(id, method, params, self)
        call.front = ticket
        call.app = meta.get("app")
        record = ticket.record
        if record is not None:
            record.calls += 1
            call.session = Session(record.copy, read_only=method.read_only)
            attach(call.session, self.server.update_session)
        if "stream" in meta:
            call.stream = self.runtime.stream(meta["stream"])
        method.bind_call(call)
        return call

    def _parent(self, meta: dict[str, Any]) -> Call | None:
        """Return the call that the client serves with this one."""
        if (asked := meta.get("parent")) is None:
            return None
        parent = self.asker(asked)
        if parent is None or parent.state == ENDED:
            raise InvalidParams("meta.parent names no request that is being answered")
        return parent

    def _too_late(self) -> None:
        self.protocol_error(None, "hello did not come in time", "handshake_required")
        self.channel.end()


def _writes(call: Call) -> bool:
    """Whether a call of a read-only method writes nevertheless."""
    return call.session is not None and call.spec.writes is not None and call.spec.writes(call)


def _waiting_sessions(call: Call | None) -> list[Record]:
    """Return the sessions of a call and of those that it was made for: a call in one of them would wait for itself."""
    found = []
    while call is not None:
        ticket: Ticket = call.front
        if ticket.record is not None:
            found.append(ticket.record)
        call = ticket.parent
    return found


def _printable(text: Any) -> str:
    """Return what a client says of itself, fit for logs and tables."""
    if not isinstance(text, str):
        return ""
    return "".join(character if character.isprintable() else "?" for character in text[:64])
