# Written by unasync.py from _async/adapter.py: change that.
"""The calls of a single Python bridge, on a pool: for code that is to move without being written anew."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final, Literal, Self

from dspex.bridge import Bridge
from dspex.errors import ConnectionLost, DspexError, SessionExists, SessionNotFound
from dspex.outputs import Outputs

from .client import Client
from .runtime import run_blocking, sleep
from .session import Session

_LISTEN: Final = 5.0  # seconds between the making of a socket and the listening on it, at most
_LOOK: Final = 0.01  # seconds between looks whether a worker listens, and whether calls are in flight


class Adapter:
    """Sessions and programs by their ids alone. `get_adapter` makes one.

    A session that is named is made when it is first used. Where none is named, the adapter has one of its own, which
    ends with it. All methods raise DspexError.

    Args:
        kind: "python_pool": a sidecar; "python_bridge": a stand-alone worker, which ends with this process.
        socket: the sidecar's, as `Client` takes it; or that of a stand-alone worker that runs already.
        app: what a stand-alone worker serves (`module:attribute`); None: the DSPy application alone.
        config: its dspex.toml.
        python: its interpreter; None: this one.
        timeout: seconds for each call that names no other.
    """

    def __init__(
        self,
        kind: Literal["python_pool", "python_bridge"],
        *,
        socket: str | os.PathLike[str] | None = None,
        app: str | None = None,
        config: str | None = None,
        python: str | None = None,
        timeout: float | None = None,
    ) -> None:
        if kind not in ("python_pool", "python_bridge"):
            raise ValueError(f"there is no adapter {kind!r}; there are python_pool and python_bridge")
        starts = kind == "python_bridge" and socket is None
        if not starts and (app, config, python) != (None, None, None):
            raise ValueError("app, config and python are for a python_bridge that the adapter starts")
        self._bridge = Bridge(app, config, python) if starts else None
        path = self._bridge.path if self._bridge is not None else socket
        self.client = Client(path, timeout=timeout, wait=_LISTEN if starts else 0.0)
        self._own = f"adapter-{secrets.token_hex(8)}"
        self._known: set[str] = set()  # sessions that are there, as far as is known
        self._running: set[object] = set()  # one for each call in flight

    def create_session(self, id: str | None = None, state: Mapping[str, Any] | None = None) -> str:
        """Make a session that begins with this state; returns its id. Raises SessionExists."""
        with self._noted():
            session = self.client.create_session(id, state=state)
        self._known.add(session.id)
        return session.id

    def execute_in_session(
        self,
        session_id: str | None,
        command: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Call a method in a session."""
        with self._noted(session_id):
            return (self._session(session_id)).call(command, args, timeout=timeout)

    def create_program(self, config: Mapping[str, Any], session_id: str | None = None) -> str:
        """Make a DSPy program; returns its id. `config` has the parameters of `create_program`: `signature`, `id`, …"""
        with self._noted(session_id):
            made = (self._session(session_id)).call("create_program", config)
        id: str = made["program"]
        return id

    def execute_program(
        self,
        id: str,
        inputs: Mapping[str, Any],
        session_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> Outputs:
        """Run a program of the session's, or one that is there for all; returns its outputs."""
        with self._noted(session_id):
            return (self._session(session_id)).program(id).run(inputs, timeout=timeout)

    def get_session_state(self, session_id: str | None = None) -> dict[str, Any]:
        """The state as of the last commit."""
        with self._noted(session_id):
            return (self._session(session_id)).state()

    def end_session(self, session_id: str | None = None) -> None:
        """End a session. Nothing where it has ended."""
        id = self._own if session_id is None else session_id
        with self._noted():
            self.client.session(id).end()
        self._known.discard(id)

    def health_check(self) -> dict[str, Any]:
        """`status` (healthy, degraded, unhealthy), `reasons`, `workers`."""
        with self._noted():
            health: dict[str, Any] = self.client.call("sidecar.health")
        return health

    def get_stats(self) -> dict[str, Any]:
        """Counts: `active_sessions`, `pool_size`, `healthy_workers`, `total_commands`, `total_errors` and more."""
        with self._noted():
            stats: dict[str, Any] = self.client.call("sidecar.stats")
        return stats

    def shutdown(self, timeout_ms: float = 30_000) -> None:
        """Wait for the calls in flight, for so long at most, and close. A sidecar goes on; a bridge ends."""
        until = monotonic() + timeout_ms / 1000
        while self._running and monotonic() < until:
            sleep(_LOOK)
        with suppress(DspexError):
            if self._own in self._known:
                self.client.session(self._own).call("session.end", timeout=max(0.1, until - monotonic()))
        self._known.clear()
        self.client.close()
        if self._bridge is not None:
            run_blocking(self._bridge.stop, max(0.0, until - monotonic()))
            self._bridge = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    @contextmanager
    def _noted(self, session_id: str | None = None) -> Iterator[None]:
        """A call is in flight, perhaps in this session."""
        while self._bridge is not None and self._bridge.starts():
            sleep(_LOOK)
        mark = object()
        self._running.add(mark)
        try:
            yield
        except SessionNotFound:
            # It has expired: its next use makes it anew.
            self._known.discard(self._own if session_id is None else session_id)
            raise
        except ConnectionLost as error:
            code = self._bridge.exit_code if self._bridge is not None else None
            if code is None:
                raise
            raise ConnectionLost(f"the stand-alone worker has ended with exit code {code}; see its output") from error
        finally:
            self._running.discard(mark)

    def _session(self, id: str | None) -> Session:
        id = self._own if id is None else id
        if id not in self._known:
            with suppress(SessionExists):
                self.client.create_session(id)
            self._known.add(id)
        return self.client.session(id)
