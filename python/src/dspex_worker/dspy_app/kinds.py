"""The modules that a client may make a program of: DSPy's own by name, each with its parameters, and the application's.

What a kind adds to a signature, and which names of fields it keeps for itself, is said here once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import dspy
from annotated_types import Len
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dspex_worker.dspy_app.chosen import BestOfN, Refine, noting
from dspex_worker.dspy_app.errors import Problem, invalid_param, invalid_params, invalid_signature
from dspex_worker.dspy_app.media import Permissions
from dspex_worker.dspy_app.signatures import Field as SignatureField
from dspex_worker.dspy_app.signatures import SignatureSpec, fields_of
from dspex_worker.dspy_app.tools import REACT, check_tools, react

ModuleMaker = Callable[[type[dspy.Signature]], dspy.Module]
Rewards = Mapping[str, Callable[..., Any]]
Fields = tuple[SignatureField, ...]

MAX_ATTEMPTS = 16  # LM calls, or chains, of one use of a program
PROGRAM_OF_THOUGHT = "program_of_thought"


class Parameters(BaseModel):
    """Of a kind; this one has none."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Iterations(Parameters):
    max_iters: int = Field(20, ge=1, le=100)


class Attempts(Parameters):
    max_iters: int = Field(3, ge=1, le=MAX_ATTEMPTS)


class Choice(Parameters):
    n: int = Field(ge=1, le=MAX_ATTEMPTS)
    reward: str
    threshold: float = Field(allow_inf_nan=False)
    module: Literal["predict", "chain_of_thought"] = "predict"
    fail_count: int | None = Field(None, ge=1, le=MAX_ATTEMPTS)


class Comparison(Parameters):
    m: int = Field(3, ge=2, le=MAX_ATTEMPTS)
    temperature: float = Field(0.7, ge=0, le=2)


@dataclass(frozen=True)
class Parts:
    """What a module is made of beside its signature."""

    parameters: Any
    tools: list[dspy.Tool] = field(default_factory=list)
    rewards: Rewards = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """``taken`` are names of fields that the module uses itself: among the inputs, among the outputs."""

    make: Callable[[type[dspy.Signature], Parts], dspy.Module]
    parameters: type[Parameters] = Parameters
    taken: Callable[[Any], tuple[frozenset[str], frozenset[str]]] = lambda _: (frozenset(), frozenset())
    needs: str | None = None  # a permission's name
    inputs: Callable[[SignatureSpec, Any], Fields] = lambda spec, _: spec.inputs


def _taken(inputs: str = "", outputs: str = "") -> Callable[[Any], tuple[frozenset[str], frozenset[str]]]:
    names = frozenset(inputs.split()), frozenset(outputs.split())
    return lambda _: names


_REASONING = "reasoning"  # the output that ChainOfThought adds
_CODE = "generated_code previous_code error final_generated_code code_output interpreter"
_TRAJECTORY = "trajectory next_thought next_tool_name next_tool_args max_iters"


def _inner(signature: type[dspy.Signature], name: str) -> dspy.Module:
    return dspy.ChainOfThought(signature) if name == "chain_of_thought" else dspy.Predict(signature)


def _choosing(of: type[dspy.Module]) -> Callable[[type[dspy.Signature], Parts], dspy.Module]:
    def make(signature: type[dspy.Signature], parts: Parts) -> dspy.Module:
        given: Choice = parts.parameters
        reward = parts.rewards.get(given.reward)
        if reward is None:
            known = ", ".join(sorted(parts.rewards)) or "none"
            raise invalid_param("parameters.reward", f"the application has no reward {given.reward!r}; it has: {known}")
        return of(_inner(signature, given.module), given.n, noting(reward), given.threshold, given.fail_count)

    return make


def _choice_taken(given: Choice) -> tuple[frozenset[str], frozenset[str]]:
    reasoning = frozenset({_REASONING} if given.module == "chain_of_thought" else ())
    return reasoning | {"hint_"}, reasoning


def _quietly(make: Callable[[type[dspy.Signature], Parts], dspy.Module]) -> Callable[..., dspy.Module]:
    """Without DSPy's warnings that are for who writes such a module, and not for who makes one of it."""

    def made(signature: type[dspy.Signature], parts: Parts) -> dspy.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return make(signature, parts)

    return made


def _comparison_taken(given: Comparison) -> tuple[frozenset[str], frozenset[str]]:
    attempts = frozenset(f"reasoning_attempt_{number}" for number in range(1, given.m + 1))
    return attempts | {"completions", "rationale"}, attempts | {"rationale"}


