"""The client: calls, streams, sessions, over connections that come and go.

The code under `_sync` is written from that under `_async` by `unasync.py`, but for `link.py` and `runtime.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from dspex import forks, wire
from dspex.backoff import delays
from dspex.core import Ask
from dspex.deadline import Deadline
from dspex.errors import ConnectionLost, Draining, DspexError, UnknownMethod
from dspex.models import Params
from dspex.offers import Offers
from dspex.place import socket_path

from .answering import answer
from .caller import AsyncCaller
from .link import Link
from .runtime import Beside, Turn, sleep

if TYPE_CHECKING:
    from .answering import Offered

_HANDSHAKE = 5.0  # seconds that a sidecar may take to answer it


class AsyncClient(AsyncCaller):
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
        super().__init__(timeout, Offers())
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
        self._beside = Beside()  # runs what the sidecar asks for
        forks.watch(self)

    async def connect(self, wait: float | None = None) -> Self:
        """Connect now, waiting up to `wait` seconds for a sidecar. Raises DspexError."""
        if wait is not None:
            self._wait = wait
        await self._connected(wait=wait)
        return self

    @property
    def server(self) -> dict[str, Any]:
        """What the sidecar said of itself: `server`, `connection`, `max_frame`, `max_in_flight`; empty before."""
        return dict(self._link.core.server) if self._link is not None else {}

    def offer(self, name: str, function: Offered) -> Callable[[], None]:
        """Let the workers that serve this client's calls call a function of this process.

        It is given the parameters by name and what it needs to make calls itself (`AsyncAsked`). What it returns is the
        answer, what it raises is the error. Returns what takes it back.
        """
        return self._offers.add(None, name, function)

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

    async def _start(
        self,
        method: str,
        params: Params | None,
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

    @property
    def _connects_again(self) -> bool:
        return not self._closed

    def _asked(self, link: Link, ask: Ask) -> None:
        """The sidecar asks, or wants an answer no more."""
        if ask.ended is not None:
            ask.token.cancel()
            return
        function = self._offers.find(ask.session, ask.method)
        if function is None:
            link.respond(ask, None, UnknownMethod(f"this client offers no method {ask.method!r}"))
        else:
            self._beside.start(partial(answer, link, ask, function, self._offers), ask.token)

    def _may_go_again(self, link: Link, error: Exception) -> bool:
        """A request that came after the sidecar's goaway was not executed: it goes over a new connection."""
        return isinstance(error, Draining) and not link.usable and not self._closed

    async def _connected(self, deadline: Deadline | None = None, wait: float | None = None) -> Link:
        """A connection that takes calls; made where there is none, before the deadline. Raises DspexError.

        `wait` takes the place of the patience that the client has.
        """
        asked = monotonic()
        link = self._link
        if link is not None and link.stranded:
            self.forget_connections()
        patience = wait if wait is not None else self._wait if link is None else self._reconnect
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
                return await Link.connect(self.path, self._hello, self._max_frame, handshake, self._asked)
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
