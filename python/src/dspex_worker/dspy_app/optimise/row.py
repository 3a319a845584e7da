"""A row that runs on a node: what it asks of the run's process, and the LM that does so."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, cast

import dspy
import pydantic
from dspex.errors import DspexError, error_from_wire
from dspy.utils import exceptions

from dspex_worker.calls import Call, CallCancelled
from dspex_worker.dspy_app.models import CallLM, make_lm
from dspex_worker.dspy_app.optimise.values import packed
from dspex_worker.dspy_app.settings import LmSettings


class Asked(Exception):
    """What the run's process raised when it was asked, where it is no error that modules look at."""


class Row:
    """One row, or metric, under way. ``events`` are what the run's process is told: what is asked, and the end."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()  # guards the two below
        self._asked: dict[int, Future[Any]] = {}
        self._dropped = False

    def ask(self, what: str, **of: Any) -> Future[Any]:
        """Have the run's process do something; may be called on any thread. Raises DspexError ``not_serializable``."""
        number, answer = next(self._numbers), Future[Any]()
        event = packed({"ask": what, "number": number, "of": of})
        with self._guard:
            if self._dropped:
                raise CallCancelled
            self._asked[number] = answer
        self.events.put(event)
        return answer

    def answered(self, answer: Mapping[str, Any]) -> None:
        """Take an answer: a value, or what was raised."""
        with self._guard:
            waiting = self._asked.pop(answer["number"], None)
        if waiting is None:
            return
        if "raised" in answer:
            waiting.set_exception(_as_raised(answer))
        else:
            waiting.set_result(answer["value"])

    def drop(self) -> None:
        """Nobody waits for it any more: whatever it asks now ends it."""
        with self._guard:
            self._dropped = True
            waiting = list(self._asked.values())
            self._asked.clear()
        for one in waiting:
            one.set_exception(CallCancelled())


def _as_raised(answer: Mapping[str, Any]) -> BaseException:
    """Of the class that it was, where modules may look at that; the run's process knows it by its number."""
    kind: Any = getattr(exceptions, answer["type"], None)
    made: BaseException
    if answer.get("error") is not None:
        made = error_from_wire(answer["error"])
    elif kind is exceptions.ContextWindowExceededError:
        made = exceptions.ContextWindowExceededError(message=answer["message"])
    elif isinstance(kind, type) and issubclass(kind, exceptions.LMError):
        made = exceptions.LMError(answer["message"])
        object.__setattr__(made, "__class__", kind)
    else:
        made = Asked(answer["message"])
    cast(Any, made).dspex_raised = answer["raised"]
    return made


class NodeLM(CallLM):
    """An LM that is asked by the run's process: keys, limits, permits and usage are there and stay there."""

    row: Row
    role = 0  # which of the run's LMs answers
    base: dict[str, Any]

    @classmethod
    def of(cls, settings: LmSettings, row: Row, role: int) -> NodeLM:
        made = make_lm(settings)
        made.__class__ = cls
        lm = cast(NodeLM, made)
        lm.row, lm.role, lm.base = row, role, dict(lm.kwargs)
        return lm

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._sent(args, kwargs).result()

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.wrap_future(self._sent(args, kwargs))

    def _sent(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        own = {name: value for name, value in self.kwargs.items() if self.base.get(name) != value}
        given = {**own, **kwargs}
        if isinstance(kind := given.get("response_format"), type) and issubclass(kind, pydantic.BaseModel):
            given["response_format"] = _schema(kind)
        return self.row.ask("lm", role=self.role, args=list(args), kwargs=given)


def _schema(kind: type[pydantic.BaseModel]) -> dict[str, Any]:
    """As DSPy sends it: the class itself cannot go to another process."""
    from dspy.clients.legacy_requests import _strict_json_schema

    schema = {"name": kind.__name__, "schema": _strict_json_schema(kind.model_json_schema()), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


class NodePort:
    """The port of the call in which a row runs: what it asks of the client goes by the run's process."""

    writable = True

    def __init__(self, row: Row, loop: asyncio.AbstractEventLoop) -> None:
        self._row = row
        self.loop = loop

    def ask(self, _: Call, method: str, params: dict[str, Any]) -> asyncio.Future[Any]:
        return asyncio.wrap_future(self._row.ask("client", method=method, params=params))

    async def unsafe(self, _: Call) -> None:
        """A run is never run again by itself."""


def lm_of_row() -> NodeLM:
    """The LM of the row that asks: it goes wherever DSPy's settings do."""
    lm = dspy.settings.lm
    if not isinstance(lm, NodeLM):
        raise DspexError("this can be used on a node by a row alone")
    return lm
