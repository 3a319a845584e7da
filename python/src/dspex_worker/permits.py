"""Permits for requests to models and embedders that have limits: the sidecar holds those across all workers."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Protocol

from dspex import wire
from dspex.errors import DeadlineExceeded

if TYPE_CHECKING:
    from dspex_worker.peer import Peer

_MARGIN = 0.05  # seconds before the call's deadline at which waiting ends: the error that says so has to arrive

LONGEST_PAUSE = 366 * 86400.0  # seconds: of what a provider says, more is no time, and does not fit into messages


class Permits(Protocol):
    """Who lets requests through. All on the loop's thread."""

    async def acquire(self, model: str, share: str, *, no_pause: bool, left: float | None) -> int:
        """Wait for a permit and return its number, which ``release`` wants.

        ``share`` is whose turn it takes; with ``no_pause`` a model whose provider wants to be left alone is refused
        at once. ``left`` is how long the call still has.

        Raises:
            DspexError: ``lm_error`` where it is refused; ``deadline_exceeded`` where ``left`` was not enough.
        """

    def release(self, permit: int, tokens: int = 0, pause: float | None = None) -> None:
        """Give it back: the request has ended. ``pause``: seconds for which the provider wants to be left alone."""


class SidecarPermits:
    """Asks the sidecar."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._numbers = itertools.count(1)

    async def acquire(self, model: str, share: str, *, no_pause: bool, left: float | None) -> int:
        permit = next(self._numbers)
        params: dict[str, Any] = {"permit": permit, "model": model, "share": share}
        if no_pause:
            params["no_pause"] = True
        if left is not None:
            params["left_ms"] = left * 1000
        answer = self._peer.request("model.permit", None, params)
        try:
            await within(answer, model, left)
        except BaseException:
            self.release(permit)  # it may have been granted meanwhile
            raise
        return permit

    def release(self, permit: int, tokens: int = 0, pause: float | None = None) -> None:
        params: dict[str, Any] = {"permit": permit}
        if tokens:
            params["tokens"] = tokens
        if pause is not None:
            params["pause_ms"] = min(pause, LONGEST_PAUSE) * 1000
        if not self._peer.channel.closed:
            self._peer.channel.write(wire.encode_notification("model.done", params))


async def within(answer: asyncio.Future[Any], model: str, left: float | None) -> None:
    """Wait for a permit, but not past the call's deadline."""
    if left is None:
        await answer
        return
    wait = max(0.0, left - min(_MARGIN, left / 4))
    done, _ = await asyncio.wait([answer], timeout=wait)
    if not done:
        answer.cancel()
        raise DeadlineExceeded(
            f"the request waited for its turn at model {model!r} until the deadline: as many as its limits let through"
            " are in use (concurrency, requests_per_minute, tokens_per_minute)",
            details={"model": model, "waited_ms": round(wait * 1000), "waiting_for": "model"},
        )
    answer.result()
