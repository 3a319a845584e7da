"""The copies of sessions that a pool worker holds, and the frames that keep them and the sidecar's state the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dspex import wire
from dspex.errors import DspexError, FrameTooLarge, InvalidParams

from dspex_worker.session import SECRET, Changes, Copy

_FRAME_OVERHEAD = 64  # bytes of a change frame beside its entries
_ENTRY_OVERHEAD = 8  # bytes of an entry beside key and value


@dataclass
class _Restore:
    version: int
    next_part: int
    entries: dict[str, bytes] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


class Copies:
    """Copies by the session's key; at most one version of each."""

    def __init__(self) -> None:
        self._held: dict[int, Copy] = {}
        self._restores: dict[int, _Restore] = {}

    def find(self, key: int, id: str, version: int) -> Copy:
        """Return the copy of exactly this version; raise ``stale_session``. Version 0 is the empty state."""
        copy = self._held.get(key)
        if copy is None and version == 0:
            copy = self._held[key] = Copy(key, id)
        if copy is None or copy.version != version:
            held = "none" if copy is None else str(copy.version)
            raise stale(f"session {id!r} is wanted in version {version}; held: {held}")
        return copy

    def restore(self, params: dict[str, Any]) -> Copy | None:
        """Take one part of a state; it is in force with the last part, which returns it. Raises DspexError."""
        try:
            key, id, version = params["key"], params["session"], params["version"]
            part, parts = params.get("part", 1), params.get("parts", 1)
            # What stands for a secret among what may be shown came with an import: it is none.
            shown = {name: value for name, value in params["state"].items() if not name.startswith(SECRET)}
            state, gone = {**shown, **params.get("secrets", {})}, params.get("delete", ())
            lost = params.get("lost", ())
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidParams(f"session.restore: {error}") from None
        if part == 1:
            self._restores[key] = self._begin(key, id, version, params.get("base"))
        restore = self._restores.get(key)
        if restore is None or restore.version != version or restore.next_part != part:
            self._restores.pop(key, None)
            raise InvalidParams(f"session.restore: part {part} of version {version} is out of order")
        for name in gone:
            restore.entries.pop(name, None)
            restore.lost.discard(name)
        for name, value in state.items():
            restore.entries[name] = wire.pack_value(value)
            restore.lost.discard(name)
        restore.lost.update(lost)
        restore.next_part += 1
        if part != parts:
            return None
        del self._restores[key]
        copy = self._held[key] = Copy(key, id, version, restore.entries, restore.lost)
        return copy

    def drop(self, keys: list[int]) -> list[Copy]:
        """Forget sessions; returns the copies that were held."""
        for key in keys:
            self._restores.pop(key, None)
        return [copy for key in keys if (copy := self._held.pop(key, None)) is not None]

    def _begin(self, key: int, id: str, version: int, base: int | None) -> _Restore:
        if base is None:
            return _Restore(version, 1)
        held = self.find(key, id, base)
        return _Restore(version, 1, dict(held.entries), set(held.lost))


def stale(message: str) -> DspexError:
    """Return the error that asks the sidecar for a restore; it is known on the worker channel only."""
    return DspexError(message, code="stale_session", retryable=True)


def change_frames(id: int, changes: Changes, limit: int) -> list[bytes]:
    """Return the frames that say what call ``id`` changed, none with a body longer than ``limit`` bytes.

    Raises FrameTooLarge where a single value is too long for a frame.
    """
    room = limit - _FRAME_OVERHEAD
    frames: list[bytes] = []
    part, size = Changes({}, [], {}), 0
    entries = [
        (part_of, key, value) for part_of in ("set", "secrets") for key, value in getattr(changes, part_of).items()
    ]
    for part_of, key, value in [*entries, *(("delete", key, b"") for key in changes.delete)]:
        cost = len(key.encode()) + len(value) + _ENTRY_OVERHEAD
        if cost > room:
            raise FrameTooLarge(
                f"the session's value of {key!r} is too long for a frame",
                details={"limit": limit, "length": cost},
            )
        if size + cost > room:
            frames.append(wire.encode_change(id, part.set, part.delete, part.secrets))
            part, size = Changes({}, [], {}), 0
        if part_of == "delete":
            part.delete.append(key)
        else:
            getattr(part, part_of)[key] = value
        size += cost
    frames.append(wire.encode_change(id, part.set, part.delete, part.secrets))
    return frames
