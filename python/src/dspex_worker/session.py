"""A session as a worker sees it: the copy of its state, and what one call reads and changes of it.

A copy keeps each value packed. A call decodes what it reads, so calls never share objects, and what a failed call did
to them is gone with it; what a call read is packed again at its end and compared, so changes in place count too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from dspex import wire

from dspex_worker.objects import NONE, PREFIX, Kinds, Objects

RESERVED = "dspex."  # keys that only the DSPy application writes
SECRET = "dspex.secret."  # keys of ``Session.secrets``: a restore brings all keys in one map, so the name must tell


@dataclass(slots=True)
class Changes:
    """What a call changed: packed values by key. ``secrets`` are never shown, exported or logged."""

    set: dict[str, bytes]
    delete: list[str]
    secrets: dict[str, bytes] = field(repr=False)


class Copy:
    """What this process holds of a session between calls."""

    __slots__ = ("entries", "history", "id", "key", "loading", "local", "lost", "version")

    def __init__(
        self, key: int, id: str, version: int = 0, entries: dict[str, bytes] | None = None, lost: set[str] | None = None
    ) -> None:
        self.key = key
        self.id = id
        self.version = version
        self.entries: dict[str, bytes] = {} if entries is None else entries
        self.lost: set[str] = lost or set()  # keys of secrets that went with a restart of the sidecar
        self.local: dict[str, Any] = {}
        self.history: Any = None  # the DSPy application's, which keeps it when a call fails
        self.loading: asyncio.Future[None] | None = None  # while its objects are made, after a restore

    def commit(self, changes: Changes, version: int) -> None:
        """Take over a call's changes."""
        self.entries.update(changes.set)
        self.entries.update(changes.secrets)
        for key in changes.delete:
            self.entries.pop(key, None)
        self.lost.difference_update(changes.secrets, changes.delete)
        self.version = version


class Session:
    """A session inside one call. Its mappings can be used during the call only.

    ``state`` holds the application's own keys; ``reserved`` and ``secrets`` are the DSPy application's. ``objects`` has
    what the application registered with ``app.session_object``, by name. ``local`` is not state: objects kept beside
    this worker's copy, dropped with it, on a restore, and when a call on it failed.
    """

    __slots__ = ("_copy", "_kinds", "_objects", "_overlay", "_reserved", "_secrets", "_state", "_updater")

    def __init__(self, copy: Copy, read_only: bool = False) -> None:
        self._copy = copy
        self._overlay = Overlay(copy, read_only)
        self._updater: Updater | None = None
        self._kinds = NONE
        # Made when they are asked for: most calls use one of them.
        self._objects: Objects | None = None
        self._state: _View | None = None
        self._reserved: _View | None = None
        self._secrets: _View | None = None

    def __repr__(self) -> str:
        return f"<Session {self.id!r}>"

    @property
    def id(self) -> str:
        """The session's name, as the client knows it."""
        return self._copy.id

    @property
    def state(self) -> MutableMapping[str, Any]:
        """The application's own keys."""
        if self._state is None:
            self._state = _View(self._overlay, "", RESERVED)
        return self._state

    @property
    def reserved(self) -> MutableMapping[str, Any]:
        """Keys that the DSPy application alone writes."""
        if self._reserved is None:
            self._reserved = _View(self._overlay, RESERVED, SECRET)
        return self._reserved

    @property
    def secrets(self) -> MutableMapping[str, Any]:
        """What is never shown, exported or logged."""
        if self._secrets is None:
            self._secrets = _View(self._overlay, SECRET, None)
        return self._secrets

    @property
    def objects(self) -> Objects:
        """What the application registered with ``app.session_object``, by name."""
        if self._objects is None:
            self._objects = Objects(self._copy, self._overlay, self._kinds)
        return self._objects

    @property
    def local(self) -> dict[str, Any]:
        """Objects kept with this worker's copy of the session (built programs, say); not state."""
        return self._copy.local

    @property
    def lost_secrets(self) -> list[str]:
        """Names of secrets that there were, until the sidecar was started again; setting or forgetting one mends it."""
        return self._overlay.lost()

    def forget_secret(self, name: str) -> None:
        """Delete a secret, one that was lost too; nothing where there is none."""
        self._overlay.forget(SECRET + name)

    async def update(self, set: dict[str, Any] | None = None, delete: list[str] | None = None) -> None:
        """Change the session from a background task, in a turn of its own; also after the call has ended.

        Inside a call write to ``state`` instead: this would wait for the call itself.
        """
        if self._updater is None:
            raise RuntimeError("this session cannot be updated in the background")
        await self._updater(self._copy, set or {}, delete or [])


Updater = Callable[[Copy, dict[str, Any], list[str]], Awaitable[None]]


def changes(session: Session) -> Changes | None:
    """Return what the call changed so far, packed, or None.

    Raises DspexError ``not_serializable``, SessionObjectError.
    """
    if session._objects is not None and not session._overlay.read_only:
        session._objects.pack()
    return session._overlay.changes()


def holds(session: Session, key: str) -> bool:
    """Whether the last commit had a reserved key. For a call whose turn has not come, too: nothing is read into it."""
    return RESERVED + key in session._copy.entries


def thaw(session: Session) -> None:
    """Let a read-only method's call write: its session's start hooks, or all of it."""
    session._overlay.read_only = False


def freeze(session: Session) -> None:
    """Let a read-only method read on, after its session's start hooks have written."""
    if session._objects is not None:
        session._objects.pack()
    session._overlay.freeze()


