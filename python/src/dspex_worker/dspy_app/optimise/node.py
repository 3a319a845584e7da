"""A node's part of a run that scores elsewhere: a process that has the application, and runs rows and metrics.

It knows nothing of Ray: what it is told and what it tells are bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final, cast

import dspy
from dspex.errors import DspexError
from dspy.utils.exceptions import AdapterParseError

from dspex_worker import calls, loading
from dspex_worker.batch import Batch
from dspex_worker.calls import Call, CallCancelled, failure
from dspex_worker.dspy_app.execute import OWN
from dspex_worker.dspy_app.models import make_adapter
from dspex_worker.dspy_app.modules import copy_module, load_state, predictors
from dspex_worker.dspy_app.optimise.metrics import of_application
from dspex_worker.dspy_app.optimise.row import NodeLM, NodePort, Row, lm_of_row
from dspex_worker.dspy_app.optimise.runs_as import waiting
from dspex_worker.dspy_app.optimise.values import packed, retyped, types_of, unpacked
from dspex_worker.dspy_app.plain import plain
from dspex_worker.dspy_app.programs import Program
from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.dspy_app.tools import ToolLost
from dspex_worker.runtime import Runtime
from dspex_worker.worker import Worker, versions

_CANDIDATES: Final = 32  # that are kept built
EXTRACTION: Final = -1  # the role of the LM that reads answers, for the adapter two_step


class Node:
    """Made in the cluster; its methods are called on threads, as many at once as there are rows."""

    def __init__(self, told: bytes) -> None:
        self._told = unpacked(told)
        self._rows: dict[int, Row] = {}
        self._built: OrderedDict[bytes, dspy.Module] = OrderedDict()
        self._guard = threading.Lock()  # guards the two above

    def start(self) -> bytes:
        """Load the application. Returns a packed map, with an ``error`` where that cannot be."""
        ready: Future[None] = Future()
        threading.Thread(target=self._serve, args=(ready,), name="dspex-node", daemon=True).start()
        try:
            ready.result()
        except Exception as error:  # noqa: BLE001 - whatever the application raises is told
            return packed({"error": loading.load_failure(error).to_wire()})
        return packed({})

    def begin(self, number: int, task: bytes) -> bytes:
        """Begin a row or a metric; returns what it asks first, or what became of it."""
        row = Row()
        with self._guard:
            self._rows[number] = row
        threading.Thread(target=self._run, args=(row, unpacked(task)), name=f"dspex-row-{number}", daemon=True).start()
        return self._next(number, row)

    def go_on(self, number: int, answer: bytes) -> bytes:
        """Give an answer; returns what is asked next, or what became of the row."""
        with self._guard:
            row = self._rows[number]
        row.answered(unpacked(answer))
        return self._next(number, row)

    def drop(self, number: int) -> None:
        """Nobody waits for the row any more."""
        with self._guard:
            row = self._rows.pop(number, None)
        if row is not None:
            row.drop()

    def _next(self, number: int, row: Row) -> bytes:
        event = row.events.get()
        if "ask" not in unpacked(event):
            with self._guard:
                self._rows.pop(number, None)
        return event

    def _serve(self, ready: Future[None]) -> None:
        """Load the application, and run the loop of its asynchronous code: on one thread, as a worker does."""
        loop = asyncio.new_event_loop()
        try:
            self._load(loop)
        except BaseException as error:  # noqa: BLE001 - told to who waits
            ready.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            return
        ready.set_result(None)
        loop.run_forever()

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        told = self._told
        if (here := versions()) != told["versions"]:
            raise loading.LoadError(f"this node has {here}, and the run's process {told['versions']}")
        if os.path.isdir(told["folder"]):  # it has the same image, or the same disk
            os.chdir(told["folder"])
        app, dspy_app = loading.load_with_dspy(told["target"])
        worker = Worker("node", models=told["models"], embedders=told["embedders"], dspy=told["dspy"])
        app.init_worker(worker)
        app.embedders.elsewhere = self._embed
        self._loop, self._app = loop, app
        loop.run_until_complete(self._hooks())
        programs = [dspy_app.rebuilt(one["id"], one["scope"], one["record"]) for one in told["programs"]]
        self._programs = [waiting(one, self._wait) for one in programs]

    async def _hooks(self) -> None:
        """What the application does at a worker's start. There is no end to do anything at: the process is killed."""
        await Runtime(self._app, Batch(self._loop), grace=5.0, tracebacks=False).start_worker()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _embed(self, name: str | None, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = await asyncio.wrap_future(lm_of_row().row.ask("embed", name=name, texts=texts))
        return found

    def _run(self, row: Row, task: dict[str, Any]) -> None:
        """On the row's thread."""
        call = Call(0, self._app.methods["evaluate_program"], {}, cast(Any, NodePort(row, self._loop)))
        calls.current.set(call)
        trace: list[Any] = []
        end: dict[str, Any] = {}
        module = None
        try:
            with dspy.context(**{**OWN, **self._lms(row), "trace": trace}):
                program = self._programs[task["program"]]
                module = self._candidate(program, task["state"])
                if "metric" in task:
                    end = self._measure(task, program, module)
                else:
                    end = self._forward(task, program, module)
        except CallCancelled:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it raises is told
            end = {"error": self._told_of(error, module)}
        if task.get("trace") is True and module is not None:
            end["trace"] = steps(trace, module)
        try:
            row.events.put(packed({"end": end}))
        except DspexError as error:
            row.events.put(packed({"end": {"error": {"error": error.to_wire()}}}))

    def _lms(self, row: Row) -> dict[str, Any]:
        told = self._told["settings"]
        settings = LmSettings(**told["lm"])
        extraction = None
        if told["extraction"] is not None:
            extraction = NodeLM.of(LmSettings(**told["extraction"]), row, EXTRACTION)
        found: dict[str, Any] = {"lm": NodeLM.of(settings, row, 0)}
        return found | ({"adapter": make_adapter(settings, extraction)} if told["adapter"] else {})

    def _candidate(self, program: Program, state: Mapping[str, Any]) -> dspy.Module:
        key = hashlib.sha256(packed({"program": id(program), "state": state})).digest()
        with self._guard:
            module = self._built.get(key)
        if module is None:
            module = load_state(program.for_call(), state)
            with self._guard:
                self._built[key] = module
                while len(self._built) > _CANDIDATES:
                    self._built.popitem(last=False)
        return copy_module(module)

    def _forward(self, task: dict[str, Any], program: Program, module: dspy.Module) -> dict[str, Any]:
        for name, predictor in predictors(module):
            if (role := task["roles"].get(name)) is not None:
                lm = lm_of_row().copy()
                lm.role = role
                predictor.lm = lm
        types = {field.name: field.type for field in program.inputs or ()}
        returned = module(**retyped(types, task["inputs"]))
        if isinstance(returned, dspy.Example):
            return {"outputs": dict(returned.items(include_dspy=True))}
        return {"value": returned}

    def _measure(self, task: dict[str, Any], program: Program, module: dspy.Module) -> dict[str, Any]:
        measure = of_application(task["metric"], self._app.scorers[task["metric"]])
        inputs = {field.name: field.type for field in program.inputs or ()}
        outputs = {field.name: field.type for field in program.outputs or ()}
        example = dspy.Example(**retyped({**outputs, **inputs}, task["example"])).with_inputs(*task["inputs"])
        given = task["prediction"]
        prediction = None if given is None else dspy.Prediction(**retyped(outputs, given))
        traces = [None if told is None else from_steps(told, module) for told in (task["trace"], task["pred_trace"])]
        score = measure(example, prediction, traces[0], task["pred_name"], traces[1])
        return {"score": score.score, "feedback": score.feedback}

    def _told_of(self, error: BaseException, module: dspy.Module | None) -> dict[str, Any]:
        """The error, as ``elsewhere`` raises it again."""
        if (raised := getattr(error, "dspex_raised", None)) is not None:
            return {"raised": raised}
        if isinstance(error, ToolLost):
            return {"tool_lost": error.error.to_wire()}
        if isinstance(error, AdapterParseError) and module is not None:
            of = [name for name, one in predictors(module) if one.signature.fields == error.signature.fields]
            told = {"adapter": error.adapter_name, "response": str(error.lm_response), "message": error.message}
            return {"parse": {**told, "predictor": of[0] if of else None, "parsed": _packable(error.parsed_result)}}
        return {"error": failure(error, self._told["tracebacks"]).to_wire()}


def _packable(value: Any) -> Any:
    try:
        packed({"": value})
    except DspexError:
        return None
    return plain(value)


def steps(trace: list[Any], module: dspy.Module) -> list[Any]:
    """What a trace has of the module's own predictors, by their names."""
    names = {id(predictor): name for name, predictor in predictors(module)}
    return [
        [names[id(predictor)], dict(inputs), dict(outputs.items(include_dspy=True))]
        for predictor, inputs, outputs in trace
        if id(predictor) in names and isinstance(outputs, dspy.Example)
    ]


def from_steps(told: list[Any], module: dspy.Module) -> list[Any]:
    """The trace of the module's predictors that ``steps`` told of."""
    known = dict(predictors(module))
    made = []
    for name, inputs, outputs in told:
        types = types_of(known[name].signature)
        made.append((known[name], retyped(types, inputs), dspy.Prediction(**retyped(types, outputs))))
    return made
