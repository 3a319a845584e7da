"""The optimisers by name, and what each may be told: nothing else of DSPy's can be reached."""

from __future__ import annotations

import importlib.util
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspex_worker.dspy_app.optimise.problems import Problems

Auto = Literal["light", "medium", "heavy"]


class Parameters(BaseModel):
    """Of an optimiser. Models are names of configured ones; None is the program's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @property
    def models(self) -> dict[str, str]:
        """Names of models by parameter."""
        names = ("prompt_model", "teacher_model")
        return {name: value for name in names if isinstance(value := getattr(self, name, None), str)}


class Labeled(Parameters):
    k: int = Field(16, ge=1, le=64)


class Bootstrap(Parameters):
    max_bootstrapped_demos: int = Field(4, ge=0, le=32)
    max_labeled_demos: int = Field(16, ge=0, le=64)
    max_rounds: int = Field(1, ge=1, le=5)
    metric_threshold: float = Field(0.5, gt=0, le=1)  # an answer of that score is a demo
    teacher_model: str | None = None


class RandomSearch(Bootstrap):
    num_candidates: int = Field(8, ge=1, le=64)
    stop_at_score: float | None = Field(None, gt=0, le=1)


class Nearest(Parameters):
    k: int = Field(3, ge=1, le=64)
    embedder: str | None = None


class Copro(Parameters):
    breadth: int = Field(10, ge=2, le=32)
    depth: int = Field(3, ge=1, le=10)
    init_temperature: float = Field(1.4, ge=0, le=2)
    prompt_model: str | None = None


class Mipro(Parameters):
    auto: Auto | None = None
    num_candidates: int | None = Field(None, ge=2, le=32)
    num_trials: int | None = Field(None, ge=1, le=200)
    max_bootstrapped_demos: int = Field(4, ge=0, le=32)
    max_labeled_demos: int = Field(4, ge=0, le=64)
    minibatch_size: int | None = Field(None, ge=1, le=1000)  # None: each trial is scored on all rows
    init_temperature: float = Field(1.0, ge=0, le=2)
    metric_threshold: float = Field(0.5, gt=0, le=1)
    prompt_model: str | None = None
    teacher_model: str | None = None

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        sizes = (self.num_candidates, self.num_trials)
        if self.auto is not None and sizes != (None, None):
            raise ValueError("auto says how many candidates and trials there are: leave out num_candidates, num_trials")
        if self.auto is None and None in sizes and sizes != (None, None):
            raise ValueError("num_candidates and num_trials are given together, or neither, or auto")
        return self


class Gepa(Parameters):
    auto: Auto | None = None
    max_metric_calls: int | None = Field(None, ge=1, le=100_000)
    max_full_evals: int | None = Field(None, ge=1, le=1000)
    reflection_minibatch_size: int = Field(3, ge=1, le=32)
    use_merge: bool = True
    max_merge_invocations: int = Field(5, ge=0, le=100)
    prompt_model: str | None = None  # which reflects

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if sum(one is not None for one in (self.auto, self.max_metric_calls, self.max_full_evals)) > 1:
            raise ValueError("give one of auto, max_metric_calls, max_full_evals")
        return self


class Simba(Parameters):
    bsize: int | None = Field(None, ge=2, le=256)  # None: 32, or as many rows as there are
    num_candidates: int = Field(6, ge=2, le=32)
    max_steps: int = Field(8, ge=1, le=32)
    max_demos: int = Field(4, ge=0, le=32)
    prompt_model: str | None = None


OPTIMISERS: Final[dict[str, type[Parameters]]] = {
    "labeled": Labeled,
    "bootstrap": Bootstrap,
    "random_search": RandomSearch,
    "knn": Nearest,
    "copro": Copro,
    "mipro": Mipro,
    "gepa": Gepa,
    "simba": Simba,
}
# DSPy's own names are understood, too.
_DSPYS: Final = {
    "labeledfewshot": "labeled",
    "bootstrapfewshot": "bootstrap",
    "bootstrapfewshotwithrandomsearch": "random_search",
    "knnfewshot": "knn",
    "miprov2": "mipro",
}


def read_optimiser(name: str, given: object, problems: Problems) -> tuple[str, Parameters | None]:
    """The optimiser's name and its parameters; None where something is wrong, which is noted."""
    name = _DSPYS.get(name.lower().replace("_", ""), name.lower())
    if name not in OPTIMISERS:
        problems.add("optimizer", f"{name[:100]!r} is not known; optimizers are: {', '.join(OPTIMISERS)}")
        return name, None
    if name == "mipro" and importlib.util.find_spec("optuna") is None:
        problems.add("optimizer", "'mipro' needs the package optuna: install dspex-worker[optimize] for the workers")
    return name, problems.read(OPTIMISERS[name], given, "parameters")
