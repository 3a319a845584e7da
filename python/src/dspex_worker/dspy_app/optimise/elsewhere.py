"""Programs and metrics of a run that run on nodes, while LMs, embedders and tools of the client's are asked here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import dspy
from dspex.errors import DspexError, error_from_wire
from dspy.clients._deprecation import adapter_message_call
from dspy.utils.exceptions import AdapterParseError

from dspex_worker.calls import Call, message_of
from dspex_worker.dspy_app.modules import predictors
from dspex_worker.dspy_app.optimise.metrics import Metric, Score
from dspex_worker.dspy_app.optimise.node import EXTRACTION, from_steps
from dspex_worker.dspy_app.optimise.runs_as import running
from dspex_worker.dspy_app.optimise.states import state_of
from dspex_worker.dspy_app.optimise.values import packed, retyped
from dspex_worker.dspy_app.plain import plain
from dspex_worker.dspy_app.programs import Program
from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.dspy_app.tools import ToolLost
from dspex_worker.worker import Worker, versions

if TYPE_CHECKING:
    from dspex_worker.app import App

Answer = Callable[[dict[str, Any]], bytes]  # of what a row asks


class Nodes(Protocol):
    """Where rows run."""

    def run(self, task: bytes, safe: bool, answer: Answer) -> dict[str, Any]:
        """Run a row or a metric; returns its end. Raises DspexError ``worker_lost`` where that cannot be known."""


def told_to_nodes(
    app: App, worker: Worker, programs: Sequence[Program], settings: LmSettings | DspexError, tracebacks: bool
) -> bytes:
    """What a node makes itself of. No key, and no address of a model's, is among it."""
    lm = settings if isinstance(settings, LmSettings) else None
    return packed(
        {
            "versions": versions(),
            "target": app.target,
            "folder": app.folder,
            "models": {name: _open(given) for name, given in worker.models.items()},
            "embedders": {name: _open(given) for name, given in worker.embedders.items()},
            "dspy": {name: value for name, value in worker.dspy.items() if name != "optimize"},
            "tracebacks": tracebacks,
            "settings": {
                "lm": _lm(lm) or {"name": "none", "model": "none"},
                "extraction": _lm(lm.extraction) if lm is not None else None,
                "adapter": lm is not None,
            },
            "programs": [
                {"id": one.id, "scope": one.scope, "record": one.record and one.record.to_value()} for one in programs
            ],
        }
    )


def _open(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in ("api_key", "api_base", "fallbacks")}


def _lm(settings: LmSettings | None) -> dict[str, Any] | None:
    """What says how an LM is to be asked."""
    if settings is None:
        return None
    names = ("name", "model", "adapter", "response_schema")
    return {name: getattr(settings, name) for name in names}


class Elsewhere:
    """One run's. Rows are asked for on threads, in the DSPy settings in which they are to run."""

    def __init__(self, nodes: Nodes, app: App, call: Call) -> None:
        self._nodes = nodes
        self._app = app
        self._call = call
        self._names: dict[int, str] = {}  # of predictors that traces have, by id; for metrics that look at one

    def program(self, number: int, program: Program) -> Program:
        """The program such that it runs on nodes, where it is the one of that number."""

        def forward(module: dspy.Module, **inputs: Any) -> Any:
            return self._forward(number, program, module, inputs)

        return running(program, forward)

    def metric(self, metric: Metric, number: int, program: Program) -> Metric:
        """The metric such that it runs on nodes, where it is the application's; others take no time."""
        name = metric.told["name"]
        if name not in self._app.scorers:
            return metric

        def measure(example: Any, prediction: Any, trace: Any, pred_name: Any, pred_trace: Any) -> Score:
            task = {
                "program": number,
                "state": {},
                "metric": name,
                "example": dict(example.items()),
                "inputs": list(example.inputs().keys()),
                "prediction": None if prediction is None else dict(prediction.items()),
                "trace": self._steps(trace),
                "pred_name": pred_name,
                "pred_trace": self._steps(pred_trace),
            }
            end = self._run(task, program, None, [dspy.settings.lm])
            return Score(end["score"], end["feedback"])

        return Metric(metric.told, measure, metric.judge)

    def _steps(self, trace: Any) -> list[Any] | None:
        if trace is None:
            return None
        if not isinstance(trace, list):  # MIPROv2 and others say by it that there is none
            return []
        named = [(self._names.get(id(step[0])), step) for step in trace]
        return [[name, dict(s[1]), dict(s[2].items())] for name, s in named if name and isinstance(s[2], dspy.Example)]

    def _forward(self, number: int, program: Program, module: dspy.Module, inputs: dict[str, Any]) -> Any:
        lms, roles = [dspy.settings.lm], {}
        for name, predictor in predictors(module):
            if predictor.lm is not None:
                roles[name] = len(lms)
                lms.append(predictor.lm)
        trace = dspy.settings.trace
        task = {"program": number, "state": state_of(module), "roles": roles, "inputs": inputs}
        end = self._run(task | {"trace": trace is not None}, program, module, lms)
        if "outputs" not in end:
            return end["value"]
        return dspy.Prediction(**retyped({field.name: field.type for field in program.outputs or ()}, end["outputs"]))

    def _run(self, task: dict[str, Any], program: Program, module: dspy.Module | None, lms: list[Any]) -> Any:
        raised: list[Exception] = []

        def answer(asked: dict[str, Any]) -> bytes:
            told: dict[str, Any] = {"number": asked["number"]}
            try:
                return packed(told | {"value": plain(self._asked(asked["ask"], asked["of"], lms))})
            except Exception as error:  # noqa: BLE001 - the row is told, and what it makes of it comes back
                raised.append(error)
                told |= {"raised": len(raised) - 1, "type": type(error).__name__, "message": message_of(error)}
                return packed(told | ({"error": error.to_wire()} if isinstance(error, DspexError) else {}))

        end = self._nodes.run(packed(task), program.safe, answer)
        if module is not None and dspy.settings.trace is not None:
            made = from_steps(end.get("trace", []), module)
            self._names |= {id(predictor): name for name, predictor in predictors(module)}
            dspy.settings.trace.extend(made)
        if (error := end.get("error")) is not None:
            raise _as_raised(error, module, raised)
        return end

    def _asked(self, what: str, of: dict[str, Any], lms: list[Any]) -> Any:
        match what:
            case "lm":
                role = of["role"]
                lm = dspy.settings.adapter.extraction_model if role == EXTRACTION else lms[role]
                messages = of["kwargs"].get("messages")
                with adapter_message_call(lm, messages):
                    return lm(*of["args"], **of["kwargs"])
            case "embed":
                return self._app.embedder(of["name"])(of["texts"]).tolist()
            case _:
                return self._call.ask_blocking(of["method"], of["params"])


def _as_raised(error: dict[str, Any], module: dspy.Module | None, raised: list[Exception]) -> BaseException:
    made: BaseException
    if "raised" in error:
        made = raised[error["raised"]]
    elif "tool_lost" in error:
        made = ToolLost(error_from_wire(error["tool_lost"]))
    elif "parse" in error:
        told = error["parse"]
        known = {} if module is None else dict(predictors(module))
        signature = known[told["predictor"]].signature if told["predictor"] in known else dspy.Signature("a -> b")
        made = AdapterParseError(told["adapter"], signature, told["response"], parsed_result=told["parsed"])
    else:
        made = error_from_wire(error["error"])
    return made
