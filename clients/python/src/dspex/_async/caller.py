"""What a client can call, and so can a function that it offers while it answers."""
# ruff: noqa: ASYNC109 - the protocol carries the deadline; asyncio.timeout around a call works as well

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from dspex.cancel import CancelToken
from dspex.core import Reply, call_meta
from dspex.deadline import Deadline, deadline_of
from dspex.errors import ConnectionLost
from dspex.models import Adapter, Params, validated

from .program import AsyncProgram
from .session import AsyncSession
from .stream import AsyncStream

if TYPE_CHECKING:
    from dspex.offers import Offers

    from .link import Link

T = TypeVar("T")

_LOST: Final = 2  # connections that may be lost under an idempotent call before its caller is told


class AsyncCaller:
    """Makes calls. `AsyncClient` is one; functions that it offers are given another.

    Attributes:
        timeout: seconds for each call that names no other, connecting included; None: what the sidecar has as its
            default.
    """

    def __init__(self, timeout: float | None, offers: Offers) -> None:
        self.timeout = timeout
        self._offers = offers

    @property
    def _connects_again(self) -> bool:
        """Whether there will be another connection where one was lost."""
        return False

    async def call(
        self,
        method: str,
        params: Params | None = None,
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
        detach: bool = False,
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
            detach: of a method that has a process for each call: go on when this client leaves. See `runs.attach`.

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
            detach=detach,
        )
        return (await self._exchange(method, params, meta, timeout, cancel, idempotent)).result

    async def call_as(
        self,
        result: type[T] | Adapter[T],
        method: str,
        params: Params | None = None,
        **options: Any,
    ) -> T:
        """`call`, whose result a pydantic model (or a TypeAdapter) checks, and is made of. Raises InvalidResult."""
        return validated(result, await self.call(method, params, **options), method)

    async def request(
        self,
        method: str,
        params: Params | None = None,
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
        params: Params | None = None,
        *,
        credit: int = 16,
        timeout: float | None = None,
        cancel: CancelToken | None = None,
        **options: Any,
    ) -> AsyncStream[Any]:
        """Call a streaming method: iterate over its items; after the last, `result` is what it returned.

        Args:
            credit: how many items may be on their way; more are asked for as they are taken.
            timeout: seconds for the whole stream.
            cancel: a token that another thread may cancel the stream with; it is heeded when an item is asked for.
            options: as those of `call`.

        Use it as a context manager, or `close` it, where it may be left before its end: that cancels the call.
        """
        meta = call_meta(credit=credit, **options)
        return AsyncStream(self, method, params, meta, credit, timeout, cancel, lambda reply: reply.result)

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
        **options: Any,
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
            options: `timeout`, `cancel` and others, as those of `call`.

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
        params = {key: value for key, value in given.items() if value is not None}
        made = await self.call("session.create", params, **options)
        return AsyncSession(self, made["session"], made.get("token"))

    def program(self, id: str) -> AsyncProgram:
        """A program that the application or the configuration registered for all."""
        return AsyncProgram(self, id, {})

    async def _exchange(
        self,
        method: str,
        params: Params | None,
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
            elif lost and self._connects_again and isinstance(call.error, ConnectionLost):
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
        params: Params | None,
        meta: dict[str, Any],
        deadline: Deadline | None,
        credit: int = 0,
    ) -> tuple[Link, Any]:
        """Send a request over a connection that takes calls. Raises DspexError."""
        raise NotImplementedError

    async def _settled(self, link: Link, call: Any, deadline: Deadline | None, cancel: CancelToken | None) -> None:
        if cancel is None:
            await link.wait(call, deadline)
        else:
            with cancel.attached(partial(link.cancel_from_any_thread, call)):
                await link.wait(call, deadline)

    def _may_go_again(self, link: Link, error: Exception) -> bool:  # noqa: ARG002 - for those who override it
        return False
