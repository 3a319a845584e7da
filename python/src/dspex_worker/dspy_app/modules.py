"""What is done with any ``dspy.Module``: copying it for a call, its predictors, its saved state."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.media import NOTHING, forbidden
from dspex_worker.dspy_app.wire_types import strict_type

_AUGMENTED: TypeAdapter[Any] = TypeAdapter(bool)  # DSPy marks so the demos that an optimiser made


def predictors(module: dspy.Module) -> list[tuple[str, dspy.Predict]]:
    """All predictors by name, those of compiled sub-modules included, which ``named_predictors`` leaves out."""
    found = module.named_sub_modules(dspy.Predict)
    return [(name.removeprefix("self.") if name != "self" else name, predictor) for name, predictor in found]


# Modules that do nothing but ask an LM. All others run tools, code that an LM wrote, or functions of the application's.
_ASKING = (dspy.Predict, dspy.ChainOfThought, dspy.MultiChainComparison)


def only_asks(module: dspy.Module) -> bool:
    """Whether running the module again does nothing but ask LMs again."""
    return all(type(one) in _ASKING for _, one in module.named_sub_modules())


def runs_async(module: type[dspy.Module]) -> bool:
    """Whether ``acall`` runs what ``forward`` would: a class that overrides only ``forward`` inherits the ``aforward``
    of its base, which would leave the override out.
    """
    for cls in module.__mro__:
        if "aforward" in vars(cls):
            return True
        if "forward" in vars(cls):
            return False
    return False


def copy_module(module: dspy.Module) -> dspy.Module:
    """A copy for one call: modules and the containers in them are copied, everything else is shared.

    What is shared is what a deep copy would be wrong or slow for: LMs and clients with their connections, indexes,
    tools, the values in containers. Two calls at once never see each other's attributes.
    """
    copied: dspy.Module = _copy(module, {})
    return copied


def _copy(value: Any, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)]
    kind: Any = type(value)
    if isinstance(value, dspy.Module):
        copied = done[id(value)] = kind.__new__(kind)
        attributes = {name: _copy(held, done) for name, held in vars(value).items() if name != "history"}
        vars(copied).update(attributes, history=[])
        return copied
    if kind is dict:
        copied = done[id(value)] = {}
        copied.update((key, _copy(held, done)) for key, held in value.items())
        return copied
    if kind in (list, deque):
        copied = done[id(value)] = kind()
        copied.extend(_copy(held, done) for held in value)
        return copied
    if kind in (tuple, set, frozenset):
        copied = done[id(value)] = kind(_copy(held, done) for held in value)
        return copied
    return value


def load_state(base: dspy.Module, state: Mapping[str, Any]) -> dspy.Module:
    """A copy of ``base`` with demos and instructions loaded, once, from what is known and nothing else.

    ``state`` maps each predictor's name to ``{demos: [map], instructions?: text}``. DSPy's ``load_state`` sets
    whatever attribute it is given, an LM with its address among them.

    Raises:
        DspexError: ``invalid_params``: a predictor or a field that the program does not have, or a demo's value of
            another type than its field's.
    """
    loaded = base.deepcopy()
    known = dict(predictors(loaded))
    for name in state:
        if name not in known:
            raise invalid_param(f"state.{name}", f"is no predictor of the program; predictors are {', '.join(known)}")
    for name, predictor in known.items():  # each by itself: a Predict that is the whole program takes no map by name
        predictor.load_state(_predictor_state(name, predictor, state.get(name, {})))
    return loaded


def _predictor_state(name: str, predictor: dspy.Predict, state: Mapping[str, Any]) -> dict[str, Any]:
    demos = state.get("demos", [])
    for key in state:
        if key not in ("demos", "instructions"):
            raise invalid_param(f"state.{name}.{key}", "is not known; known are demos, instructions")
    demos = checked_demos(f"state.{name}.demos", predictor, demos)
    saved = predictor.dump_state()
    signature = saved["signature"] | ({"instructions": state["instructions"]} if "instructions" in state else {})
    return {"traces": [], "train": [], "demos": demos, "signature": signature, "lm": None}


def demos_state(module: dspy.Module, demos: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``load_state`` takes for a client's demos of the module's only predictor.

    Raises:
        DspexError: ``invalid_params``: there are several predictors, or what is no demo of the one.
    """
    found = predictors(module)
    if len(found) != 1:
        raise invalid_param("demos", f"are for a program of one predictor; this one has {len(found)}")
    name, predictor = found[0]
    checked_demos("demos", predictor, demos)
    return {name: {"demos": demos}}


def checked_demos(path: str, predictor: dspy.Predict, demos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The demos as DSPy takes them: with the values that the fields' types make of them.

    Raises:
        DspexError: ``invalid_params``: what is no demo of the predictor.
    """
    fields = predictor.signature.fields
    types = {field: _type_adapter(info.annotation) for field, info in fields.items()} if demos else {}
    made: list[dict[str, Any]] = []
    for index, demo in enumerate(demos):
        made.append({})
        for field, value in demo.items():
            at = f"{path}[{index}].{field}"
            if field not in fields and field != "augmented":
                raise invalid_param(at, "is no field of the signature")
            try:
                adapter = types.get(field, _AUGMENTED)
                made[-1][field] = value if adapter is None else adapter.validate_python(value)
            except ValidationError:  # an adapter would fail of it
                raise invalid_param(at, "is of another type than the field") from None
            for problem in forbidden(made[-1][field], NOTHING):
                raise invalid_param(at, problem)
    return made


def _type_adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """None for a class of the application's that nothing can be checked of."""
    try:
        return TypeAdapter(strict_type(annotation))
    except PydanticSchemaGenerationError:
        return None
