"""Programs as data: exported, and imported again where they were made or elsewhere, or from what DSPy itself saved.

What comes in is a client's and is checked as such; nothing of it is code, and no key is in what goes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import dspy

from dspex_worker.dspy_app.errors import Problem, invalid_param, invalid_params
from dspex_worker.dspy_app.modules import predictors
from dspex_worker.dspy_app.records import Record, meta_problem, state_problem
from dspex_worker.dspy_app.signatures import MAX_TEXT

FORMAT: Final = "dspex.program/1"

_MADE_OF: Final = ("signature", "module", "parameters", "instructions", "tools", "memory", "nearest", "state")
_ABOUT: Final = ("model", "version", "created", "source", "meta")
_DSPYS: Final = frozenset({"traces", "train", "demos", "signature", "lm", "metadata"})


def exported(record: Record, model: str | None) -> dict[str, Any]:
    """The program as data: what it is made of, and what is said of it."""
    made_of = {name: getattr(record, name) for name in _MADE_OF if getattr(record, name) is not None}
    told = record.told()
    about = {name: told[name] for name in ("version", "source", "meta")} | {"created": told["created"].isoformat()}
    return {"format": FORMAT, **made_of, **about, "model": model}


def imported(data: Mapping[str, Any]) -> Record:
    """The record of exported data; it is built next, and checked by that.

    Raises:
        DspexError: ``invalid_params``, with all that is wrong.
    """
    known = {"format", *_MADE_OF, *_ABOUT}
    problems = [Problem(f"data.{key}"[:200], "is not known") for key in data if key not in known]
    if data.get("format") != FORMAT:
        problems.append(Problem("data.format", f"must be {FORMAT!r}"))
    module, instructions = data.get("module", "predict"), data.get("instructions")
    if not isinstance(module, str):
        problems.append(Problem("data.module", "must be text"))
    if instructions is not None and not (isinstance(instructions, str) and len(instructions) <= MAX_TEXT):
        problems.append(Problem("data.instructions", f"must be text of at most {MAX_TEXT} characters"))
    for name, problem in (("meta", meta_problem(data.get("meta"))), ("state", state_problem(data.get("state")))):
        if problem:
            problems.append(Problem(f"data.{name}", problem))
    if problems:
        raise invalid_params(problems)
    record = Record(data.get("signature"), str(module), instructions, data.get("state"), meta=data.get("meta"))
    more: dict[str, Any] = {name: data.get(name) for name in ("tools", "parameters", "memory", "nearest")}
    return replace(record, **more)


def dspy_state(data: Mapping[str, Any], module: dspy.Module) -> tuple[dict[str, Any], list[str]]:
    """Demos and instructions of what DSPy's ``module.save`` wrote as JSON, and the names of what else was in it.

    Raises:
        DspexError: ``invalid_params``: it is of another signature, or none of DSPy's.
    """
    found = predictors(module)
    states = {name: value for name, value in data.items() if name != "metadata"}
    if len(found) == 1 and "signature" in data and "demos" in data:
        states = {found[0][0]: states}
    known = dict(found)
    state: dict[str, Any] = {}
    ignored: list[str] = []
    for name, saved in states.items():
        at = f"data.{name}"[:200]
        if name not in known:
            raise invalid_param(at, f"is no predictor of the program; predictors are {', '.join(known)}")
        if not isinstance(saved, Mapping) or not saved.keys() <= _DSPYS:
            raise invalid_param(at, "is not what DSPy saves of a predictor")
        state[name] = {"demos": saved.get("demos") or []} | _instructions(at, saved.get("signature"), known[name])
        ignored += [f"{name}.{key}" for key in ("lm", "traces", "train") if saved.get(key)]
    if problem := state_problem(state):
        raise invalid_param("data", problem)
    return state, ignored


def _instructions(at: str, saved: object, predictor: dspy.Predict) -> dict[str, Any]:
    if not isinstance(saved, Mapping):
        return {}
    fields = saved.get("fields")
    if isinstance(fields, list):
        own = predictor.dump_state()["signature"]["fields"]
        theirs = [one.get("prefix") if isinstance(one, Mapping) else None for one in fields]
        if theirs != [one["prefix"] for one in own]:
            raise invalid_param(f"{at}.signature", "is of other fields than the program's")
    return {"instructions": saved["instructions"]} if isinstance(saved.get("instructions"), str) else {}
