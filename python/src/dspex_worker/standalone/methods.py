"""The methods that stand-alone mode itself answers: ``ping``, ``session.*``, ``sidecar.*``."""

# ruff: noqa: ARG002 - each method takes who asks, whether it cares or not

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from dspex import wire
from dspex.errors import Draining, InvalidFrame, InvalidParams, PermissionDenied, UnknownMethod

from dspex_worker import session as sessions
from dspex_worker.app import Method
from dspex_worker.session import Session
from dspex_worker.standalone.table import Record, check_keys, owner_of
from dspex_worker.worker import versions

if TYPE_CHECKING:
    from dspex_worker.standalone.client import Client
    from dspex_worker.standalone.server import Server

_MAX_LABELS = 32
_MAX_LABEL_KEY = 64  # bytes
_MAX_LABEL_VALUE = 256
_MAX_LISTED = 1000
_TEN_YEARS = 10 * 365 * 24 * 3600 * 1000  # milliseconds
_NO_FAILURE = {"last_failure": None, "last_failure_age_ms": None}  # the one worker is this process

UPDATE = "session.update"
RESET = "session.reset"
TURNS = (UPDATE, RESET)  # what takes its turn in the session, as a call does


def turn_methods() -> dict[str, Method]:
    """Return what takes its turn in a session as methods like any others, by name."""
    return {UPDATE: Method(_update, UPDATE, inline=True), RESET: Method(_reset, RESET, inline=True)}


def _update(session: Session, set: dict[str, Any] | None = None, delete: list[str] | None = None) -> dict[str, Any]:
    check_keys(set or ())
    check_keys(delete or ())
    session.state.update(set or {})
    for key in delete or ():
        session.state.pop(key, None)
    copy = sessions.copy_of(session)
    return {"session": session.id, "version": copy.version + (sessions.changes(session) is not None)}


def _reset(session: Session) -> dict[str, Any]:
    for mapping in (session.state, session.reserved, session.secrets):
        mapping.clear()
    return {"session": session.id}


