"""The methods about programs as data, and about their versions."""

from __future__ import annotations

from dataclasses import replace as replaced
from typing import TYPE_CHECKING, Any, Final, Literal

from dspex_worker.calls import current_call
from dspex_worker.dspy_app.errors import invalid_param, program_exists, program_not_found
from dspex_worker.dspy_app.exchange import dspy_state, exported, imported
from dspex_worker.dspy_app.programs import check_id, new_id
from dspex_worker.dspy_app.records import Record
from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.session import Session

if TYPE_CHECKING:
    from dspex_worker.app import App
    from dspex_worker.dspy_app.methods import DspyApp


_SHARE: Final = "sidecar.share"  # what the sidecar does with the rights of the call's client


class VersionMethods:
    """Exports and imports programs, lists their versions and chooses one."""

    def __init__(self, dspy_app: DspyApp) -> None:
        self._dspy_app = dspy_app

    def register(self, app: App) -> None:
        """Add them to the application."""
        for reader in (self.export_program, self.list_versions):
            app.method(name=reader.__name__, read_only=True, retry="safe", inline=True)(reader)
        app.method(name="import_program", retry="safe", inline=True)(self.import_program)
        app.method(name="use_version")(self.use_version)
        app.method(name="withdraw_program")(self.withdraw_program)

    def export_program(self, session: Session | None, program: str, version: int | None = None) -> dict[str, Any]:
        """Return a program of this session, or one that was shared, as data without any key: what it is made of."""
        self._kept(program)
        own = session is not None and program in self._dspy_app.programs(session)
        programs = self._dspy_app.programs(session) if session is not None and own else self._dspy_app.shared
        record = programs.record(program, version)
        settings = self._dspy_app.settings(program, session)
        return exported(record, settings.name if isinstance(settings, LmSettings) else None)

    def import_program(
        self,
        session: Session,
        data: dict[str, Any],
        id: str | None = None,
        signature: Any = None,
        module: str = "predict",
        parameters: dict[str, Any] | None = None,
        replace: bool = False,
    ) -> dict[str, Any]:
        """Make a program in this session of exported data, or of the JSON that DSPy's ``module.save`` writes.

        DSPy's tells no types: it is for a signature that is given, or for the program ``id`` of this session, which has
        a new version then. ``ignored`` names what of it was left out: LM settings and traces.
        """
        programs = self._dspy_app.programs(session)
        if id is None and signature is None and "format" not in data:
            raise invalid_param("signature", "is missing: data of DSPy's own needs it, or the id of a program")
        id = new_id() if id is None else check_id(id)
        ignored: list[str] = []
        if "format" in data:
            if signature is not None:
                raise invalid_param("signature", "is in the data")
            self._dspy_app.check_new(id, session, replace)
            record = imported(data)
        else:
            if signature is not None:
                self._dspy_app.check_new(id, session, replace)
                record = Record(signature, module, None, None, parameters=parameters)
            else:
                record = _made_of(programs.record(self._kept(id, "id")))
            state, ignored = dspy_state(data, programs.build(id, record).for_call())
            record = replaced(record, state=state)
        program = programs.put(id, replaced(record, source="imported"))
        version = programs.record(id).version
        return {"program": id, "version": version, "signature": program.signature, "ignored": ignored}

    def list_versions(self, session: Session | None, program: str) -> dict[str, Any]:
        """List the versions of a program of this session, the last first; or of one that is for all."""
        self._kept(program)
        if session is not None and program in self._dspy_app.programs(session):
            return {"program": program, "versions": self._dspy_app.programs(session).versions(program)}
        return {"program": program, "versions": self._dspy_app.shared.versions(program)}

    async def use_version(
        self, session: Session | None, program: str, version: int, scope: Literal["session", "all"] = "session"
    ) -> dict[str, Any]:
        """Go on with another version of a program of this session.

        With the scope "all", which is an administrator's: have all sessions use a version of this session's program, or
        of one that is for all already. Sessions that have a program of that name keep it.
        """
        programs = None if session is None else self._dspy_app.programs(session)
        if scope == "session":
            if programs is None:
                raise invalid_param("scope", 'is "session": call it in one (meta.session)')
            programs.use(self._kept(program), version)
            return {"program": program, "version": version, "scope": scope}
        if self._dspy_app.is_applications(program):
            raise program_exists(program, "is registered by the application, for all")
        shared = self._dspy_app.shared
        own = programs is not None and program in programs
        record = programs.record(program, version) if programs and own else shared.record(program, version)
        value, number = shared.with_record(program, record)
        await current_call().ask(_SHARE, {"program": program, "value": value})
        return {"program": program, "version": number, "scope": scope}

    def _kept(self, id: str, param: str = "program") -> str:
        """The id, where versions are kept of it."""
        if self._dspy_app.is_applications(id):
            raise invalid_param(param, f"{id!r} is the application's: it has no versions, and is not exported")
        return id

    async def withdraw_program(self, program: str) -> dict[str, Any]:
        """Take away a program, with its versions, that an administrator made available to all. For administrators."""
        if program not in self._dspy_app.shared:
            raise program_not_found(program)
        await current_call().ask(_SHARE, {"program": program, "value": None})
        return {"program": program}


def _made_of(record: Record) -> Record:
    """A new version's record, of the same signature and module."""
    made_of = (record.signature, record.module, record.instructions)
    return Record(*made_of, None, tools=record.tools, parameters=record.parameters, memory=record.memory)
