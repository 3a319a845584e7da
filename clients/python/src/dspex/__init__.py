"""Client of dspex-sidecar: calls to warm Python workers, and DSPy programs, over a Unix socket.

    with dspex.connect() as client:
        print(client.call("echo", {"value": 1}))

`Client` is for threads and `AsyncClient` for asyncio; both are the same in all else. Errors are in `dspex.errors`, the
protocol without sockets in `dspex.wire`.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from ._async.adapter import AsyncAdapter
from ._async.answering import AsyncAsked
from ._async.caller import AsyncCaller
from ._async.client import AsyncClient
from ._async.program import AsyncProgram
from ._async.session import AsyncSession
from ._async.stream import AsyncStream
from ._sync.adapter import Adapter
from ._sync.answering import Asked
from ._sync.caller import Caller
from ._sync.client import Client
from ._sync.program import Program
from ._sync.session import Session
from ._sync.stream import Stream
from .cancel import CancelToken
from .core import Reply
from .errors import DspexError
from .outputs import Outputs

__all__ = [
    "Adapter",
    "Asked",
    "AsyncAdapter",
    "AsyncAsked",
    "AsyncCaller",
    "AsyncClient",
    "AsyncProgram",
    "AsyncSession",
    "AsyncStream",
    "Caller",
    "CancelToken",
    "Client",
    "DspexError",
    "Outputs",
    "Program",
    "Reply",
    "Session",
    "Stream",
    "connect",
    "get_adapter",
]


def connect(path: str | os.PathLike[str] | None = None, *, wait: float = 0.0, **options: Any) -> Client:
    """A connected `Client`. `options` are its arguments; `wait`: seconds to wait for a sidecar that is not there yet.

    Raises ConnectionLost where there is none.
    """
    return Client(path, wait=wait, **options).connect()


def get_adapter(kind: Literal["python_pool", "python_bridge"], **options: Any) -> Adapter:
    """The calls of a single bridge, on a sidecar's pool or on a stand-alone worker. `options` are `Adapter`'s."""
    return Adapter(kind, **options)
