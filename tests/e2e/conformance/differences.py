"""Where the two servers rightly differ, and the two clients. All else is the same, and the tests hold all to it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from e2e.support.node_client import NodeClient
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
    "stop_report_ms of hello": Difference(
        50, None, "stand-alone mode answers at once, and kills nobody: there is no other process that could"
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


def as_read(client: Any, value: Any) -> Any:
    """A value as a test gets it back. The one difference between clients: an instant in Node is a `Date`, of
    milliseconds (docs/clients/node.md, "Values")."""
    if not isinstance(client, NodeClient):
        return value
    if isinstance(value, datetime):
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return [as_read(client, item) for item in value] if isinstance(value, list) else value
