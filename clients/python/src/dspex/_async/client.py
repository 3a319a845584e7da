"""The client: calls, streams, sessions, over connections that come and go.

The code under `_sync` is written from that under `_async` by `unasync.py`, but for `link.py` and `runtime.py`.
"""
# ruff: noqa: ASYNC109 - the protocol carries the deadline; asyncio.timeout around a call works as well

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import copy
from functools import partial
from time import monotonic
from typing import Any, Literal, Self

from dspex import forks, wire
from dspex.backoff import delays
from dspex.cancel import CancelToken
from dspex.core import Reply, call_meta
from dspex.deadline import Deadline, deadline_of
from dspex.errors import ConnectionLost, Draining, DspexError
from dspex.place import socket_path

from .link import Link
from .program import AsyncProgram
from .runtime import Turn, sleep
from .session import AsyncSession
from .stream import AsyncStream

_LOST = 2  # connections that may be lost under an idempotent call before its caller is told
_HANDSHAKE = 5.0  # seconds that a sidecar may take to answer it


class AsyncClient:
    """A client of one sidecar. Use it as a context manager, or close it.

    It connects when first used, and again where the connection was lost, in a forked child, too. Any number of calls
    may be in flight.

    Args:
        path: the sidecar's socket. None: DSPEX_SOCKET, `$XDG_RUNTIME_DIR/dspex/dspex.sock`, `/run/dspex/dspex.sock`.
        timeout: seconds for each call that names no other, connecting included; None: what the sidecar has as its
            default.
        name: what the sidecar's lists call this client.
        token: stands for the token of each session that was given none.
        wait: seconds to wait for a sidecar that is not there, when a connection is first made.
        reconnect: the same where a connection was lost.
        max_frame: the longest frame to take, in bytes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = None,
        name: str = "python",
        token: str | None = None,
        wait: float = 0.0,
        reconnect: float = 5.0,
        max_frame: int = wire.DEFAULT_FRAME,
    ) -> None:
        self.path = socket_path(path)
        self.timeout = timeout
        self._hello: dict[str, Any] = {"client": {"name": name, "version": _version()}}
        if token is not None:
            self._hello["token"] = token
        self._wait = wait
        self._reconnect = reconnect
        self._max_frame = max_frame
        self._link: Link | None = None
        self._leaving: list[Link] = []  # connections that the sidecar drains, with calls in flight
        self._connecting = Turn()  # held while a connection is made; guards _link, _leaving and _failure
        self._failure: tuple[float, DspexError] | None = None  # when the last attempt that failed began, and its error
        self._closed = False
        forks.watch(self)

    async def connect(self, wait: float | None = None) -> Self:
        """Connect now, waiting up to `wait` seconds for a sidecar. Raises DspexError."""
        if wait is not None:
            self._wait = wait
        await self._connected()
        return self

    @property
    def server(self) -> dict[str, Any]:
        """What the sidecar said of itself: `server`, `connection`, `max_frame`, `max_in_flight`; empty before."""
        return dict(self._link.core.server) if self._link is not None else {}

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        session: str | None = None,
        session_token: str | None = None,
        pool: str | None = None,
        retry: Literal["safe"] | None = None,
        traceparent: str | None = None,
        app: Mapping[str, Any] | None = None,
        cancel: CancelToken | None = None,
        idempotency_key: str | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Call a method, and return its result.

        Args:
            method: of the application, of the DSPy application, or of the sidecar (`sidecar.stats`).
            params: by name.
            timeout: seconds until the call is answered `deadline_exceeded`; what connecting takes is part of them.
            session: the session's id, and `session_token` where it was made with one.
            pool: the pool to use.
            retry: "safe": the call may be run again if its worker dies.
            traceparent: W3C trace context.
            app: handed to the application as it is.
            cancel: a token that another thread may cancel the call with.
            idempotency_key: names the call: the sidecar runs it once, however often it is asked for, and answers all
                alike, for as long as it keeps answers.
            idempotent: where the connection is lost, ask again over a new one, with the same key; one is made where
                none is given.

        Raises DspexError: the class goes by the error's code. Abandoning the call cancels it.
        """
        meta = call_meta(
            session=session,
            session_token=session_token,
            pool=pool,
            retry=retry,
            traceparent=traceparent,
            app=app,
            idempotency_key=idempotency_key,
            idempotent=idempotent,
        )
        return (await self._exchange(method, params, meta, timeout, cancel, idempotent)).result

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        cancel: CancelToken | None = None,
        idempotent: bool = False,
        **options: Any,
    ) -> Reply:
        """`call`, with its options, for who wants the meta of the answer too (see `Reply`)."""
        meta = call_meta(idempotent=idempotent, **options)
        return await self._exchange(method, params, meta, timeout, cancel, idempotent)

    def stream(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        credit: int = 16,
        timeout: float | None = None,
        **options: Any,
    ) -> AsyncStream[Any]:
        """Call a streaming method: iterate over its items; after the last, `result` is what it returned.

        Args:
            credit: how many items may be on their way; more are asked for as they are taken.
            timeout: seconds for the whole stream.
            options: as those of `call`.

        Use it as a context manager, or `close` it, where it may be left before its end: that cancels the call.
        """
        meta = call_meta(credit=credit, **options)
        return AsyncStream(self, method, params, meta, credit, timeout, lambda reply: reply.result)

    def session(self, id: str, *, token: str | None = None) -> AsyncSession:
        """A session that is there already. Nothing is sent."""
        return AsyncSession(self, id, token)

    async def create_session(
        self,
        id: str | None = None,
        *,
        state: Mapping[str, Any] | None = None,
        ttl: float | None = None,
        max_age: float | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str | None = None,
        token: bool = False,
    ) -> AsyncSession:
        """Make a session. As a context manager it ends when the block does.

        Args:
            id: None: the sidecar makes one.
            state: what it begins with.
            ttl: seconds without use after which it expires.
            max_age: seconds after which it expires, used or not.
            labels: to find it by in `session.list`.
            pool: the pool that it belongs to.
            token: the session belongs to whoever holds its token, not to this user.

        Raises SessionExists, SessionLimit.
        """
        given = {
            "session": id,
            "state": state,
            "ttl_ms": None if ttl is None else round(ttl * 1000),
            "max_age_ms": None if max_age is None else round(max_age * 1000),
            "labels": labels,
            "pool": pool,
            "token": token or None,
        }
        made = await self.call("session.create", {key: value for key, value in given.items() if value is not None})
        return AsyncSession(self, made["session"], made.get("token"))

    def program(self, id: str) -> AsyncProgram:
        """A program that the application or the configuration registered for all."""
        return AsyncProgram(self, id, {})

    async def close(self) -> None:
        """Close all connections. Calls in flight settle as ConnectionLost; nothing is left behind."""
        self._closed = True
        turn = self._connecting
        taken: list[bool] = []
        try:
            await turn.take(taken, None)
            links, self._leaving = [*self._leaving, *([self._link] if self._link else [])], []
            self._link = None
        finally:
            if True in taken:
                turn.leave()
        for link in links:
            if link.stranded:
                link.abandon()
            else:
                await link.close()

    def forget_connections(self) -> None:
        """Drop the connections without ending them; the next call makes one. Forked children do so by themselves."""
        links, self._leaving = [*self._leaving, *([self._link] if self._link else [])], []
        self._link = None
        self._connecting = Turn()
        for link in links:
            link.abandon()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _exchange(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        meta: dict[str, Any],
        timeout: float | None,
        cancel: CancelToken | None,
        idempotent: bool,
    ) -> Reply:
        deadline = self._deadline(timeout)
        refused, lost = 1, _LOST if idempotent else 0  # how often the call may be sent again for each reason
        while True:
            link, call = await self._start(method, params, meta, deadline)
            await self._settled(link, call, deadline, cancel)
            if call.error is None:
                break
            if refused and self._may_go_again(link, call.error):
                refused -= 1
            elif lost and isinstance(call.error, ConnectionLost) and not self._closed:
                lost -= 1
            else:
                break
        reply: Reply = call.outcome()
        return reply

    def _deadline(self, timeout: float | None) -> Deadline | None:
        return deadline_of(self.timeout if timeout is None else timeout)

    async def _start(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        meta: dict[str, Any],
        deadline: Deadline | None,
        credit: int = 0,
    ) -> tuple[Link, Any]:
        """Send a request over a connection that takes calls. Raises DspexError."""
        link = self._link
        if link is None or not link.usable or link.stranded:
            link = await self._connected(deadline)
        if deadline is not None:
            meta["timeout_ms"] = deadline.milliseconds()
        return link, await link.start(method, params, meta or None, credit, deadline)

    async def _settled(self, link: Link, call: Any, deadline: Deadline | None, cancel: CancelToken | None) -> None:
        if cancel is None:
            await link.wait(call, deadline)
        else:
            with cancel.attached(partial(link.cancel_from_any_thread, call)):
                await link.wait(call, deadline)

    def _may_go_again(self, link: Link, error: Exception) -> bool:
        """A request that came after the sidecar's goaway was not executed: it goes over a new connection."""
        return isinstance(error, Draining) and not link.usable and not self._closed

    async def _connected(self, deadline: Deadline | None = None) -> Link:
        """A connection that takes calls; made where there is none, before the deadline. Raises DspexError."""
        asked = monotonic()
        link = self._link
        if link is not None and link.stranded:
            self.forget_connections()
        patience = self._wait if link is None else self._reconnect
        if deadline is not None:
            patience = min(patience, deadline.left())
        turn = self._connecting
        taken: list[bool] = []
        try:
            await turn.take(taken, None if deadline is None else deadline.left())
            link = self._link
            if link is not None and link.usable:
                return link
            if self._closed:
                raise ConnectionLost("the client was closed")
            if True not in taken:
                raise ConnectionLost(f"no connection to the sidecar at {self.path} within the call's timeout")
            if self._failure is not None and self._failure[0] >= asked and monotonic() >= asked + patience:
                raise copy(self._failure[1])  # who asked meanwhile need not fail one after the other
            return await self._renew(asked + patience, deadline)
        finally:
            if True in taken:
                turn.leave()

    async def _renew(self, until: float, deadline: Deadline | None) -> Link:
        """Put a new connection in the place of the old one. Raises DspexError."""
        if self._link is not None and self._link not in self._leaving:
            self._leaving.append(self._link)
        self._leaving = [old for old in self._leaving if not await old.finish()]
        began = monotonic()
        try:
            link = self._link = await self._reach(until, deadline)
        except DspexError as error:
            self._failure = began, copy(error)
            raise
        return link

    async def _reach(self, until: float, deadline: Deadline | None) -> Link:
        """Connect; where there is no sidecar, try again until then, with growing and random pauses."""
        for delay in delays():
            handshake = max(until - monotonic(), _HANDSHAKE)
            if deadline is not None:
                handshake = min(handshake, deadline.left())
            try:
                return await Link.connect(self.path, self._hello, self._max_frame, handshake)
            except ConnectionLost:
                if self._closed or monotonic() + delay >= until:
                    raise
            await sleep(delay)
        raise AssertionError("delays do not end")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # workers import this package, and need no clients

    try:
        return version("dspex")
    except PackageNotFoundError:  # used from a source tree
        return "0"
