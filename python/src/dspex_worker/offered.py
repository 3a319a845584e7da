"""Datasets that administrators made available to all: who keeps them has them by name, and does not read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from dspex_worker.peer import Peer

Dataset = list[Any]  # what is told of it, and its rows


class Offered(Protocol):
    """Who has them. On the loop's thread."""

    async def listed(self) -> dict[str, Any]:
        """What is told of each, by name."""

    async def get(self, name: str) -> Dataset | None:
        """One of them; None where there is none of that name."""


class OfferedBySidecar:
    """Asks the sidecar."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def listed(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self._peer.request("dataset.list", None, {}))["datasets"]
        return found

    async def get(self, name: str) -> Dataset | None:
        found: Dataset | None = (await self._peer.request("dataset.fetch", None, {"name": name}))["dataset"]
        return found


class OfferedHere:
    """Those of stand-alone mode, which end with the process."""

    def __init__(self) -> None:
        self.values: dict[str, Dataset] = {}

    async def listed(self) -> dict[str, Any]:
        return {name: value[0] for name, value in self.values.items()}

    async def get(self, name: str) -> Dataset | None:
        return self.values.get(name)