class OwnMethods:
    """Answers requests from the server's state, at once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        functions: dict[str, Callable[..., Any]] = {
            "ping": self._ping,
            "session.create": self._create,
            "session.end": self._end,
            "session.get": self._get,
            "session.list": self._list,
            "sidecar.health": self._health,
            "sidecar.live": lambda _: {"alive": True, "said": "alive", "looked_ms_ago": 0},
            "sidecar.stats": self._stats,
            "sidecar.workers": self._workers,
            "sidecar.pools": self._pools,
            "sidecar.methods": self._methods,
            "sidecar.clients": self._clients,
            "sidecar.calls": self._calls,
        }
        # Who asks is the first argument; the others are the params, by name.
        self._functions = {
            name: (function, Method(functools.partial(function, None), name)) for name, function in functions.items()
        }

    def call(self, client: Client, name: str, meta: dict[str, Any], params: dict[str, Any]) -> Any:
        """Return the result of a method; raise DspexError."""
        if name == "hello":
            raise InvalidFrame("hello is the first request of a connection, and only that")
        if name not in self._functions:
            raise UnknownMethod(f"there is no method {name!r}")
        function, spec = self._functions[name]
        if "stream" in meta:
            raise InvalidParams(f"{name} is not a stream", details={"errors": []})
        who = Who(client, meta)
        return function(who, **spec.bind(params))

    def session_of(self, client: Client, name: str, meta: dict[str, Any], params: dict[str, Any]) -> Record | None:
        """Return the session that a call runs in, or None. Raises DspexError."""
        who = Who(client, meta)
        if name in TURNS:
            who.session = who.named(params.pop("session", None))
        if who.session is None:
            return None
        table = self._server.table
        key = (who.owner, who.session)
        if self._server.settings.auto_create and name not in TURNS and not table.has(key):
            return table.create(key, {}, {})
        return table.find(key)

    def _ping(self, who: Who) -> dict[str, Any]:
        return {}

    def _create(
        self,
        who: Who,
        session: str | None = None,
        state: dict[str, Any] | None = None,
        ttl_ms: int | None = None,
        max_age_ms: int | None = None,
        labels: dict[str, str] | None = None,
        pool: str = "default",
        token: bool = False,
    ) -> dict[str, Any]:
        if self._server.draining:
            raise Draining("the server is ending")
        if session is not None and not wire.is_session_id(session):
            raise _invalid("session", "must have 1 to 128 bytes and no control characters")
        for name, limit in (("ttl_ms", ttl_ms), ("max_age_ms", max_age_ms)):
            if limit is not None and not 1 <= limit <= _TEN_YEARS:
                raise _invalid(name, "must be at least 1 and at most ten years")
        if pool != "default":
            raise _invalid("pool", f"there is no pool {pool!r}")
        _check_labels(labels or {})
        if who.session is not None:
            session = who.named(session)
        id = session or secrets.token_hex(16)
        result = {"session": id}
        owner = who.owner
        if token:
            result["token"] = secrets.token_hex(16)
            owner = owner_of(who.client.uid, result["token"])
        ttl, max_age = (None if limit is None else limit / 1000 for limit in (ttl_ms, max_age_ms))
        self._server.table.create((owner, id), state or {}, labels or {}, ttl, max_age)
        return result

    def _end(self, who: Who, session: str | None = None) -> dict[str, Any]:
        record = self._server.table.find((who.owner, who.named(session)))
        self._server.end_session(record)
        return {"session": record.key[1]}

    def _get(self, who: Who, session: str | None = None) -> dict[str, Any]:
        record = self._server.table.find((who.owner, who.named(session)))
        info = record.info(self._server.worker.id)
        del info["owner"], info["waiting"]
        return info | {"state": record.state(), "version": record.copy.version, "lost": []}

    def _list(
        self,
        who: Who,
        labels: dict[str, str] | None = None,
        limit: int = 100,
        after: str | None = None,
        all: bool = False,  # noqa: A002 - the protocol's name
    ) -> dict[str, Any]:
        if not 1 <= limit <= _MAX_LISTED:
            raise _invalid("limit", f"must be from 1 to {_MAX_LISTED}")
        if all and not who.client.admin:
            raise PermissionDenied("only administrators list the sessions of all")
        wanted = (labels or {}).items()
        found = sorted(
            (record for record in self._server.table if all or record.key[0] == who.owner),
            key=lambda record: record.key,
        )
        if after is not None:
            owner, _, id = after.partition("\0") if all else (who.owner, "", after)
            found = [record for record in found if record.key > (owner, id)]
        found = [record for record in found if wanted <= record.labels.items()]
        result: dict[str, Any] = {"sessions": [record.info(self._server.worker.id) for record in found[:limit]]}
        if len(found) > limit:
            last = found[limit - 1].key
            result["next"] = "\0".join(last) if all else last[1]
        return result

    def _health(self, who: Who, force: bool = False) -> dict[str, Any]:
        worker: dict[str, Any] = {
            "worker": self._server.worker.id,
            "state": self._server.state,
            "leaving": None,
            "last_failure": None,
            **({"answered_us": 0} if force else {}),  # it is the one that answers
        }
        draining = self._server.draining
        return {
            "status": "unhealthy" if draining else "healthy",
            "reasons": ["the server is ending"] if draining else [],
            "ready": not draining,
            "started": True,
            "draining": draining,
            "paused": False,
            "workers": [worker],
            **_NO_FAILURE,
        }

    def _stats(self, who: Who) -> dict[str, Any]:
        server = self._server
        dispatcher = server.dispatcher
        return {
            "active_sessions": len(server.table),
            "pool_size": 1,
            "healthy_workers": 1,
            "total_commands": server.commands,
            "total_errors": server.errors,
            "utilization": dispatcher.running / server.settings.concurrency,
            "queued": server.queued,
            "in_flight": dispatcher.running,
            "uptime_ms": _since(server.since),
            "clients": len(server.clients),
            "version": server.version,
            "worker_restarts": 0,
            "generation": 1,
            "reloads": 0,
            "reload_failures": 0,
            "lm": None,
            **_NO_FAILURE,
        }

    def _workers(self, who: Who) -> dict[str, Any]:
        server = self._server
        worker = {
            "worker": server.worker.id,
            "pool": "default",
            "generation": 1,
            "state": server.state,
            "pid": os.getpid(),
            "in_flight": server.dispatcher.running,
            "slots": server.settings.concurrency,
            "sessions": len(server.table),
            "calls": server.commands,
            "errors": server.errors,
            "age_ms": _since(server.since),
            "overflow": False,
            "place": 1,
            "leaving": None,
            "last_failure": None,
            "versions": versions(),
        }
        return {"workers": [worker]}

    def _pools(self, who: Who) -> dict[str, Any]:
        server = self._server
        pool = {
            "pool": "default",
            "generation": 1,
            "size": 1,
            "max_overflow": 0,
            "workers": 1,
            "ready": 1,
            "queued": server.queued,
            "in_flight": server.dispatcher.running,
            "slots": server.settings.concurrency,
            "restarts": 0,
            "last_failure": None,
        }
        return {"pools": [pool]}

    def _methods(self, who: Who) -> dict[str, Any]:
        return {"methods": [method.describe() for method in self._server.app.methods.values()]}

    def _clients(self, who: Who) -> dict[str, Any]:
        return {
            "clients": [
                {
                    "connection": client.id,
                    "name": client.name,
                    "version": client.version,
                    "uid": client.uid,
                    "pid": client.pid,
                    "in_flight": len(client.calls),
                    "age_ms": _since(client.since),
                    "total_commands": client.commands,
                }
                for client in self._server.clients
                if who.sees(client)
            ]
        }

    def _calls(self, who: Who) -> dict[str, Any]:
        return {
            "calls": [
                {
                    "connection": call.front.client.id,
                    "id": call.id,
                    "method": call.method,
                    "session": None if call.session is None else call.session.id,
                    "worker": None if call.front.state == "queued" else self._server.worker.id,
                    "state": call.front.state,
                    "age_ms": _since(call.front.arrived),
                }
                for call in self._server.dispatcher.calls
                if who.sees(call.front.client)
            ]
        }


class Who:
    """Who asks, and in which session."""

    def __init__(self, client: Client, meta: dict[str, Any]) -> None:
        self.client = client
        self.session: str | None = meta.get("session")
        self.owner = client.owner(meta.get("session_token"))

    def named(self, in_params: str | None) -> str:
        """Return the session that a request is about, from its params or its meta. Raises InvalidParams."""
        if in_params is not None and type(in_params) is not str:
            raise _invalid("session", "must be text")
        if in_params and self.session and in_params != self.session:
            raise _invalid("session", f"is {in_params!r} in params and {self.session!r} in meta")
        if not (named := in_params or self.session):
            raise _invalid("session", "is missing")
        return named

    def sees(self, client: Client) -> bool:
        return self.client.admin or client.uid == self.client.uid


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > _MAX_LABELS:
        raise _invalid("labels", f"must be at most {_MAX_LABELS}")
    for key, value in labels.items():
        if not 1 <= len(key.encode()) <= _MAX_LABEL_KEY or len(value.encode()) > _MAX_LABEL_VALUE:
            problem = f"must have a key of 1 to {_MAX_LABEL_KEY} bytes and a value of at most {_MAX_LABEL_VALUE}"
            raise _invalid(f"labels.{key[:80]}", problem)


def _invalid(path: str, problem: str) -> InvalidParams:
    return InvalidParams(f"{path} {problem}", details={"errors": [{"path": path, "message": problem}]})


def _since(instant: float) -> int:
    return int((monotonic() - instant) * 1000)
