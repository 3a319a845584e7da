"""The programs of one session: their records in its state, earlier versions beside them, and the modules built."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any, Final

from dspex.errors import DspexError

from dspex_worker.dspy_app.errors import invalid_param, program_not_found
from dspex_worker.dspy_app.memory import Conversation
from dspex_worker.dspy_app.modules import demos_state
from dspex_worker.dspy_app.programs import Builder, Program
from dspex_worker.dspy_app.records import Record, unusable
from dspex_worker.session import Session

MAX_VERSIONS: Final = 10  # of one program, that in use included

_RECORD: Final = "program."  # prefix of a record's key in the session's reserved state
_EARLIER: Final = "version."  # prefix of earlier ones', before number and id
_LOCAL: Final = "dspex.programs"  # built programs in ``session.local``: id -> (stamp, Program)


class SessionPrograms:
    """The programs of one session, inside one call of it."""

    def __init__(self, session: Session, builder: Builder) -> None:
        self._session = session
        self._reserved: MutableMapping[str, Any] = session.reserved
        self._built: dict[str, tuple[str, Program]] = session.local.setdefault(_LOCAL, {})
        self._builder = builder

    def __contains__(self, id: str) -> bool:
        return _RECORD + id in self._reserved

    def ids(self) -> list[str]:
        """In the order of their names."""
        return sorted(key.removeprefix(_RECORD) for key in self._reserved if key.startswith(_RECORD))

    def listed(self) -> list[dict[str, Any]]:
        """What is told of each, by what was given when it was made: none is built for that, or needs to be."""
        return [{"program": id, "scope": "session"} | told(id, self._reserved[_RECORD + id]) for id in self.ids()]

    def get(self, id: str) -> Program:
        """The program, built from its record where this worker has not built it yet.

        Raises:
            DspexError: ``program_not_found``; ``invalid_params`` where the record cannot be used: it names what this
                application no longer has, say, or came with an import.
        """
        if id not in self:
            raise program_not_found(id)
        value = self._reserved[_RECORD + id]
        if id in self._built and isinstance(value, Mapping) and value.get("stamp") == self._built[id][0]:
            return self._built[id][1]
        record = Record.read(id, value)
        try:
            program = self.build(id, record)
        except DspexError as error:
            raise unusable(id, error.message) from None
        self._built[id] = (record.stamp, program)
        return program

    def build(self, id: str, record: Record) -> Program:
        """One that is not kept. Raises DspexError ``invalid_signature``, ``invalid_params``."""
        return self._builder.build(id, record, "session")

    def put(self, id: str, record: Record, demos: list[dict[str, Any]] | None = None) -> Program:
        """Build a program and keep its record; what was of the same id becomes an earlier version.

        Raises:
            DspexError: ``invalid_signature``, ``invalid_params``.
        """
        record = replace(record, version=max(self._numbers(id), default=0) + 1)
        program = self.build(id, record)
        if demos:
            record = replace(record, state=demos_state(program.for_call(), demos))
            program = self.build(id, record)
        self._take(id, record, program)
        return program

    def versions(self, id: str) -> list[dict[str, Any]]:
        """All that are kept, the last first. Raises DspexError ``program_not_found``, ``invalid_params``."""
        current = self.record(id)
        records = [current, *(self.record(id, number) for number in self._earlier(id))]
        listed = [record.told() | {"current": record is current} for record in records]
        return sorted(listed, key=lambda one: -int(one["version"]))

    def record(self, id: str, version: int | None = None) -> Record:
        """That of one version; the one in use unless told otherwise.

        Raises:
            DspexError: ``program_not_found``; ``invalid_params``: there is no such version, or it cannot be used.
        """
        if id not in self:
            raise program_not_found(id)
        current = Record.read(id, self._reserved[_RECORD + id])
        if version is None or version == current.version:
            return current
        value = self._reserved.get(f"{_EARLIER}{version}.{id}")
        if value is None:
            kept = ", ".join(map(str, sorted(self._numbers(id))))
            raise invalid_param("version", f"there is no version {version} of {id[:200]!r}; versions are: {kept}")
        return Record.read(id, value)

    def use(self, id: str, version: int) -> Program:
        """Go on with another version. Raises DspexError as ``record`` does."""
        record = self.record(id, version)
        if record.version == self.record(id).version:
            return self.get(id)
        program = self.build(id, record)
        self._take(id, record, program)
        return program

    def delete(self, id: str) -> None:
        """Delete it, its versions and its conversation. Raises DspexError ``program_not_found``."""
        if id not in self:
            raise program_not_found(id)
        del self._reserved[_RECORD + id]
        for number in self._earlier(id):
            del self._reserved[f"{_EARLIER}{number}.{id}"]
        Conversation(self._session, id).forget()
        self._built.pop(id, None)

    def _take(self, id: str, record: Record, program: Program) -> None:
        """Have a record in force, and what was so before among the earlier ones, of which the oldest go."""
        before, goes_on = self._held(id), False
        if before is not None:
            self._reserved[f"{_EARLIER}{before.version}.{id}"] = before.to_value()
            goes_on = before.memory is not None and before.signature == record.signature
        self._reserved.pop(f"{_EARLIER}{record.version}.{id}", None)
        self._reserved[_RECORD + id] = record.to_value()
        for number in self._earlier(id)[: 1 - MAX_VERSIONS]:
            del self._reserved[f"{_EARLIER}{number}.{id}"]
        conversation = Conversation(self._session, id)
        if program.memory is None:
            conversation.forget()
        elif not goes_on:
            conversation.begin()
        self._built[id] = (record.stamp, program)

    def _numbers(self, id: str) -> list[int]:
        held = self._held(id)
        return self._earlier(id) + ([] if held is None else [held.version])

    def _held(self, id: str) -> Record | None:
        """The record in force; None where there is none, or one that nothing can be built of: it may be replaced."""
        try:
            return self.record(id)
        except DspexError:
            return None

    def _earlier(self, id: str) -> list[int]:
        """Numbers of earlier versions, the first first."""
        numbers = []
        for key in self._reserved:
            if key.startswith(_EARLIER):
                number, _, of = key.removeprefix(_EARLIER).partition(".")
                if of == id and number.isdecimal():
                    numbers.append(int(number))
        return sorted(numbers)


def told(id: str, value: object) -> dict[str, str]:
    """What a list says of a record."""
    try:
        record = Record.read(id, value)
    except DspexError as error:
        return {"module": "", "doc": error.message}
    described = record.signature.get("description") if isinstance(record.signature, Mapping) else None
    return {"module": record.module, "doc": record.instructions or (described if isinstance(described, str) else "")}
