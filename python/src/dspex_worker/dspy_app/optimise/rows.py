"""Rows of data: a program's inputs and outputs, checked, as DSPy's examples."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dspy
from dspex import wire

from dspex_worker.dspy_app.inputs import InputChecker
from dspex_worker.dspy_app.media import Permissions
from dspex_worker.dspy_app.optimise.problems import Problems
from dspex_worker.dspy_app.programs import Program

MAX_ROWS: Final = 10_000
_WRONG: Final = 200  # rows that are looked at further once that many things are wrong: none

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """Examples, and what is said of where they came from."""

    examples: list[dspy.Example]
    name: str | None
    hash: str  # of all rows that were given, where these are a part of them
    of: int  # how many those were

    def told(self) -> dict[str, Any]:
        told = {"rows": len(self.examples), "of": self.of, "hash": self.hash}
        return told if self.name is None else {"name": self.name, **told}


def hash_of(rows: Sequence[object]) -> str:
    """The same for the same rows in the same order."""
    sha = hashlib.sha256()
    for row in rows:
        packed = wire.pack_value(row, "row")
        sha.update(len(packed).to_bytes(8, "big") + packed)
    return sha.hexdigest()[:16]


class RowChecker:
    """Makes examples of a program's rows.

    ``more``: columns that the program does not have are let through. ``lacks``: what a row lacks for the metric.
    """

    def __init__(
        self,
        program: Program,
        permissions: Permissions,
        more: bool,
        lacks: Callable[[dspy.Example], str | None],
        problems: Problems,
    ) -> None:
        self._program = program
        self._permissions = permissions
        self._more = more
        self._lacks = lacks
        self._problems = problems
        self._inputs = {field.name for field in program.inputs or ()}
        self._outputs = None if program.outputs is None else {field.name for field in program.outputs}
        optional = None if program.outputs is None else [replace(one, required=False) for one in program.outputs]
        self._checker = InputChecker(optional)
        if program.inputs is None:
            problems.add("program", "does not tell its inputs: register it with a signature")
        if program.memory is not None:
            problems.add("program", "keeps a conversation: it cannot be run on rows")

    def read(self, path: str, given: object, find: Callable[[str], list[Any]]) -> Rows | None:
        """The rows that a client gave, or named; None where something is wrong, which is noted."""
        name = given if isinstance(given, str) else None
        rows = self._problems.attempt(lambda: find(given)) if isinstance(given, str) else given
        if rows is None:
            return None
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS:
            size = f"{len(rows)} rows" if isinstance(rows, list) else type(rows).__name__
            self._problems.add(path, f"must be 1 to {MAX_ROWS} rows, or the name of a dataset; is {size}")
            return None
        examples = []
        for index, row in enumerate(rows):
            if len(self._problems.found) >= _WRONG:
                break
            if (example := self._example(f"{path}[{index}]", row)) is not None:
                examples.append(example)
        return Rows(examples, name, hash_of(rows), len(rows)) if len(examples) == len(rows) else None

    def _example(self, path: str, row: object) -> dspy.Example | None:
        if not isinstance(row, Mapping):
            self._problems.add(path, f"must be a map of inputs and outputs, is {type(row).__name__}")
            return None
        before = len(self._problems.found)
        inputs = {name: value for name, value in row.items() if name in self._inputs}
        outputs = {n: v for n, v in row.items() if n not in self._inputs and (not self._outputs or n in self._outputs)}
        if not self._more:
            for name in row.keys() - inputs.keys() - outputs.keys():
                known = ", ".join(sorted(self._inputs | (self._outputs or set())))
                self._problems.add(f"{path}.{name}", f"is neither an input nor an output; they are {known}")
        rest = {name: value for name, value in row.items() if name not in inputs and name not in outputs}
        told = self._problems.attempt(lambda: self._program.checker.check(inputs, self._permissions, path))
        wanted = self._problems.attempt(lambda: self._checker.check(outputs, self._permissions, path))
        if told is None or wanted is None or len(self._problems.found) > before:
            return None
        example = dspy.Example(**told, **wanted, **rest).with_inputs(*told)
        if problem := self._lacks(example):
            self._problems.add(path, problem)
            return None
        return example


def split(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """What is left to learn from, and a share that is held out; the same for the same seed."""
    examples = list(rows.examples)
    random.Random(seed).shuffle(examples)  # noqa: S311 - it is to be the same for the same seed
    out = min(len(examples) - 1, max(1, round(len(examples) * share)))
    return replace(rows, examples=examples[out:]), replace(rows, examples=examples[:out])
