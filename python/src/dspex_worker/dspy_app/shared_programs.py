"""Programs that an administrator made available to all sessions. The sidecar keeps them, and hands them to workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dspex.errors import DspexError

from dspex_worker.dspy_app.errors import invalid_param, program_not_found, shortened
from dspex_worker.dspy_app.programs import Builder, Program
from dspex_worker.dspy_app.records import Record
from dspex_worker.dspy_app.session_programs import MAX_VERSIONS, told

Value = Any  # {current: record, earlier: [record]}, as the sidecar keeps it


class SharedPrograms:
    """Those that this worker was handed last."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._values: Mapping[str, Value] = {}
        self._built: dict[str, tuple[str, Program]] = {}

    def use(self, values: Mapping[str, Value]) -> None:
        """Take over what is in force now, for calls that begin from now on."""
        self._values = values
        self._built = {id: built for id, built in self._built.items() if id in values}

    def __contains__(self, id: str) -> bool:
        return id in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def listed(self) -> list[dict[str, Any]]:
        """As a session's are."""
        return [{"program": id, "scope": "shared"} | told(id, self._current(id)) for id in self._values]

    def get(self, id: str) -> Program:
        """The program. Raises DspexError ``program_not_found``, ``invalid_params``."""
        record = self.record(id)
        if id in self._built and self._built[id][0] == record.stamp:
            return self._built[id][1]
        try:
            program = self._builder.build(id, record, "shared")
        except DspexError as error:
            message = f"that is for all cannot be built by this application: {error.message}; an administrator chooses"
            message = f"{message} another version (use_version, scope: all) or takes it away (withdraw_program)"
            raise invalid_param(f"program {shortened(id)!r}", message) from None
        self._built[id] = (record.stamp, program)
        return program

    def record(self, id: str, version: int | None = None) -> Record:
        """That of one version; the one in use unless told otherwise. Raises as ``get`` does."""
        records = self._records(id)
        for record in records:
            if version in (None, record.version):
                return record
        kept = ", ".join(str(record.version) for record in sorted(records, key=lambda one: one.version))
        raise invalid_param("version", f"there is no version {version} of {id[:200]!r} for all; versions are: {kept}")

    def versions(self, id: str) -> list[dict[str, Any]]:
        """All that are kept, the last first."""
        records = self._records(id)
        listed = [record.told() | {"current": record is records[0]} for record in records]
        return sorted(listed, key=lambda one: -int(one["version"]))

    def with_record(self, id: str, record: Record) -> tuple[Value, int]:
        """What is to be kept for another record to be in use, and its version: a new one, unless it is one of these."""
        records = self._records(id) if id in self._values else []
        if all(record.stamp != one.stamp for one in records):
            record = replace(record, version=max((one.version for one in records), default=0) + 1)
        self._builder.build(id, record, "shared")
        others = sorted((one for one in records if one.stamp != record.stamp), key=lambda one: -one.version)
        kept = [one.to_value() for one in others[: MAX_VERSIONS - 1]]
        return {"current": record.to_value(), "earlier": kept}, record.version

    def _current(self, id: str) -> object:
        value = self._values[id]
        return value.get("current") if isinstance(value, Mapping) else None

    def _records(self, id: str) -> list[Record]:
        """The one in use, then the others."""
        if id not in self._values:
            raise program_not_found(id)
        value = self._values[id]
        earlier = value.get("earlier", []) if isinstance(value, Mapping) else []
        return [Record.read(id, self._current(id)), *(Record.read(id, one) for one in earlier)]
