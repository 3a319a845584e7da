"""Objects that an application keeps for a session in its worker: made of a value in the state, packed into it again.

A worker keeps them between calls, in ``session.local``. They are made anew of what was committed last when the session
comes to another worker, and after a call that failed.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dspex import wire

if TYPE_CHECKING:
    from dspex_worker.session import Copy, Overlay

PREFIX = "dspex.object."  # of their keys in the state
MAX_NAME = wire.MAX_STATE_KEY - len(PREFIX)  # bytes
_LOCAL = "dspex.objects"


class SessionObjectError(Exception):
    """An application's ``load`` or ``dump`` failed."""


@dataclass(frozen=True)
class SessionObject:
    """What the application registered: ``load(value)`` makes the object, of None where there is none yet."""

    name: str
    load: Callable[[Any], Any]
    dump: Callable[[Any], Any]

    def __post_init__(self) -> None:
        if not 1 <= len(self.name.encode()) <= MAX_NAME:
            raise ValueError(f"a session object's name has 1 to {MAX_NAME} bytes: {self.name!r} does not")
        for hook in (self.load, self.dump):
            if inspect.iscoroutinefunction(hook):
                raise TypeError(f"session object {self.name!r}: load and dump are plain functions, not {hook!r}")

    def made_for(self, copy: Copy) -> Any:
        """The object of this session; made where this worker has none. Raises SessionObjectError."""
        held: dict[str, Any] = copy.local.setdefault(_LOCAL, {})
        if self.name not in held:
            packed = copy.entries.get(PREFIX + self.name)
            value = None if packed is None else wire.decode_value(packed)
            held[self.name] = self._run("load", copy.id, self.load, value)
        return held[self.name]

    def dumped(self, session_id: str, made: Any) -> Any:
        """What is kept of an object. Raises SessionObjectError."""
        return self._run("dump", session_id, self.dump, made)

    def _run(self, hook: str, session_id: str, function: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return function(argument)
        except Exception as error:
            told = traceback.format_exception_only(error)[-1].strip()
            raise SessionObjectError(
                f"session {session_id!r}: {hook} of its object {self.name!r} failed: {told}"
            ) from error


Kinds = Mapping[str, SessionObject]
NONE: Final[Kinds] = {}


class Objects(Mapping[str, Any]):
    """``session.objects`` of one call."""

    __slots__ = ("_copy", "_kinds", "_overlay", "_used")

    def __init__(self, copy: Copy, overlay: Overlay, kinds: Kinds) -> None:
        self._copy = copy
        self._overlay = overlay
        self._kinds = kinds
        self._used: dict[str, Any] = {}  # what the call asked for

    def __getitem__(self, name: str) -> Any:
        self._overlay.check_open()
        kind = self._kinds.get(name)
        if kind is None:
            raise KeyError(f"no session object {name!r} is registered with app.session_object")
        self._used[name] = kind.made_for(self._copy)
        return self._used[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __repr__(self) -> str:
        return f"<session objects {', '.join(self._kinds)}>"

    def pack(self) -> None:
        """Put what the call asked for into its overlay, as it is now. Raises SessionObjectError."""
        for name, made in self._used.items():
            self._overlay.note(PREFIX + name, self._kinds[name].dumped(self._copy.id, made))


def load_all(copy: Copy, kinds: Kinds) -> None:
    """Make the objects that a restored state has values of. One that fails is left for the call that asks for it."""
    for name, kind in kinds.items():
        if PREFIX + name in copy.entries:
            try:
                kind.made_for(copy)
            except SessionObjectError:
                continue
