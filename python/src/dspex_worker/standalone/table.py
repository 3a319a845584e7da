"""Sessions of stand-alone mode: found by owner and id, their turns, their end."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from dspex import wire
from dspex.errors import InvalidParams, SessionExists, SessionLimit, SessionNotFound

from dspex_worker.calls import Call
from dspex_worker.session import RESERVED, Changes, Copy

Key = tuple[str, str]  # owner, id


def owner_of(uid: int, token: str | None) -> str:
    """Return the owner: the holder of the token, by its hash, where there is one, else the uid."""
    if token:
        return "token:" + hashlib.sha256(token.encode()).hexdigest()[:32]
    return f"uid:{uid}"


class Turns:
    """Lets calls of one session run one at a time, in order; those that only read, beside each other."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Any, Callable[[Any], bool], Callable[[Any], None]]] = deque()
        self._running: dict[Any, bool] = {}  # whether it has the session for itself
        self._advancing = False

    def enter(self, call: Any, exclusive: Callable[[Any], bool], go: Callable[[Any], None]) -> None:
        """Queue a call, or whatever else takes a turn; ``go(call)`` when it has come.

        ``exclusive(call)`` says, when it is the next, whether it has the session for itself.
        """
        self._waiting.append((call, exclusive, go))
        self._advance()

    def leave(self, call: Any) -> None:
        """End a call's turn, or its wait for one."""
        if call in self._running:
            del self._running[call]
        else:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not call)
        self._advance()

    @property
    def calls(self) -> list[Call]:
        entries = [*self._running, *(call for call, _, _ in self._waiting)]
        return [call for call in entries if isinstance(call, Call)]

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _advance(self) -> None:
        if self._advancing:  # an inline call begins and ends within its go()
            return
        self._advancing = True
        try:
            while self._waiting:
                call, exclusive, go = self._waiting[0]
                alone = exclusive(call)
                if self._running and (alone or any(self._running.values())):
                    return
                self._waiting.popleft()
                self._running[call] = alone
                go(call)
        finally:
            self._advancing = False


class Record:
    """One session."""

    def __init__(self, key: Key, number: int, ttl: float, max_age: float, labels: dict[str, str]) -> None:
        self.key = key
        self.ttl = ttl  # seconds
        self.max_age = max_age  # seconds; 0: any
        self.labels = labels
        self.copy = Copy(number, key[1])
        self.turns = Turns()
        self.created = self.used = time.monotonic()
        self.started = False  # a call in which the start hooks ran has committed
        self.ended = False
        self.bytes = 0
        self.calls = 0  # so far

    def commit(self, changes: Changes, limit: int) -> None:
        """Take over a call's changes; raises SessionLimit where the state would be too large."""
        before = self.copy.entries
        size = self.bytes
        for key, value in [*changes.set.items(), *changes.secrets.items()]:
            size += len(value) - len(before[key]) if key in before else len(key) + len(value)
        size -= sum(len(key) + len(before[key]) for key in changes.delete)
        if size > limit:
            raise SessionLimit(
                f"the state of session {self.key[1]!r} would have {size} bytes, the limit is {limit}",
                details={"limit": limit},
            )
        self.copy.commit(changes, self.copy.version + 1)
        self.bytes = size

    def state(self) -> dict[str, Any]:
        """Return the state as clients see it."""
        entries = self.copy.entries.items()
        return {key: wire.decode_value(value) for key, value in entries if not key.startswith(RESERVED)}

    def info(self, worker: str) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "session": self.key[1],
            "owner": self.key[0],
            "worker": worker,
            "labels": self.labels,
            "bytes": self.bytes,
            "age_ms": int((now - self.created) * 1000),
            "idle_ms": 0 if self.turns.calls else int((now - self.used) * 1000),
            "ttl_ms": int(self.ttl * 1000),
            "max_age_ms": int(self.max_age * 1000) or None,
            "calls": self.calls,
            "waiting": self.turns.waiting,
            "spent": None,  # nothing is counted here, and nothing fails to be restored
            "lm": None,
            "failed": None,
        }

    def is_due(self, now: float) -> bool:
        """Whether it has expired: a session that calls are in does not."""
        old = self.max_age and now - self.created > self.max_age
        return not self.turns.calls and bool(old or now - self.used > self.ttl)


class Table:
    """All sessions of the process."""

    def __init__(self, *, ttl: float, max_age: float, limit: int, max_state: int) -> None:
        self._ttl = ttl
        self._max_age = max_age
        self._limit = limit
        self._max_state = max_state
        self._records: dict[Key, Record] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def create(
        self,
        key: Key,
        state: dict[str, Any],
        labels: dict[str, str],
        ttl: float | None = None,
        max_age: float | None = None,
    ) -> Record:
        """Make a session. Raises SessionExists, SessionLimit or InvalidParams."""
        if key in self._records:
            raise SessionExists(f"the session {key[1]!r} exists")
        if len(self._records) >= self._limit:
            raise SessionLimit(f"there are {len(self._records)} sessions already", details={"limit": self._limit})
        check_keys(state)
        record = Record(key, next(self._numbers), ttl or self._ttl, max_age or self._max_age, labels)
        if state:
            packed = {name: wire.pack_value(value, f"state[{name!r}]") for name, value in state.items()}
            record.commit(Changes(packed, [], {}), self._max_state)
        self._records[key] = record
        return record

    def has(self, key: Key) -> bool:
        return key in self._records

    def find(self, key: Key) -> Record:
        """Return a session; raise SessionNotFound for one that is not there, or not the caller's."""
        record = self._records.get(key)
        if record is None:
            raise not_found(key[1])
        return record

    def remove(self, record: Record) -> None:
        record.ended = True
        self._records.pop(record.key, None)

    def due(self) -> list[Record]:
        """Return the sessions that have expired."""
        now = time.monotonic()
        return [record for record in self._records.values() if record.is_due(now)]


def not_found(id: str) -> SessionNotFound:
    return SessionNotFound(f"there is no session {id!r}")


def check_keys(keys: Any) -> None:
    """Raise InvalidParams for state keys that a client may not write."""
    for key in keys:
        if not 1 <= len(key.encode()) <= wire.MAX_STATE_KEY:
            problem = f"a state key has 1 to {wire.MAX_STATE_KEY} bytes"
        elif key.startswith(RESERVED):
            problem = f"state keys that begin with {RESERVED!r} are reserved"
        else:
            continue
        raise InvalidParams(f"{problem}: {key[:80]!r}", details={"errors": [{"path": key[:80], "message": problem}]})
