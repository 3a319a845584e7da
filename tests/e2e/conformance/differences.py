"""Where the two servers rightly differ. All else is the same, and the tests hold both to it."""

from __future__ import annotations

from typing import Any, NamedTuple

from e2e.support.servers import Server


class Difference(NamedTuple):
    sidecar: Any
    standalone: Any
    reason: str


DIFFERENCES = {
    "name": Difference("dspex-sidecar", "dspex-worker", "a client may want to know which one it speaks to"),
    "idempotency keys": Difference(
        None,
        "invalid_params",
        'stand-alone mode keeps no answers, and does not pretend to; beside retry: "safe" a key is not needed',
    ),
    "session.export": Difference(
        None, "unknown_method", "stand-alone mode keeps sessions in its own memory, and is for trying things out"
    ),
    "results over the server's own max_frame": Difference(
        "frame_too_large",
        None,
        "a worker's result is received by the sidecar, within its limit; stand-alone mode receives no results",
    ),
}


def expected(server: Server, what: str) -> Any:
    """What this server does."""
    return getattr(DIFFERENCES[what], server.kind)
