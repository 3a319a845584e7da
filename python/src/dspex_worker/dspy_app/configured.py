"""Programs that are there for all: made of what the application registered, or of what the operator configured."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dspy

from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.exchange import dspy_state, imported
from dspex_worker.dspy_app.memory import Memory, check_memory, history_fields
from dspex_worker.dspy_app.modules import demos_state, load_state, runs_async
from dspex_worker.dspy_app.programs import Builder, Program
from dspex_worker.dspy_app.records import Record
from dspex_worker.dspy_app.signatures import Field, fields_of, parse_signature
from dspex_worker.offers import Program as Registered
from dspex_worker.offers import own_doc


def configured(name: str, given: Mapping[str, Any], builder: Builder) -> Program:
    """A program of the configuration, which the sidecar has checked as far as it can.

    Raises:
        Exception: what importing raises; DspexError, ValueError, TypeError where it cannot be built.
    """
    if "program" in given:
        target = _imported(given["program"])
        registered = Registered(name, target, given.get("description", ""), memory=given.get("memory"))
        program = registered_program(registered, builder.types)
        state = _state(given, program.for_call())
        if state is not None:
            registered = Registered(
                name, load_state(program.for_call(), state), program.doc, memory=given.get("memory")
            )
            program = registered_program(registered, builder.types)
    else:
        made_of = {key: given.get(key) for key in ("tools", "parameters", "memory")}
        record = Record(given["signature"], given["module"], given.get("instructions"), None, **made_of)  # type: ignore[arg-type]
        record = _as_exported(record, given, builder.types)
        program = builder.build(name, record, "application")
        state = _state(given, program.for_call())
        if state is not None:
            program = builder.build(name, replace(record, state=state), "application")
        program.doc = given.get("description") or program.doc
        program.record = None  # its versions are the configuration's
    program.model = given.get("model")
    return program


def _as_exported(record: Record, given: Mapping[str, Any], types: Mapping[str, Any]) -> Record:
    """With what an exported program has beside its state, where the file is one."""
    data = _json(given, "state")
    if data is None or "format" not in data:
        return record
    exported = imported(data)
    own, theirs = (parse_signature(one.signature, types).text for one in (record, exported))
    if own != theirs:
        raise invalid_param("state", f"is of the signature {theirs!r}, not of {own!r}")
    return replace(record, instructions=record.instructions or exported.instructions, nearest=exported.nearest)


def _json(given: Mapping[str, Any], key: str) -> Any:
    """What is in a file that was named; None where none was."""
    if key not in given:
        return None
    data = json.loads(given[key])
    if not isinstance(data, list if key == "demos" else dict):
        raise invalid_param(key, f"must be a JSON {'list' if key == 'demos' else 'object'}")
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # neither clients nor LMs could be told of it
        raise invalid_param(key, "has text that is no Unicode: half of a surrogate pair") from None
    return data


def _state(given: Mapping[str, Any], module: dspy.Module) -> dict[str, Any] | None:
    """Demos and instructions of the files that were named."""
    state: dict[str, Any] | None = None
    if (data := _json(given, "state")) is not None:
        state = imported(data).state if "format" in data else dspy_state(data, module)[0]
    if (listed := _json(given, "demos")) is not None:
        for predictor, demos in demos_state(module, listed).items():
            state = {**(state or {}), predictor: {**(state or {}).get(predictor, {}), **demos}}
    return state


def _imported(target: str) -> Any:
    module_name, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module_name)
    for one in attribute.split("."):
        found = getattr(found, one)
    return found


def registered_program(registered: Registered, types: Mapping[str, Any]) -> Program:
    name, target = registered.name, registered.target
    module = target if isinstance(target, dspy.Module) else target()
    if not isinstance(module, dspy.Module):
        raise TypeError(f"program {name!r}: {target!r} made {type(module).__name__}, not a dspy.Module")
    inputs, outputs = _told_fields(module, registered.signature, types)
    dspys = type(module).__module__.partition(".")[0] == "dspy"
    doc = registered.description or ("" if dspys else own_doc(type(module)))  # a base's tells of DSPy, not of this
    safe = registered.retry == "safe"
    memory = None if registered.memory is None else _memory(name, registered.memory, inputs)
    return Program(name, "application", type(module).__name__, module, inputs, outputs, doc, safe, memory)


def _memory(name: str, given: Mapping[str, int], inputs: tuple[Field, ...] | None) -> Memory:
    fields = history_fields(inputs or ())
    if len(fields) != 1:
        raise ValueError(f"program {name!r}: memory needs one input of type dspy.History; there are {len(fields)}")
    return Memory(fields[0], **check_memory(given))


def _told_fields(
    module: dspy.Module, declared: Any, types: Mapping[str, Any]
) -> tuple[tuple[Field, ...] | None, tuple[Field, ...] | None]:
    """The fields that the decorator tells, else the module's own signature, else the parameters of its ``forward``."""
    if isinstance(declared, (str, Mapping)):
        spec = parse_signature(declared, types)
        return spec.inputs, spec.outputs
    signature = declared or getattr(module, "signature", None)
    if signature is None and isinstance(module, dspy.ChainOfThought):
        signature = module.predict.signature
    if isinstance(signature, type) and issubclass(signature, dspy.Signature):
        return fields_of(signature, "inputs"), fields_of(signature, "outputs")
    return _parameters(type(module)), None


def _parameters(module: type[dspy.Module]) -> tuple[Field, ...] | None:
    function = module.aforward if runs_async(module) else getattr(module, "forward", None)
    if function is None:
        raise TypeError(f"{module.__name__} has neither forward nor aforward")
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY) for p in parameters):
        return None
    return tuple(
        Field(p.name, Any if p.annotation is p.empty else p.annotation, required=p.default is p.empty)
        for p in parameters
    )
