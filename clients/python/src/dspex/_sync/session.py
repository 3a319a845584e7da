# Written by unasync.py from _async/session.py: change that.
"""A session and its programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dspex.core import Reply
from dspex.errors import DspexError, SessionNotFound
from dspex.models import Adapter, Params

from .program import Program
from .stream import Stream

if TYPE_CHECKING:
    from .answering import Offered
    from .caller import Caller


T = TypeVar("T")


class Session:
    """A session: calls in it run one at a time, in order, and share its state. As a context manager it is ended.

    Attributes:
        id: the session's name in the sidecar.
        token: what proves that it is yours, where it was made with a token.
    """

    def __init__(self, client: Caller, id: str, token: str | None = None) -> None:
        self.client = client
        self.id = id
        self.token = token
        self._options: dict[str, Any] = {"session": id}
        if token is not None:
            self._options["session_token"] = token

    def call(
        self,
        method: str,
        params: Params | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Call a method in this session. Arguments and errors as those of the client's `call`."""
        return self.client.call(method, params, timeout=timeout, **self._options, **options)

    def call_as(
        self,
        result: type[T] | Adapter[T],
        method: str,
        params: Params | None = None,
        **options: Any,
    ) -> T:
        """`call`, whose result a pydantic model checks. As the client's `call_as`."""
        return self.client.call_as(result, method, params, **self._options, **options)

    def request(
        self, method: str, params: Params | None = None, *, timeout: float | None = None, **options: Any
    ) -> Reply:
        """`call`, for who wants the meta of the answer too."""
        return self.client.request(method, params, timeout=timeout, **self._options, **options)

    def stream(
        self,
        method: str,
        params: Params | None = None,
        *,
        credit: int = 16,
        timeout: float | None = None,
        **options: Any,
    ) -> Stream[Any]:
        """Call a streaming method in this session. Arguments as those of the client's `stream`."""
        return self.client.stream(method, params, credit=credit, timeout=timeout, **self._options, **options)

    def offer(self, name: str, function: Offered) -> Callable[[], None]:
        """Let the workers that serve this session's calls call a function of this process. As the client's `offer`."""
        return self.client._offers.add(self.id, name, function)

    def info(self, **options: Any) -> dict[str, Any]:
        """State, worker, labels, version, sizes and times, as of the last commit.

        Options of this and what follows: `timeout`, `cancel` and others, as those of the client's `call`.
        """
        found: dict[str, Any] = self.call("session.get", **options)
        return found

    def state(self, **options: Any) -> dict[str, Any]:
        """The state as of the last commit."""
        state: dict[str, Any] = (self.info(**options))["state"]
        return state

    def update(self, set: Mapping[str, Any] | None = None, *, delete: Iterable[str] = (), **options: Any) -> None:
        """Change the state, in the session's turn."""
        params: dict[str, Any] = {}
        if set:
            params["set"] = set
        if gone := list(delete):
            params["delete"] = gone
        self.call("session.update", params, **options)

    def reset(self, **options: Any) -> None:
        """Empty the session, in its turn: state, programs, LM settings. Its next call is its first again."""
        self.call("session.reset", **options)

    def configure_lm(
        self,
        model: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        program: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Choose the LM of this session, or of one program in it: a configured model's name, or settings."""
        given = {"model": model, "settings": settings, "program": program}
        chosen: dict[str, Any] = self.call("configure_lm", _present(given), **options)
        return chosen

    def create_program(
        self,
        id: str | None,
        signature: str | Mapping[str, Any],
        *,
        module: str | None = None,
        instructions: str | None = None,
        demos: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Mapping[str, Any] | str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        memory: Mapping[str, int] | None = None,
        replace: bool = False,
        **options: Any,
    ) -> Program:
        """Make a DSPy program in this session.

        Args:
            id: None: one is made.
            signature: `"question -> answer: str"`, or a map as docs/protocol.md tells.
            module: "predict", "chain_of_thought", "react", another of docs/dspy.md, or what the application registered.
            instructions: what the LM is told to do.
            demos: examples for the LM, each with values for the signature's fields.
            tools: of the module "react": names of the application's tools, and functions that this client offers, each
                with `name`, `description` and `schema`, the JSON schema of what it takes.
            parameters: of the module, such as `{"max_iters": 5}`.
            memory: `{"turns": 20}` or `{"tokens": 4000}`: the session keeps the conversation.
            replace: take the place of a program with that id.
            options: as those of the client's `call`.

        Raises InvalidSignature, ProgramExists.
        """
        given = {
            "id": id,
            "signature": signature,
            "module": module,
            "instructions": instructions,
            "demos": demos,
            "tools": tools,
            "parameters": parameters,
            "memory": memory,
            "replace": replace or None,
        }
        made = self.call("create_program", _present(given), **options)
        return Program(self.client, made["program"], self._options)

    def program(self, id: str) -> Program:
        """A program of this session, or one that is there for all, to run in this session. Nothing is sent."""
        return Program(self.client, id, self._options)

    def programs(self, **options: Any) -> list[dict[str, Any]]:
        """Each with `program`, `scope`, `module`, `doc`."""
        programs: list[dict[str, Any]] = (self.call("list_programs", **options))["programs"]
        return programs

    def end(self, **options: Any) -> None:
        """End the session at once; calls in it settle as SessionNotFound. Nothing where it has ended."""
        try:
            self.call("session.end", **options)
        except SessionNotFound:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.end()
        except DspexError:
            if kind is None:  # else what happened in the block is what matters
                raise


def _present(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}
