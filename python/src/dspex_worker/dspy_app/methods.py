"""The methods of the DSPy application, as the protocol's table has them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace as replaced
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from dspex.errors import DspexError

from dspex_worker.calls import Call, current_call
from dspex_worker.dspy_app.application import ApplicationPrograms
from dspex_worker.dspy_app.batch import MAX_AT_ONCE, Result, check_batch, run_all
from dspex_worker.dspy_app.code_runs import CodeRuns
from dspex_worker.dspy_app.counts import LmCounts
from dspex_worker.dspy_app.errors import invalid_param, program_exists, secret_lost
from dspex_worker.dspy_app.execute import Executor
from dspex_worker.dspy_app.history_methods import HistoryMethods
from dspex_worker.dspy_app.lm_methods import LmMethods
from dspex_worker.dspy_app.media import NOTHING, Permissions
from dspex_worker.dspy_app.memory import Conversation, has_conversation, needs_session, no_conversation
from dspex_worker.dspy_app.optimise import ray_nodes
from dspex_worker.dspy_app.optimise.datasets import DatasetMethods
from dspex_worker.dspy_app.optimise.methods import OptimiseMethods
from dspex_worker.dspy_app.plain import plain
from dspex_worker.dspy_app.programs import Program, Scope, check_id, new_id
from dspex_worker.dspy_app.records import MAX_DEMOS, Record
from dspex_worker.dspy_app.session_programs import SessionPrograms
from dspex_worker.dspy_app.settings import LmSettings, Models
from dspex_worker.dspy_app.shared_programs import SharedPrograms
from dspex_worker.dspy_app.signatures import MAX_TEXT, json_schema
from dspex_worker.dspy_app.stream import Item, Sink
from dspex_worker.dspy_app.trace import IN_ANSWER, IN_STREAM, Trace
from dspex_worker.dspy_app.version_methods import VersionMethods
from dspex_worker.session import RESERVED, Session

if TYPE_CHECKING:
    from dspex_worker.app import App
    from dspex_worker.worker import Worker

_LOST = "lost"  # stands for a key that is gone, while the rest of the settings is looked at
_LM = "lm"  # key of the session's LM settings, and with ".ID" of a program's, in its reserved state and its secrets


class DspyApp:
    """The DSPy application in one worker. Its methods' docstrings are what ``sidecar.methods`` shows."""

    _models: Models
    permissions = NOTHING
    tracebacks = False
    executor: Executor

    def __init__(self, app: App) -> None:
        self._application = ApplicationPrograms(app)
        self._metrics = app.metrics
        self._builder = self._application.builder
        self.shared = SharedPrograms(self._builder)

    def init_worker(self, worker: Worker) -> None:
        """Take over what a worker has of its own: the models' settings, with their keys, and the limit on threads."""
        self.executor = Executor(worker.concurrency, LmCounts(self._metrics), worker.permits)
        self.use_models(worker)
        self.tracebacks = worker.tracebacks
        self.permissions = self._builder.kinds.permissions = Permissions.read(worker.dspy)
        if self.permissions.program_of_thought:
            self.executor.code = CodeRuns(worker.dspy)
        self._application.configure(worker.dspy.get("programs") or {})
        ray_nodes.check(worker.dspy.get("optimize") or {})

    def use_models(self, worker: Worker) -> None:
        """Take over the models' settings, and programs for all, for calls that begin from now on."""
        self._models = Models(worker.models)
        self.executor.history = worker.history
        self.shared.use(worker.shared)

    def register(self, app: App) -> None:
        """Add the methods to the application, and what is done at the worker's start and end."""
        # Of programs that do more than ask LMs the executor says so, call by call.
        app.method(name="execute_program", read_only=True, retry="safe", stream=self.stream_program)(
            self.execute_program
        )
        app.method(name="execute_batch", read_only=True, retry="safe", stream=self.stream_batch)(self.execute_batch)
        for run in (app.methods["execute_program"], app.methods["execute_program"].streamed):
            assert run is not None
            run.writes = self._writes
        HistoryMethods(self.find).register(app)
        VersionMethods(self).register(app)
        DatasetMethods(app).register(app)
        OptimiseMethods(self, app).register(app)
        LmMethods(lambda: self.executor).register(app)
        readers: tuple[Callable[..., Any], ...] = (self.list_programs, self.get_program_info, self.get_session_state)
        writers: tuple[Callable[..., Any], ...] = (self.create_program, self.delete_program, self.configure_lm)
        for method in readers:
            app.method(name=method.__name__, read_only=True, retry="safe", inline=True)(method)
        for method in (*writers, self.reset_state, self.update_session_state):
            app.method(name=method.__name__, retry="safe", inline=True)(method)
        app.parts.append(self.init_worker)
        app.model_users.append(self.use_models)
        app.on_worker_stop(self._close_lms)

    async def _close_lms(self) -> None:
        await self.executor.lms.close()

    def configure_lm(
        self,
        session: Session,
        model: str | None = None,
        settings: dict[str, Any] | None = None,
        program: str | None = None,
    ) -> dict[str, Any]:
        """Choose the LM of this session, or of one program: a configured model by name, or settings of one's own."""
        if (model is None) == (settings is None):
            raise invalid_param("model", "give either the name of a configured model, or settings")
        if program is not None:
            self.find(program, session)
        key = _LM if program is None else f"{_LM}.{program}"
        if settings is not None:
            api_key = settings.get("api_key")
            chosen = self._models.from_client(settings, api_key)
            stored = {name: value for name, value in settings.items() if name != "api_key" and value is not None}
            session.reserved[key] = {"settings": stored}
            _put_secret(session, key, api_key)
        else:
            chosen = self._models.get(model or "")
            session.reserved[key] = {"model": chosen.name}
            _put_secret(session, key, None)
        return {"model": chosen.name} | ({"program": program} if program is not None else {})

    def create_program(
        self,
        session: Session,
        signature: Any,
        id: str | None = None,
        module: str = "predict",
        instructions: str | None = None,
        demos: list[dict[str, Any]] | None = None,
        tools: list[dict[str, Any] | str] | None = None,
        parameters: dict[str, Any] | None = None,
        memory: dict[str, int] | None = None,
        replace: bool = False,
    ) -> dict[str, Any]:
        """Make a program in this session from a signature (text, or name, description, inputs and outputs).

        Demos are examples for the LM: maps of the signature's fields. Tools, for the module "react", are names of the
        application's, and functions that the client offers: maps of name, description and schema, the JSON schema of
        what they take. Parameters are the module's: max_iters, n, … Memory, turns or tokens, has the session keep the
        conversation: as much of it is an input of the program then, which is not sent.
        """
        id = new_id() if id is None else check_id(id)
        if instructions is not None and len(instructions) > MAX_TEXT:
            raise invalid_param("instructions", f"are longer than {MAX_TEXT} characters")
        if demos is not None and len(demos) > MAX_DEMOS:
            raise invalid_param("demos", f"are {len(demos)}, at most {MAX_DEMOS} are allowed")
        self.check_new(id, session, replace)
        programs = self.programs(session)
        record = Record(
            signature, module, instructions or None, None, tools=tools, parameters=parameters, memory=memory
        )
        program = programs.put(id, replaced(record, source="replaced") if id in programs else record, demos)
        return {
            "program": id,
            "module": module,
            "signature": program.signature,
            "inputs": json_schema(program.inputs),
            "outputs": json_schema(program.outputs),
        }

    async def execute_program(
        self, program: str, inputs: dict[str, Any], session: Session | None, trace: bool | Literal["full"] = False
    ) -> dict[str, Any]:
        """Run a program and return its outputs. As a stream: the pieces of the outputs as they come, then the same.

        With trace, meta.app.trace of the answer, or items of the stream, say what its modules, LMs, adapters and tools
        did when; with "full" also what each was given and returned.
        """
        call = current_call()
        if not trace:
            return await self._run(program, inputs, session, call)
        events = Trace(trace == "full", IN_ANSWER)
        try:
            return await self._run(program, inputs, session, call, trace=events)
        finally:
            call.reply_app.update(events.to_app())

    async def stream_program(
        self, program: str, inputs: dict[str, Any], session: Session | None, trace: bool | Literal["full"] = False
    ) -> AsyncIterator[Item]:
        """Do the same, yielding ``{type: "delta", field, text}`` and ``{type: "status", message}``."""
        call = current_call()
        sink = Sink()
        events = Trace(trace == "full", IN_STREAM, sink.put) if trace else None

        async def work() -> None:
            call.result = await self._run(program, inputs, session, call, sink, events)

        items = sink.run(work())
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    async def _run(
        self,
        program: str,
        inputs: dict[str, Any],
        session: Session | None,
        call: Call,
        sink: Sink | None = None,
        trace: Trace | None = None,
    ) -> dict[str, Any]:
        found, settings = self._prepared(program, session)
        checked = found.checker.check(inputs, self.permissions)
        if found.memory is None:
            return await self.executor.run(found, checked, settings, call, sink, trace)
        if session is None:
            raise needs_session()
        if found.scope == "session" and not has_conversation(session, program):  # by which `_writes` knows of it
            raise no_conversation()
        conversation = Conversation(session, program, found.names)
        checked[found.memory.field] = conversation.history()
        outputs = await self.executor.run(found, checked, settings, call, sink, trace)
        conversation.remember(found.memory, inputs, found.said(outputs))
        return outputs

    def _writes(self, call: Call) -> bool:
        """Whether a call of ``execute_program`` has a conversation to go on with."""
        id = call.arguments.get("program")
        if not isinstance(id, str) or call.session is None:
            return False
        if id in self._application:
            return self._application.get(id).memory is not None
        if id in self.shared and id not in self.programs(call.session):
            return self.shared.get(id).memory is not None
        return has_conversation(call.session, id)

    async def execute_batch(
        self, program: str, inputs: list[dict[str, Any]], session: Session | None, concurrency: int = MAX_AT_ONCE
    ) -> list[Result]:
        """Run a program on many inputs, so many at once; results, ``{index, outputs}`` or ``{index, error}``, in order.

        As a stream: each result as it comes.
        """
        results = [one async for one in self._all(program, inputs, session, concurrency)]
        return sorted(results, key=lambda one: int(one["index"]))

    async def stream_batch(
        self, program: str, inputs: list[dict[str, Any]], session: Session | None, concurrency: int = MAX_AT_ONCE
    ) -> AsyncIterator[Result]:
        """Do the same, yielding each result as it comes; how many there were is the result."""
        results = self._all(program, inputs, session, concurrency)
        count = 0
        try:
            async for one in results:
                count += 1
                yield one
        finally:
            await results.aclose()
        current_call().result = {"count": count}

    def _all(
        self, program: str, inputs: list[dict[str, Any]], session: Session | None, concurrency: int
    ) -> AsyncGenerator[Result, None]:
        found, settings = self._prepared(program, session)
        checked = check_batch(found, inputs, concurrency, self.permissions)
        call = current_call()
        runs = [partial(self.executor.run, found, one, settings, call) for one in checked]
        return run_all(runs, concurrency, self.tracebacks)

    def list_programs(self, session: Session | None) -> dict[str, Any]:
        """List the programs of this session, those of the application, and those that an administrator shared."""
        programs: list[dict[str, Any]] = [
            {"program": p.id, "scope": p.scope, "module": p.module_name, "doc": p.doc or p.instructions or ""}
            for p in self._application
        ]
        own = [] if session is None else self.programs(session).listed()
        hidden = {one["program"] for one in programs + own}
        programs += own + [one for one in self.shared.listed() if one["program"] not in hidden]
        return {"programs": sorted(programs, key=lambda listed: str(listed["program"]))}

    def get_program_info(self, program: str, session: Session | None) -> dict[str, Any]:
        """Say what a program takes and returns, as JSON schemas, and what it runs with."""
        found = self.find(program, session)
        settings = self.settings(program, session)
        return {
            "program": found.id,
            "scope": found.scope,
            "module": found.module_name,
            "signature": found.signature,
            "instructions": found.instructions or found.doc or None,
            "inputs": json_schema(found.inputs),
            "outputs": json_schema(found.outputs),
            "demos": plain(found.demos),
            "memory": None if found.memory is None else found.memory.told(),
            "version": None if found.record is None else found.record.version,
            "model": settings.name if isinstance(settings, LmSettings) else None,
        }

    def delete_program(self, session: Session, program: str) -> dict[str, Any]:
        """Delete a program of this session, and its LM settings."""
        if program in self._application:
            raise invalid_param("program", f"{program!r} is the application's; it cannot be deleted")
        self.programs(session).delete(program)
        _forget_lm(session, f"{_LM}.{program}")
        return {"program": program}

    def reset_state(self, session: Session) -> dict[str, Any]:
        """Delete the session's programs, LM settings and own data; the session goes on."""
        deleted = 0
        for mapping in (session.reserved, session.state, session.secrets):
            keys = list(mapping)
            deleted += 0 if mapping is session.secrets else len(keys)
            for key in keys:
                del mapping[key]
        for key in session.lost_secrets:
            session.forget_secret(key)
        session.local.clear()
        return {"deleted": deleted}

    def get_session_state(self, session: Session) -> dict[str, Any]:
        """Return the session's own data; not its programs and LM settings."""
        return {"state": dict(session.state)}

    def update_session_state(
        self, session: Session, set: dict[str, Any] | None = None, delete: list[str] | None = None
    ) -> dict[str, Any]:
        """Change the session's own data; returns the keys that it then has."""
        for key, value in (set or {}).items():
            try:
                session.state[key] = value
            except ValueError as error:
                raise invalid_param(f"set.{key[:80]}", str(error)) from None
        for index, key in enumerate(delete or []):
            if key.startswith(RESERVED):
                raise invalid_param(f"delete[{index}]", f"state keys that begin with {RESERVED!r} are reserved")
            session.state.pop(key, None)
        return {"keys": sorted(session.state)}

    def programs(self, session: Session) -> SessionPrograms:
        """Those of a session, inside a call of it."""
        return SessionPrograms(session, self._builder)

    def is_applications(self, id: str) -> bool:
        """Whether the application, or the configuration, has a program of this id."""
        return id in self._application

    def check_new(self, id: str, session: Session, replace: bool) -> None:
        """Raises DspexError ``program_exists`` where no program may be made of this id."""
        if id in self._application:
            raise program_exists(id, "is registered by the application")
        if id in self.programs(session) and not replace:
            raise program_exists(id, "exists in this session; say replace: true")

    def find(self, id: str, session: Session | None) -> Program:
        """The application's, else the session's, else the shared one. Raises DspexError ``program_not_found``."""
        if id in self._application:
            return self._application.get(id)
        if session is not None and id in self.programs(session):
            return self.programs(session).get(id)
        return self.shared.get(id)

    def rebuilt(self, id: str, scope: Scope, record: object) -> Program:
        """A program of another process, which has the same application. Raises DspexError."""
        if record is None:
            return self._application.get(id)
        return self._builder.build(id, Record.read(id, record), scope)

    def model(self, name: str) -> LmSettings:
        """The settings of a configured model. Raises DspexError ``invalid_params``."""
        return self._models.get(name)

    def _prepared(self, program: str, session: Session | None) -> tuple[Program, LmSettings | DspexError]:
        found = self.find(program, session)
        return found, self.settings(program, session)

    def settings(self, program: str, session: Session | None) -> LmSettings | DspexError:
        """What its LM is made from: the client's settings for it, the operator's, the session's, the default."""
        stored = api_key = None
        lost = False
        pinned = self._application.get(program).model if program in self._application else None
        if pinned is not None:
            stored = {"model": pinned}
        if session is not None and (pinned is None or f"{_LM}.{program}" in session.reserved):
            key = f"{_LM}.{program}" if f"{_LM}.{program}" in session.reserved else _LM
            stored, api_key = session.reserved.get(key), session.secrets.get(key)
            lost = key in session.lost_secrets
        try:
            found = self._models.resolve(stored, _LOST if lost else api_key)
        except DspexError as error:
            return error
        return secret_lost(found.name) if lost and found.from_client else found


def _put_secret(session: Session, key: str, api_key: str | None) -> None:
    if api_key is not None:
        session.secrets[key] = api_key
    else:
        session.forget_secret(key)


def _forget_lm(session: Session, key: str) -> None:
    session.reserved.pop(key, None)
    session.forget_secret(key)