def _comparison_inputs(spec: SignatureSpec, given: Comparison) -> Fields:
    """The attempts to compare come first."""
    last = spec.outputs[-1].name

    def usable(attempt: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(attempt.get("rationale", attempt.get(_REASONING)), str) or last not in attempt:
            raise ValueError(f"must have a reasoning (text) and {last}")
        return attempt

    attempts = list[Annotated[dict[str, Any], AfterValidator(usable)]]
    return SignatureField("completions", Annotated[attempts, Len(given.m, given.m)]), *spec.inputs


_KINDS: dict[str, Kind] = {
    "predict": Kind(lambda signature, _: dspy.Predict(signature)),
    "chain_of_thought": Kind(lambda signature, _: dspy.ChainOfThought(signature), taken=_taken(_REASONING, _REASONING)),
    REACT: Kind(
        lambda signature, parts: react(signature, parts.tools, parts.parameters.max_iters),
        Iterations,
        _taken(_TRAJECTORY, f"{_TRAJECTORY} {_REASONING}"),
    ),
    PROGRAM_OF_THOUGHT: Kind(
        _quietly(lambda signature, parts: dspy.ProgramOfThought(signature, max_iters=parts.parameters.max_iters)),
        Attempts,
        _taken(f"{_CODE} {_REASONING}", f"{_CODE} {_REASONING}"),
        PROGRAM_OF_THOUGHT,
    ),
    "best_of_n": Kind(_choosing(BestOfN), Choice, _choice_taken),
    "refine": Kind(_choosing(Refine), Choice, _choice_taken),
    "multi_chain_comparison": Kind(
        _quietly(
            lambda signature, parts: dspy.MultiChainComparison(
                signature, M=parts.parameters.m, temperature=parts.parameters.temperature
            )
        ),
        Comparison,
        _comparison_taken,
        inputs=_comparison_inputs,
    ),
}
OWN = frozenset(_KINDS)


def _registered(make: ModuleMaker) -> Kind:
    return Kind(lambda signature, _: make(signature))


class Kinds:
    """All that there are in one application."""

    def __init__(
        self, registered: Mapping[str, ModuleMaker], tools: Mapping[str, Callable[..., Any]], rewards: Rewards
    ) -> None:
        self._kinds = _KINDS | {name: _registered(make) for name, make in registered.items()}
        self._tools = tools
        self._rewards = rewards
        self.permissions = Permissions()

    def check(self, module: str, given: object, tools: object, spec: SignatureSpec) -> tuple[Kind, Parts]:
        """The kind and what a module of it is made of.

        Raises:
            DspexError: ``invalid_params``; ``invalid_signature`` for names of fields that the module uses itself.
        """
        kind = self._kinds.get(module)
        if kind is None:
            raise invalid_param("module", f"{module!r} is not known; modules are: {', '.join(sorted(self._kinds))}")
        if kind.needs is not None and not getattr(self.permissions, kind.needs):
            raise invalid_param("module", f"{module!r} is not allowed here ([dspy] {kind.needs})")
        parameters = _parameters(kind, given)
        for side, fields, taken in zip(
            ("inputs", "outputs"), (spec.inputs, spec.outputs), kind.taken(parameters), strict=True
        ):
            for one in fields:
                if one.name in taken:
                    raise invalid_signature(f"{side}.{one.name}", f"is a name that {module} uses itself")
        if module == REACT:
            return kind, Parts(parameters, check_tools(tools, self._tools), self._rewards)
        if tools is not None:
            raise invalid_param("tools", f"are for the module {REACT!r}")
        return kind, Parts(parameters, rewards=self._rewards)


def _parameters(kind: Kind, given: object) -> Parameters:
    try:
        return kind.parameters.model_validate({} if given is None else given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        known = ", ".join(kind.parameters.model_fields) or "none"
        problems = []
        for one in found:
            told = f"is not known; known are: {known}" if one["type"] == "extra_forbidden" else one["msg"]
            problems.append(Problem(".".join(["parameters", *map(str, one["loc"])]), told))
        raise invalid_params(problems) from None


def outputs_of(module: dspy.Module, spec: SignatureSpec) -> Fields:
    """The outputs of the signature, and before them what the module adds."""
    match module:
        case dspy.ReAct():
            return SignatureField("trajectory", dict[str, Any]), *fields_of(module.extract.predict.signature, "outputs")
        case dspy.ProgramOfThought():
            return fields_of(module.generate_output.predict.signature, "outputs")
        case dspy.ChainOfThought() | dspy.MultiChainComparison():
            return fields_of(module.predict.signature, "outputs")
        case dspy.BestOfN() | dspy.Refine():
            return outputs_of(module.module, spec)
    return spec.outputs
