"""Metrics: how good an answer is, from 0 to 1, with a word on why where there is one."""

from __future__ import annotations

import inspect
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import dspy
from pydantic import BaseModel, ConfigDict, Field

from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.optimise.problems import Problems
from dspex_worker.dspy_app.plain import plain

BUILT_IN: Final = ("exact", "f1", "contains", "judge")

_ARGUMENTS: Final = 5  # example, prediction, trace, name of a predictor, its trace
_SHOWN: Final = 2000  # characters of a value that feedback tells


class Fields(BaseModel):
    """Parameters of the metrics that compare fields."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    field: str | None = Field(None, max_length=256)  # None: all outputs that a row has


class Judge(BaseModel):
    """Parameters of the judge."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Literal["judge"]
    rubric: str = Field(min_length=1, max_length=8000)
    model: str | None = None  # a configured one; None: the program's


@dataclass(frozen=True)
class Score:
    """``score`` is from 0 to 1 for what is built in; an application's may be any number."""

    score: float
    feedback: str | None = None


Measure = Callable[..., Score]


class Metric:
    """As DSPy calls it: with example and prediction, and with what else an optimiser gives."""

    def __init__(
        self, told: dict[str, Any], measure: Measure, judge: Judge | None = None, fields: Fields | None = None
    ) -> None:
        self.told = told  # what a version's meta says of it
        self.fields = fields  # of one that compares
        self.judge = judge
        self.measure = measure
        self.__name__ = str(told["name"])

    def lacks(self, example: dspy.Example) -> str | None:
        """What the row has not that it would need to be scored at all."""
        if self.fields is None:
            return None
        field = self.fields.field
        if any(field in (None, name) for name in example.labels()):
            return None
        return f"has no output, which {self.told['name']} needs" if field is None else f"has no {field!r}"

    def __call__(
        self, example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        """A number; for GEPA, which asks of a predictor, the number with feedback."""
        found = self.measure(example, prediction, trace, pred_name, pred_trace)
        if pred_name is None:
            return found.score
        feedback = found.feedback or f"This got a score of {found.score:g}."
        return dspy.Prediction(score=found.score, feedback=feedback)


def read_metric(given: object, registered: Mapping[str, Callable[..., Any]], problems: Problems) -> Metric | None:
    """The metric of that name, or of a map with a name and parameters; None where something is wrong, which is noted.

    ``registered`` are the application's; one may take the place of one that is built in.
    """
    told = {"name": given} if isinstance(given, str) else given
    if not isinstance(told, Mapping) or not isinstance(told.get("name"), str):
        problems.add("metric", "must be a name, or a map with a name and parameters")
        return None
    name = told["name"]
    if name in registered:
        for key in told.keys() - {"name"}:
            problems.add(f"metric.{key}", "is not known: the application's metrics have no parameters")
        return problems.attempt(lambda: Metric({"name": name}, of_application(name, registered[name])))
    if name == "judge":
        judge = problems.read(Judge, told, "metric")
        return None if judge is None else Metric(_short(judge), _judging(judge), judge)
    if name not in _COMPARE:
        known = ", ".join(sorted({*BUILT_IN, *registered}))
        problems.add("metric", f"{name[:100]!r} is not known; metrics are: {known}")
        return None
    fields = problems.read(Fields, told, "metric")
    return None if fields is None else Metric(_short(fields), _comparing(_COMPARE[name], fields.field), fields=fields)


def _short(parameters: BaseModel) -> dict[str, Any]:
    told = parameters.model_dump(exclude_none=True)
    return {key: value[:500] if isinstance(value, str) else value for key, value in told.items()}


def of_application(name: str, function: Callable[..., Any]) -> Measure:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(inspect.signature(function).parameters.values())
    takes = sum(one.kind in kinds for one in parameters)
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        takes = _ARGUMENTS
    if takes < 2 or inspect.iscoroutinefunction(function):
        raise invalid_param("metric", f"{name!r} is no plain function of an example and a prediction")

    def measure(*arguments: Any) -> Score:
        returned = function(*arguments[:takes])
        feedback = None
        if isinstance(returned, (Mapping, dspy.Prediction)):
            if "score" not in returned:
                raise TypeError(f"metric {name!r} returned a map without a score")
            returned, feedback = returned["score"], returned.get("feedback")
        try:
            score = float(returned)
        except (TypeError, ValueError):
            raise TypeError(f"metric {name!r} returned {type(returned).__name__}: it must be a number") from None
        if not math.isfinite(score):
            raise ValueError(f"metric {name!r} returned {score}")
        return Score(score, None if feedback is None else str(feedback))

    return measure


def _comparing(compare: Callable[[Any, Any], float], field: str | None) -> Measure:
    def measure(example: Any, prediction: Any, *_: Any) -> Score:
        wanted = {name: plain(value) for name, value in example.labels().items() if field in (None, name)}
        if not wanted:
            raise ValueError("the row has nothing to compare with" if field is None else f"the row has no {field!r}")
        got = {} if prediction is None else prediction
        scores, told = [], []
        for name, value in wanted.items():
            found = plain(got.get(name)) if name in got else None
            scores.append(compare(value, found))
            if scores[-1] < 1:
                told.append(f"{name}: the answer was {_shown(found)}, it should have been {_shown(value)}.")
        return Score(sum(scores) / len(scores), " ".join(told) or "The answer is right.")

    return measure


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _exact(wanted: Any, got: Any) -> float:
    if isinstance(wanted, str) and isinstance(got, str):
        return float(_normal(wanted) == _normal(got))
    return float(type(wanted) is type(got) and wanted == got)


def _f1(wanted: Any, got: Any) -> float:
    """How many words of the two are the same ones."""
    if not isinstance(wanted, str) or not isinstance(got, str):
        return _exact(wanted, got)
    ours, theirs = _normal(wanted).split(), _normal(got).split()
    same = sum((Counter(ours) & Counter(theirs)).values())
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * same / (len(ours) + len(theirs))


def _contains(wanted: Any, got: Any) -> float:
    if isinstance(got, list):
        return max((_exact(wanted, one) for one in got), default=0.0)
    if isinstance(wanted, str) and isinstance(got, str):
        return float(_normal(wanted) in _normal(got))
    return _exact(wanted, got)


_COMPARE: Final = {"exact": _exact, "f1": _f1, "contains": _contains}
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _normal(text: str) -> str:
    """Without case, punctuation, articles and further blanks: as SQuAD compares answers."""
    text = unicodedata.normalize("NFD", text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


class Judgement(dspy.Signature):
    """Judge an answer by the rubric. The score is from 0 (it fails the rubric) to 1 (it satisfies all of it)."""

    rubric: str = dspy.InputField()
    task: dict[str, Any] = dspy.InputField(desc="what was asked")
    expected: dict[str, Any] = dspy.InputField(desc="a good answer, where one is known")
    answer: dict[str, Any] = dspy.InputField(desc="the answer to judge")
    feedback: str = dspy.OutputField(desc="one or two sentences: what is wrong, and how to do better")
    score: float = dspy.OutputField(desc="from 0 to 1")


def _judging(judge: Judge) -> Measure:
    predict = dspy.Predict(Judgement)

    def measure(example: Any, prediction: Any, *_: Any) -> Score:
        told = predict(
            rubric=judge.rubric,
            task=plain(example.inputs()),
            expected=plain(example.labels()),
            answer={} if prediction is None else plain(dict(prediction.items())),
        )
        return Score(min(1.0, max(0.0, float(told.score))), str(told.feedback))

    return measure


def with_settings(metric: Metric, settings: dict[str, Any]) -> Metric:
    """The judge in DSPy settings of its own: another LM and its adapter."""
    measure = metric.measure

    def measured(*arguments: Any) -> Score:
        # Its own requests are no part of the program's trace, of which optimisers make demos.
        with dspy.context(trace=None, **settings):
            return measure(*arguments)

    return Metric(metric.told, measured, metric.judge)
