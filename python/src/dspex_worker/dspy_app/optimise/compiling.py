"""An optimiser at work on a program, and what it makes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dspy
from dspex.errors import ProgramError

from dspex_worker.dspy_app.modules import load_state, predictors
from dspex_worker.dspy_app.optimise.metrics import Metric, Score, with_settings
from dspex_worker.dspy_app.optimise.optimisers import Task, compile_program, trials
from dspex_worker.dspy_app.optimise.parameters import Nearest, Parameters
from dspex_worker.dspy_app.optimise.progress import Progress
from dspex_worker.dspy_app.optimise.states import State, as_saved, state_of
from dspex_worker.dspy_app.plain import plain
from dspex_worker.dspy_app.programs import Program
from dspex_worker.dspy_app.records import state_problem

Others = dict[str, dict[str, Any]]  # DSPy settings, LM and adapter, by what they are for
Choose = Callable[[dspy.Module, dict[str, Any]], dspy.Module]


@dataclass(frozen=True)
class Made:
    """What an optimiser made of a program."""

    state: State
    nearest: dict[str, Any] | None = None  # as a record holds it


@dataclass
class Compiling:
    """An optimiser at work on a program. ``choose`` makes it a program that chooses its demos among the rows."""

    progress: Progress
    program: Program
    name: str
    parameters: Parameters
    examples: list[dspy.Example]
    metric: Metric
    concurrency: int
    seed: int
    max_errors: int
    choose: Choose | None
    made: Made | None = None

    def make(self, others: Others) -> Made:
        """Run it. On the run's thread."""
        module = self.program.for_call()
        names = [name for name, _ in predictors(module)]
        most = trials(self.name, self.parameters, len(names))
        self.progress.phase("optimize", **({} if most is None else {"trials": most}))
        if isinstance(self.parameters, Nearest):
            rows = [plain(dict(example.items())) for example in self.examples]
            told = {"k": self.parameters.k, "embedder": self.parameters.embedder, "rows": rows}
            self.made = Made(state_of(module, names), told)
            return self.made
        lms = {name: settings["lm"] for name, settings in others.items()}
        metric = told_of(self.metric, self.progress) if self.name == "simba" else self.metric
        task = Task(module, self.examples, metric, self.concurrency, self.seed, self.max_errors, lms)
        state = state_of(compile_program(self.name, self.parameters, task), names)
        if problem := state_problem(state):
            raise ProgramError(f"what {self.name} made cannot be kept: {problem}", details={"type": "ValueError"})
        self.made = Made(state)
        return self.made

    def module(self, made: Made) -> dspy.Module:
        """The program with what was made of it: as a version is built, so that nothing else is scored."""
        module = load_state(self.program.for_call(), made.state)
        return module if made.nearest is None or self.choose is None else self.choose(module, made.nearest)

    def best(self) -> dict[str, Any] | None:
        """What it has come to: what it made, or the best candidate so far, with its score on rows of the trainset."""
        if self.made is not None:
            return {"score": None, "state": as_saved(self.made.state)}
        if self.progress.best_state is None:
            return None
        return {"score": self.progress.best, "state": as_saved(self.progress.best_state)}


def measured(metric: Metric, others: Mapping[str, dict[str, Any]]) -> Metric:
    return metric if metric.judge is None else with_settings(metric, others.get("judge", {}))


def told_of(metric: Metric, progress: Progress) -> Metric:
    """The metric of an optimiser that DSPy's callbacks do not tell of: what it has scored is told as it comes."""
    guard = threading.Lock()  # guards the one below
    scores: list[float] = []

    def measure(*arguments: Any) -> Score:
        found: Score = metric.measure(*arguments)
        with guard:
            scores.append(found.score)
            progress.example(len(scores), round(sum(scores) / len(scores), 4))
        return found

    return Metric(metric.told, measure, metric.judge)
