"""The worker as hooks and the DSPy application see it."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex_worker.offered import Offered
    from dspex_worker.permits import Permits

CHANNEL_BROKEN = SOCKET_FAILED = 1  # exit codes: the other side sent what is not the protocol; no socket to listen on
LOAD_FAILED = 3  # the application cannot be loaded


@dataclass
class Worker:
    """One process that serves an application.

    Attributes:
        id: the worker's name (``worker_123``).
        pool: the name of its pool.
        generation: the number of the pool's generation.
        concurrency: how many calls it runs at once.
        models: settings of the configured models by name: ``model``, ``api_key``, ``api_base``, ``adapter``, …
        dspy: what the operator permits DSPy programs, and settings of the configured programs by name.
        embedders: settings of the configured embedders by name, likewise.
        history: bytes of each session's last LM exchanges that are kept for ``inspect_history``; 0: none.
        permits: lets requests to models through that have limits; None: there is nobody to ask.
        shared: programs that administrators made available to all, by name; the sidecar keeps them.
        datasets: those that administrators made available to all; None: there is nobody to ask.
        tracebacks: whether errors of the application carry their tracebacks.
    """

    id: str
    pool: str = "default"
    generation: int = 1
    concurrency: int = 64
    models: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    dspy: dict[str, Any] = field(default_factory=dict)
    tracebacks: bool = False
    embedders: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    history: int = 0
    permits: Permits | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False)
    datasets: Offered | None = None


def versions() -> dict[str, str]:
    """Return ``name``, ``version``, ``python`` and, where it is installed, ``dspy``."""
    found = {"name": "dspex-worker", "version": version_of("dspex-worker") or "0", "python": platform.python_version()}
    if (dspy := version_of("dspy")) is not None:
        found["dspy"] = dspy
    return found


def version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