def close(session: Session) -> None:
    """End a call's use of its session: whatever touches its mappings afterwards is refused."""
    session._overlay.open = False


def copy_of(session: Session) -> Copy:
    """Return the copy that the session's call works over."""
    return session._copy


def register(session: Session, kinds: Kinds) -> None:
    """Say which objects the application keeps for each session."""
    session._kinds = kinds


def attach(session: Session, updater: Updater) -> None:
    """Say how ``session.update`` reaches the owner of the state."""
    session._updater = updater


class Overlay:
    """One call's reads and writes over the packed entries of a copy, which it never changes itself."""

    __slots__ = ("_entries", "_frozen", "_lost", "_removed", "_values", "open", "read_only")

    def __init__(self, copy: Copy, read_only: bool) -> None:
        self._entries = copy.entries
        self._lost = copy.lost
        self.read_only = read_only
        self._values: dict[str, Any] = {}  # what the call read or wrote
        self._removed: set[str] = set()
        self._frozen: Changes | None = None  # what was changed before the overlay became read-only
        self.open = True

    def get(self, key: str) -> Any:
        self.check_open()
        if key in self._values:
            return self._values[key]
        if key in self._removed:
            raise KeyError(key)
        value = self._values[key] = wire.decode_value(self._entries[key])
        return value

    def put(self, key: str, value: Any) -> None:
        self._check_writable()
        self.note(key, value)

    def note(self, key: str, value: Any) -> None:
        """Take what an object was packed into."""
        self._removed.discard(key)
        self._values[key] = value

    def remove(self, key: str) -> None:
        self._check_writable()
        if not self.has(key):
            raise KeyError(key)
        self._values.pop(key, None)
        self._removed.add(key)

    def forget(self, key: str) -> None:
        self._check_writable()
        self._values.pop(key, None)
        self._removed.add(key)

    def lost(self) -> list[str]:
        gone = self._lost.difference(self._values, self._removed)
        return [key.removeprefix(SECRET) for key in gone]

    def has(self, key: str) -> bool:
        return key in self._values or (key in self._entries and key not in self._removed)

    def present(self) -> list[str]:
        self.check_open()
        kept = [key for key in self._entries if key not in self._removed]
        return kept + [key for key in self._values if key not in self._entries]

    def freeze(self) -> None:
        self._frozen = self.changes()
        self.read_only = True

    def changes(self) -> Changes | None:
        if not self._values and not self._removed:
            return None
        gone = [key for key in self._removed if key in self._entries or key in self._lost]
        found = Changes({}, gone, {})
        for key, value in self._values.items():
            secret = key.startswith(SECRET)
            packed = wire.pack_value(value, _place(key))
            if packed != self._entries.get(key):
                (found.secrets if secret else found.set)[key] = packed
        if not (found.set or found.delete or found.secrets):
            return None
        if self.read_only and found != self._frozen:
            key = next(iter([*found.set, *found.delete, *found.secrets]))
            raise RuntimeError(f"a read-only method changed the value of {key!r} in the session's state in place")
        return found

    def check_open(self) -> None:
        if not self.open:
            raise RuntimeError(
                "a session's state can be used during its call only; background tasks change it with session.update()"
            )

    def _check_writable(self) -> None:
        self.check_open()
        if self.read_only:
            raise RuntimeError("this method is declared read_only: it cannot write to the session")


def _place(key: str) -> str:
    """What a value is called in an error."""
    if key.startswith(SECRET):
        return "session secret"
    if key.startswith(PREFIX):
        return f"session.objects[{key.removeprefix(PREFIX)!r}]"
    return f"session.state[{key!r}]"


class _View(MutableMapping[str, Any]):
    """The keys of an overlay with one prefix, without those of a longer prefix that is not to be seen here."""

    __slots__ = ("_hidden", "_overlay", "_prefix")

    def __init__(self, overlay: Overlay, prefix: str, hidden: str | None) -> None:
        self._overlay = overlay
        self._prefix = prefix
        self._hidden = hidden

    def __getitem__(self, key: str) -> Any:
        full = self._seen(key)
        try:
            return self._overlay.get(full)
        except KeyError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        full = self._prefix + key
        if not 1 <= len(full.encode()) <= wire.MAX_STATE_KEY:
            raise ValueError(f"a state key has 1 to {wire.MAX_STATE_KEY} bytes: {key[:80]!r} does not")
        if not self._shows(full):
            raise ValueError(f"state keys that begin with {self._hidden!r} are reserved: {key!r}")
        self._overlay.put(full, value)

    def __delitem__(self, key: str) -> None:
        full = self._seen(key)
        try:
            self._overlay.remove(full)
        except KeyError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._shows(self._prefix + key) and self._overlay.has(self._prefix + key)

    def __iter__(self) -> Iterator[str]:
        start = len(self._prefix)
        return iter([key[start:] for key in self._overlay.present() if self._shows(key)])

    def __len__(self) -> int:
        return sum(1 for key in self._overlay.present() if self._shows(key))

    def __repr__(self) -> str:
        return f"<state of {len(self)} keys>"  # never values: they may be secret, and repr would read them all

    def _seen(self, key: str) -> str:
        full = self._prefix + key
        if not self._shows(full):
            raise KeyError(key)
        return full

    def _shows(self, full: str) -> bool:
        return full.startswith(self._prefix) and not (self._hidden is not None and full.startswith(self._hidden))
