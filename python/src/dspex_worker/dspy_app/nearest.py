"""A program whose demos are chosen for each call: those rows whose inputs are nearest to the call's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import dspy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.modules import checked_demos, copy_module, predictors
from dspex_worker.dspy_app.records import MAX_DEMOS

Embed = Callable[[list[str]], Any]


class NearestGiven(BaseModel):
    """As a record holds it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    k: int = Field(ge=1, le=64)
    embedder: str = Field(min_length=1, max_length=256)
    rows: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_DEMOS)


class Nearest(dspy.Module):
    """Runs a module of one predictor with the nearest rows as its demos. On a thread: it waits for the embedder."""

    def __init__(self, module: dspy.Module, index: Index, k: int) -> None:
        super().__init__()
        self.module = module
        self._index = index
        self._k = k

    def forward(self, **inputs: Any) -> Any:
        module = copy_module(self.module)
        ((_, predictor),) = predictors(module)
        predictor.demos = self._index.nearest(inputs, self._k)
        return module(**inputs)


class Index:
    """Rows and their vectors, which are asked for once, when they are first needed."""

    def __init__(self, rows: list[dict[str, Any]], inputs: tuple[str, ...], embed: Embed) -> None:
        self._rows = rows
        self._inputs = inputs
        self._embed = embed
        self._guard = threading.Lock()  # held while the rows are embedded, so that this is done once
        self._vectors: Any = None

    def __deepcopy__(self, _: dict[int, Any]) -> Index:
        return self

    def nearest(self, inputs: Mapping[str, Any], k: int) -> list[dict[str, Any]]:
        """The nearest rows, the nearest last, where an LM heeds it most."""
        import numpy as np

        with self._guard:
            if self._vectors is None:
                self._vectors = np.asarray(self._embed([self._text(row) for row in self._rows]))
        vector = np.asarray(self._embed([self._text(inputs)]))[0]
        lengths = np.linalg.norm(self._vectors, axis=1) * np.linalg.norm(vector)
        scores = self._vectors @ vector / np.where(lengths == 0, 1, lengths)
        return [self._rows[place] for place in np.argsort(scores, kind="stable")[-k:]]

    def _text(self, row: Mapping[str, Any]) -> str:
        return " | ".join(f"{name}: {row[name]}" for name in self._inputs if name in row)


def nearest(module: dspy.Module, given: object, inputs: tuple[str, ...], embedder: Callable[[str], Embed]) -> Nearest:
    """The module, such that it chooses its demos.

    Raises:
        DspexError: ``invalid_params``: it has not exactly one predictor, or what is given is not as it must be.
    """
    found = predictors(module)
    if len(found) != 1:
        raise invalid_param("nearest", f"is for a program of one predictor; this one has {len(found)}")
    try:
        told = NearestGiven.model_validate(given)
    except ValidationError:
        message = f"must be a map of k, embedder and rows, of which there are 1 to {MAX_DEMOS}"
        raise invalid_param("nearest", message) from None
    rows = checked_demos("nearest.rows", found[0][1], told.rows)
    return Nearest(module, Index(rows, inputs, embedder(told.embedder)), told.k)
