"""After a fork the child shares its parent's connections: it must leave them alone and make its own."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    def forget_connections(self) -> None:
        """Let go of every connection and lock, without a word to the other side and without waiting for anything."""


_clients: WeakSet[Forked] = WeakSet()


def watch(client: Forked) -> None:
    """Have `client.forget_connections()` called in each forked child that inherits it."""
    _clients.add(client)


def _after_in_child() -> None:
    for client in list(_clients):
        client.forget_connections()


os.register_at_fork(after_in_child=_after_in_child)
