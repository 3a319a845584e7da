# Written by unasync.py from _async/answering.py: change that.
"""Functions that the client offers, while they answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dspex.offers import Offers, offered_error

from .caller import Caller
from .runtime import invoke

if TYPE_CHECKING:
    from dspex.cancel import CancelToken
    from dspex.core import Ask
    from dspex.deadline import Deadline
    from dspex.models import Params

    from .link import Link

Offered = Callable[[dict[str, Any], "Asked"], Any]
"""A function that a worker can call, plain or async: `(params, asked) -> answer`."""


class Asked:
    """What a function is told of the request that it answers.

    Attributes:
        method: the name that it was asked for by.
        session: the session of the call that asks, or None.
        client: calls made with it are part of the call that asks. Use it, not the client, or the two may wait for each
            other.
    """

    def __init__(self, ask: Ask, client: Caller) -> None:
        self.method = ask.method
        self.session = ask.session
        self.client = client
        self._ask = ask

    @property
    def cancelled(self) -> bool:
        """Whether the answer is wanted no more: the call that asks has ended, or the connection is lost."""
        return self._ask.token.cancelled


class _Part(Caller):
    """Its calls go over the connection of the call that asks, and end with it."""

    def __init__(self, link: Link, ask: Ask, offers: Offers) -> None:
        super().__init__(None, offers)
        self._link = link
        self._ask = ask

    def _start(
        self,
        method: str,
        params: Params | None,
        meta: dict[str, Any],
        deadline: Deadline | None,
        credit: int = 0,
    ) -> tuple[Link, Any]:
        meta["parent"] = self._ask.id
        if deadline is not None:
            meta["timeout_ms"] = deadline.milliseconds()
        return self._link, self._link.start(method, params, meta, credit, deadline)

    def _settled(self, link: Link, call: Any, deadline: Deadline | None, cancel: CancelToken | None) -> None:
        with self._ask.token.attached(partial(link.cancel_from_any_thread, call)):
            super()._settled(link, call, deadline, cancel)


def answer(link: Link, ask: Ask, function: Offered, offers: Offers) -> None:
    """Run the function, and answer with what it returns or raises."""
    try:
        result = invoke(function, ask.params, Asked(ask, _Part(link, ask, offers)), ask.token)
    except BaseException as error:  # noqa: BLE001 - whatever it raises is the answer
        link.respond(ask, None, offered_error(error))
    else:
        link.respond(ask, result, None)
