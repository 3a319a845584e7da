"""An application: its methods, programs and hooks."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from dspex import wire
from dspex.errors import InvalidParams

from dspex_worker.calls import Call
from dspex_worker.embedders import Embedder, Embedders
from dspex_worker.metrics import Metrics
from dspex_worker.objects import SessionObject
from dspex_worker.offers import Offers
from dspex_worker.schema import Annotation, Check, Problems
from dspex_worker.session import Session
from dspex_worker.worker import Worker

Function = TypeVar("Function", bound=Callable[..., Any])
Way = Literal["inline", "task", "thread", "task_stream", "thread_stream"]

RESERVED_NAMES = frozenset({"hello", "ping"})
RESERVED_PREFIXES = ("session.", "sidecar.", "admin.", "runs.")

_STREAMS = (Iterator, Iterable, AsyncIterator, AsyncIterable)


class Method:
    """One method of an application: how it runs, what it takes, and what is said of it."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        read_only: bool = False,
        retry: Literal["safe"] | None = None,
        inline: bool = False,
        process: Literal["own"] | None = None,
    ) -> None:
        self.function = function
        self.name = name
        self.read_only = read_only
        if process not in (None, "own"):
            raise ValueError(f"method {name!r}: process is 'own' or None, not {process!r}")
        self.process = process
        if retry not in (None, "safe"):
            raise ValueError(f"method {name!r}: retry is 'safe' or None, not {retry!r}")
        self.retry = retry
        self.doc = inspect.getdoc(function) or ""
        self.way: Way = _way(function, name, inline)
        self.stream = self.way.endswith("_stream")
        self.writes: Callable[[Call], bool] | None = None  # which calls write, where the method is else read-only
        self.streamed: Method | None = None  # what runs instead when the caller asks for a stream
        self._read_signature()
        # Whether a call's params are its arguments where their names are those of the parameters.
        self._as_sent = not (self.stream or self.checks or self.session_parameter)

    def _read_signature(self) -> None:
        hints = _hints(self.function, self.name)
        self.session: Literal["none", "optional", "required"] = "none"
        self.session_parameter: str | None = None
        self.open_ended = False
        properties: dict[str, Any] = {}
        definitions: dict[str, Any] = {}
        names: set[str] = set()
        required: set[str] = set()
        checks: list[tuple[str, Check]] = []
        for parameter in inspect.signature(self.function).parameters.values():
            hint = hints.get(parameter.name, Any)
            if _is_session(hint):
                self.session_parameter = parameter.name
                self.session = "required" if hint is Session else "optional"
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                self.open_ended = True
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                raise TypeError(f"method {self.name!r}: params are sent by name, so {parameter} cannot be filled in")
            annotation = Annotation(hint)
            if annotation.check is not None:
                checks.append((parameter.name, annotation.check))
            schema = dict(annotation.schema)
            definitions.update(schema.pop("$defs", {}))
            names.add(parameter.name)
            if parameter.default is parameter.empty:
                required.add(parameter.name)
            elif parameter.default is None or type(parameter.default) in (bool, int, float, str):
                schema["default"] = parameter.default
            properties[parameter.name] = schema
        self.names = frozenset(names)
        self.required = frozenset(required)
        self.checks = tuple(checks)
        self.params_schema: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": sorted(required),
            "additionalProperties": self.open_ended,
        }
        if definitions:
            self.params_schema["$defs"] = definitions
        self.result_schema = Annotation(_result_hint(hints.get("return", Any), self.stream)).schema

    def bind(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments for params; raise InvalidParams with all that is wrong."""
        names = params.keys()
        if names == self.names and not self.checks:
            return params
        problems: Problems = []
        if names != self.names:
            for name in sorted(self.required - names):
                problems.append({"path": name, "message": "is missing"})
            for name in sorted(names - self.names):
                if not self.open_ended:
                    problems.append({"path": name, "message": "is not a parameter of this method"})
                elif name == self.session_parameter:
                    problems.append({"path": name, "message": "is filled in, not sent"})
        for name, check in self.checks:
            if name in params:
                params[name] = check(params[name], name, problems)
        if problems:
            raise invalid_params(self.name, problems)
        return params

    def bind_call(self, call: Call) -> None:
        """Make the call's arguments of its params, session included. Raises InvalidParams."""
        if self._as_sent and call.stream is None and call.arguments.keys() == self.names:
            return
        if self.streamed is not None and call.stream is not None:
            call.spec = self.streamed
            self.streamed.bind_call(call)
            return
        if self.stream is not (call.stream is not None):
            wanted = "is a stream: ask for it with meta.stream" if self.stream else "is not a stream"
            raise InvalidParams(f"{self.name} {wanted}", details={"errors": []})
        if call.session is None and self.session == "required":
            raise InvalidParams(f"{self.name} needs a session: name one in meta.session", details={"errors": []})
        call.arguments = self.bind(call.arguments)
        if self.session_parameter is not None:
            call.arguments[self.session_parameter] = call.session

    def describe(self) -> dict[str, Any]:
        """Return the entry of ``methods`` in hello's answer and in ``sidecar.methods``."""
        streamed = self if self.stream else self.streamed
        return {
            "name": self.name,
            "doc": self.doc,
            "params": self.params_schema,
            "result": self.result_schema,
            "item": streamed and streamed.result_schema,
            "stream": "required" if self.stream else "optional" if self.streamed is not None else "none",
            "session": self.session,
            "read_only": self.read_only,
            "retry": self.retry,
            "process": self.process,
        }


def invalid_params(method: str, problems: Problems) -> InvalidParams:
    """Return the error for params that cannot be bound; ``problems`` are ``{path, message}``."""
    first = "; ".join(f"{problem['path']} {problem['message']}" for problem in problems[:5])
    return InvalidParams(f"{method}: {first}", details={"errors": problems})


class App(Offers):
    """What a worker serves. ``use_dspy``: None installs the DSPy application where dspy can be imported.

    Attributes:
        worker: the process that serves the application; None while it is only loaded, in the process that workers are
            forked from.
        metrics: the application's counters, gauges and histograms.
    """

    worker: Worker | None = None

    def __init__(self, *, use_dspy: bool | None = None) -> None:
        super().__init__()
        self.use_dspy = use_dspy
        self.metrics = Metrics()
        self.methods: dict[str, Method] = {}
        self.embedders = Embedders(self.metrics)
        self.worker_start_hooks: list[Callable[[], Any]] = [self.embedders.start]
        self.worker_stop_hooks: list[Callable[[], Any]] = [self.embedders.close]
        self.session_start_hooks: list[Callable[[Session], Any]] = []
        self.session_end_hooks: list[Callable[[Session], Any]] = []
        self.session_objects: dict[str, SessionObject] = {}
        self.parts: list[Callable[[Worker], None]] = []  # what else has to know the worker
        self.model_users: list[Callable[[Worker], None]] = []  # what has to know that its models are others now
        self.kept_tasks: set[str] = set()
        self.target: str | None = None  # module:attribute, and the folder from which it was found
        self.folder = ""
        self.spawn: Callable[[Coroutine[Any, Any, Any]], Any] | None = None  # set by the worker that serves the app

    def init_worker(self, worker: Worker) -> None:
        """Make the application this worker's: called once in each worker process, before the hooks on its start.

        A subclass that keeps something for each worker (a connection, a counter, a random generator) overrides this,
        and calls it: what ``__init__`` and the module make is shared, or copied, by all workers of a pool.
        """
        self.worker = worker
        self.embedders.use(worker)
        for part in self.parts:
            part(worker)

    def use_models(self, models: dict[str, dict[str, Any]]) -> None:
        """Go on with other settings of the configured models; calls that run keep theirs."""
        assert self.worker is not None
        self.worker.models = models
        self.embedders.use(self.worker)
        for user in self.model_users:
            user(self.worker)

    @typing.overload
    def method(self, function: Function, /) -> Function: ...
    @typing.overload
    def method(
        self,
        named: str | None = None,
        /,
        *,
        name: str | None = None,
        read_only: bool = False,
        retry: Literal["safe"] | None = None,
        inline: bool = False,
        stream: Callable[..., Any] | None = None,
        process: Literal["own"] | None = None,
    ) -> Callable[[Function], Function]: ...
    def method(
        self,
        function: Callable[..., Any] | str | None = None,
        /,
        *,
        name: str | None = None,
        read_only: bool = False,
        retry: Literal["safe"] | None = None,
        inline: bool = False,
        stream: Callable[..., Any] | None = None,
        process: Literal["own"] | None = None,
    ) -> Any:
        """Register a function as a method, by its own name, or as ``@app.method("name")`` or ``(name="name")``.

        ``read_only``: does not write to its session, so it may run beside other such calls. ``retry="safe"``: may be
        run again if its worker dies. ``inline``: a plain function that never blocks; it runs at once on the loop's
        thread. ``stream``: a generator with the same parameters, which runs instead when a stream is asked for.
        ``process="own"``: for what takes long and much. Each call has a process of its own, forked beside the pool for
        it and ended with it; it sees its session as it was when it began, and holds up none of the session's calls.
        """
        if function is None or isinstance(function, str):
            return functools.partial(
                self._add_method,
                name=function or name,
                read_only=read_only,
                retry=retry,
                inline=inline,
                stream=stream,
                process=process,
            )
        return self._add_method(
            function, name=None, read_only=False, retry=None, inline=False, stream=None, process=None
        )

    def _add_method(
        self,
        function: Function,
        *,
        name: str | None,
        read_only: bool,
        retry: Literal["safe"] | None,
        inline: bool,
        stream: Callable[..., Any] | None,
        process: Literal["own"] | None,
    ) -> Function:
        method = Method(function, _checked_name(name or function.__name__), read_only, retry, inline, process)
        if stream is not None:
            method.streamed = Method(stream, method.name, read_only, retry, False, process)
            if method.stream or not method.streamed.stream:
                raise TypeError(f"method {method.name!r}: stream is the generator for a plain function")
        if method.name in self.methods:
            raise ValueError(
                f"method {method.name!r} is registered twice: {_place(self.methods[method.name].function)}"
            )
        self.methods[method.name] = method
        return function

    def on_worker_start(self, hook: Function) -> Function:
        """Run ``hook()`` (sync or async) before the worker is ready."""
        self.worker_start_hooks.append(hook)
        return hook

    def on_worker_stop(self, hook: Function) -> Function:
        """Run ``hook()`` (sync or async) when the worker ends in an orderly way."""
        self.worker_stop_hooks.append(hook)
        return hook

    def on_session_start(self, hook: Function) -> Function:
        """Run ``hook(session)`` before a session's first call; what it writes commits with that call."""
        self.session_start_hooks.append(hook)
        return hook

    def on_session_end(self, hook: Function) -> Function:
        """Run ``hook(session)`` when a session ends that this worker holds; it can read the state, not write."""
        self.session_end_hooks.append(hook)
        return hook

    def session_object(self, name: str, *, load: Callable[[Any], Any], dump: Callable[[Any], Any]) -> None:
        """Keep an object for each session, as ``session.objects[name]``, in the worker that the session is at.

        ``load(value)`` makes it of what ``dump`` returned last, and of None where there is nothing yet.
        ``dump(object)`` returns what MessagePack can hold, at the end of each call that asked for the object and may
        write; what differs from the last time is committed with the call. Both are plain functions, and run on any
        thread.
        """
        if name in self.session_objects:
            raise ValueError(f"session object {name!r} is registered twice")
        self.session_objects[name] = SessionObject(name, load, dump)

    def keep_task(self, name: str) -> None:
        """Let tasks of the coroutine function with this qualified name outlive the call that started them.

        For tasks that a library keeps for the whole process; any other task that a call leaves running is cancelled and
        makes the call a failure.
        """
        self.kept_tasks.add(name)

    def embedder(self, name: str | None = None) -> Embedder:
        """Return the configured embedder of that name, or the default one: ``vectors = await embedder.acall(texts)``.

        It may be asked for when the application is loaded, and used once a worker serves it.
        """
        return Embedder(self.embedders, name)

    def background(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine as a task that belongs to no call; it is cancelled when the worker ends."""
        if self.spawn is None:
            coroutine.close()
            raise RuntimeError("app.background can be used while a worker serves the app")
        return self.spawn(coroutine)


def _checked_name(name: str) -> str:
    if not 1 <= len(name.encode()) <= wire.MAX_METHOD:
        raise ValueError(f"a method's name has 1 to {wire.MAX_METHOD} bytes: {name!r} does not")
    if name in RESERVED_NAMES or name.startswith(RESERVED_PREFIXES):
        raise ValueError(f"the method name {name!r} is reserved (hello, ping, session.*, sidecar.*, admin.*)")
    return name


def _way(function: Callable[..., Any], name: str, inline: bool) -> Way:
    target = _code_of(function)
    way: Way = "thread"
    if inspect.isasyncgenfunction(target):
        way = "task_stream"
    elif inspect.iscoroutinefunction(target):
        way = "task"
    elif inspect.isgeneratorfunction(target):
        way = "thread_stream"
    if inline:
        if way != "thread":
            raise TypeError(f"method {name!r}: inline is for plain functions only")
        return "inline"
    return way


def _code_of(function: Callable[..., Any]) -> Any:
    """Return the function behind a partial or an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(_code_of(function), include_extras=True)
    except NameError as error:
        raise TypeError(f"method {name!r}: an annotation cannot be read: {error}") from error


def _is_session(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return set(get_args(hint)) == {Session, types.NoneType}
    return hint is Session


def _result_hint(hint: Any, stream: bool) -> Any:
    """Return what is described as the result: of a stream, the type of its items."""
    if not stream:
        return hint
    origin = get_origin(hint)
    if isinstance(origin, type) and issubclass(origin, _STREAMS) and get_args(hint):
        return get_args(hint)[0]
    return Any


def _place(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"
