# Written by unasync.py from _async/stream.py: change that.
"""A stream of items."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from dspex.core import Reply
from dspex.deadline import Deadline
from dspex.errors import DspexError
from dspex.models import Params

if TYPE_CHECKING:
    from dspex.cancel import CancelToken

    from .caller import Caller
    from .link import Link

T = TypeVar("T")


class Stream(Generic[T]):
    """The items of a streaming call, in order. The request is sent when the first is asked for.

    Items promise nothing until the stream has ended without an error. One consumer at a time.
    """

    def __init__(
        self,
        client: Caller,
        method: str,
        params: Params | None,
        meta: dict[str, Any],
        credit: int,
        timeout: float | None,
        cancel: CancelToken | None,
        finish: Callable[[Reply], T],
    ) -> None:
        self._client = client
        self._request = (method, params, meta)
        self._window = credit
        self._taken = 0  # since more was asked for
        self._timeout = timeout
        self._cancel = cancel
        self._deadline: Deadline | None = None
        self._finish = finish
        self._link: Link | None = None
        self._call: Any = None
        self._closed = False

    @property
    def result(self) -> T:
        """What the method returned. Raises DspexError where it failed, RuntimeError before the end."""
        return self._finish(self._reply())

    @property
    def meta(self) -> dict[str, Any]:
        """What the sidecar said of the call: `worker`, `queue_us`, `run_us`, `usage`. Raises as `result` does."""
        return self._reply().meta

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        if self._call is None:
            self._deadline = self._client._deadline(self._timeout)
            self._start()
            if self._refused():
                self._start()
        call, link = self._call, self._link
        assert link is not None
        if not call.items or (self._cancel is not None and self._cancel.cancelled):
            self._client._settled(link, call, self._deadline, self._cancel)
        if call.items:
            item = call.items.popleft()
            self._taken += 1
            if self._taken * 2 >= self._window:
                link.grant(call, self._taken)
                self._taken = 0
            return item
        if call.error is not None:
            raise call.error
        raise StopIteration

    def close(self) -> None:
        """Cancel the call if it has not ended. Nothing where it has."""
        self._closed = True
        if self._call is not None and self._link is not None:
            self._link.cancel(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._call is not None and self._link is not None and not self._call.done:
            self._link.core.orphan(self._call)

    def _start(self) -> None:
        """Send the request, and wait for its first item or its end."""
        method, params, meta = self._request
        self._link, self._call = self._client._start(method, params, meta, self._deadline, self._window)
        self._client._settled(self._link, self._call, self._deadline, self._cancel)

    def _refused(self) -> bool:
        assert self._link is not None
        return self._call.error is not None and self._client._may_go_again(self._link, self._call.error)

    def _reply(self) -> Reply:
        if self._call is None or not self._call.done:
            raise RuntimeError("the stream has not ended: take all its items first")
        try:
            reply: Reply = self._call.outcome()
        except DspexError as error:
            raise error.with_traceback(None) from None
        return reply
