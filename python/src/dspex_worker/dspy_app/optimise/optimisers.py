"""DSPy's optimisers: each is made of checked parameters and compiles a copy of a program.

What a run is to be scored on at its end is shown to none of them. Those that choose among candidates do so on a half of
the rows that they learn from, where there are enough of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dspy
from dspy.teleprompt import (
    COPRO,
    GEPA,
    SIMBA,
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    LabeledFewShot,
    MIPROv2,
)

from dspex_worker.dspy_app.optimise import parameters as given
from dspex_worker.dspy_app.optimise.metrics import Metric

_HALVED: Final = 8  # rows from which on some are kept to choose by
_MINIBATCH: Final = 35


@dataclass
class Task:
    """What an optimiser works on, on the run's thread, in its DSPy settings."""

    module: dspy.Module
    examples: list[dspy.Example]
    metric: Metric
    concurrency: int
    seed: int
    max_errors: int
    lms: Mapping[str, dspy.LM] = field(default_factory=dict)  # by parameter: prompt_model, teacher_model

    def shuffled(self) -> list[dspy.Example]:
        examples = list(self.examples)
        random.Random(self.seed).shuffle(examples)  # noqa: S311 - it is to be the same for the same seed
        return examples

    def halves(self) -> tuple[list[dspy.Example], list[dspy.Example]]:
        """Rows to learn from, and rows to choose by."""
        examples = self.shuffled()
        half = len(examples) // 2
        return (examples[half:], examples[:half]) if len(examples) >= _HALVED else (examples, examples)

    @property
    def teacher(self) -> dict[str, Any]:
        return {"lm": self.lms["teacher_model"]} if "teacher_model" in self.lms else {}

    @property
    def prompt_model(self) -> dspy.LM | None:
        return self.lms.get("prompt_model")


def trials(name: str, parameters: Any, predictors: int) -> int | None:
    """How many candidates the optimiser will score, where that can be said."""
    match name:
        case "random_search":
            return int(parameters.num_candidates) + 3
        case "copro":
            return int(parameters.breadth * parameters.depth * predictors)
    return None


def compile_program(name: str, parameters: Any, task: Task) -> dspy.Module:
    """The compiled module; the given one is left as it is."""
    made: dspy.Module = _COMPILE[name](parameters, task)
    return made


def _labeled(p: given.Labeled, task: Task) -> dspy.Module:
    return LabeledFewShot(k=p.k).compile(task.module, trainset=task.shuffled())


def _bootstrap(p: given.Bootstrap, task: Task) -> dspy.Module:
    optimiser = BootstrapFewShot(
        metric=task.metric,
        metric_threshold=p.metric_threshold,
        teacher_settings=task.teacher,
        max_bootstrapped_demos=p.max_bootstrapped_demos,
        max_labeled_demos=p.max_labeled_demos,
        max_rounds=p.max_rounds,
        max_errors=task.max_errors,
    )
    return optimiser.compile(task.module, trainset=task.shuffled())


def _random_search(p: given.RandomSearch, task: Task) -> dspy.Module:
    optimiser = BootstrapFewShotWithRandomSearch(
        metric=task.metric,
        metric_threshold=p.metric_threshold,
        teacher_settings=task.teacher,
        max_bootstrapped_demos=max(1, p.max_bootstrapped_demos),
        max_labeled_demos=p.max_labeled_demos,
        max_rounds=p.max_rounds,
        num_candidate_programs=p.num_candidates,
        num_threads=task.concurrency,
        max_errors=task.max_errors,
        stop_at_score=None if p.stop_at_score is None else 100 * p.stop_at_score,
    )
    learn, choose = task.halves()
    return optimiser.compile(task.module, trainset=learn, valset=choose)


def _copro(p: given.Copro, task: Task) -> dspy.Module:
    optimiser = COPRO(
        prompt_model=task.prompt_model,
        metric=task.metric,
        breadth=p.breadth,
        depth=p.depth,
        init_temperature=p.init_temperature,
    )
    evaluation = {"num_threads": task.concurrency, "display_progress": False, "display_table": 0}
    return optimiser.compile(task.module, trainset=task.shuffled(), eval_kwargs=evaluation)


def _mipro(p: given.Mipro, task: Task) -> dspy.Module:
    auto = p.auto or ("light" if p.num_candidates is None else None)
    optimiser = MIPROv2(
        metric=task.metric,
        metric_threshold=p.metric_threshold,
        prompt_model=task.prompt_model,
        teacher_settings=task.teacher,
        max_bootstrapped_demos=p.max_bootstrapped_demos,
        max_labeled_demos=p.max_labeled_demos,
        auto=auto,
        num_candidates=p.num_candidates,
        num_threads=task.concurrency,
        max_errors=task.max_errors,
        seed=task.seed,
        init_temperature=p.init_temperature,
    )
    learn, choose = task.halves()
    return optimiser.compile(
        task.module,
        trainset=learn,
        valset=choose,
        num_trials=p.num_trials,
        minibatch=p.minibatch_size is not None,
        minibatch_size=min(p.minibatch_size or _MINIBATCH, len(choose)),
    )


def _gepa(p: given.Gepa, task: Task) -> dspy.Module:
    sizes = {"auto": p.auto, "max_metric_calls": p.max_metric_calls, "max_full_evals": p.max_full_evals}
    if not any(sizes.values()):
        sizes["auto"] = "light"
    optimiser = GEPA(
        metric=task.metric,
        reflection_minibatch_size=p.reflection_minibatch_size,
        reflection_lm=task.prompt_model or dspy.settings.lm,
        use_merge=p.use_merge,
        max_merge_invocations=p.max_merge_invocations,
        num_threads=task.concurrency,
        warn_on_score_mismatch=False,
        seed=task.seed,
        **sizes,
    )
    learn, choose = task.halves()
    return optimiser.compile(task.module, trainset=learn, valset=choose)


def _simba(p: given.Simba, task: Task) -> dspy.Module:
    optimiser = SIMBA(
        metric=task.metric,
        bsize=p.bsize or min(32, len(task.examples)),
        num_candidates=p.num_candidates,
        max_steps=p.max_steps,
        max_demos=p.max_demos,
        prompt_model=task.prompt_model,
        num_threads=task.concurrency,
    )
    return optimiser.compile(task.module, trainset=task.shuffled(), seed=task.seed)


_COMPILE: Final[dict[str, Callable[[Any, Task], dspy.Module]]] = {
    "labeled": _labeled,
    "bootstrap": _bootstrap,
    "random_search": _random_search,
    "copro": _copro,
    "mipro": _mipro,
    "gepa": _gepa,
    "simba": _simba,
}
