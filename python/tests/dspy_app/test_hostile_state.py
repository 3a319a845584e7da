"""Reserved state that came from a file: whatever it holds, calls end in answers or in clean errors."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import dspy
import pytest
from dspex import wire
from dspex.errors import DspexError, InvalidParams, LMError
from dspex_worker import App
from dspex_worker.session import Copy
from hypothesis import given, settings
from hypothesis import strategies as st
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, json_answer

OPERATOR_KEY = "sk-the-operators-own"
CLEAN = {"invalid_params", "invalid_signature", "program_not_found", "lm_error"}


def real_state(base: str) -> dict[str, Any]:
    """What a session's state looks like that has all there may be in one."""
    demos = [{"augmented": True, "question": "q", "reasoning": "r", "answer": "a"}]
    record = {"signature": "question -> answer", "module": "predict", "instructions": "Be brief.", "stamp": "1"}
    fields = {
        "inputs": [{"name": "question", "type": "list[str]"}],
        "outputs": [{"name": "answer", "description": "d"}],
    }
    return {
        "dspex.lm": {"settings": {"model": "openai/m", "api_base": base, "temperature": 0.5, "adapter": "json"}},
        "dspex.lm.named": {"model": "main"},
        "dspex.program.plain": {**record, "state": {"self": {"demos": demos[:0], "instructions": "Be kind."}}},
        "dspex.program.named": {**record, "signature": {"name": "Named", **fields}, "state": None},
        "dspex.program.thinks": {**record, "module": "chain_of_thought", "state": {"predict": {"demos": demos}}},
        "dspex.program.own": {**record, "module": "own", "state": {"inner": {"instructions": "So."}}},
        "dspex.program.acts": {**record, "module": "react", "state": None, "tools": [{"name": "look", "schema": {}}]},
        "dspex.program.talks": {**record, "state": None, "memory": {"turns": 2}, "version": 3, "created": 5},
        "dspex.history.talks": [{"question": "q", "answer": "a"}],
        "dspex.version.1.talks": {**record, "state": None, "stamp": "2", "source": "imported", "meta": {"score": 1.0}},
        "dspex.program.picks": {
            **record,
            "module": "best_of_n",
            "state": None,
            "parameters": {"n": 2, "reward": "length", "threshold": 0.5},
        },
        "mine": 1,
    }


class Own(dspy.Module):
    def __init__(self, signature: type[dspy.Signature]) -> None:
        super().__init__()
        self.inner = dspy.Predict(signature)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        return await self.inner.acall(**inputs)


class Bench:
    """A worker's DSPy application that outlives the examples of a test, and the LMs of both sides."""

    def __init__(self, loop: asyncio.AbstractEventLoop, driver: Driver, own: OpenAIServer, other: OpenAIServer) -> None:
        self.loop = loop
        self.driver = driver
        self.own = own
        self.other = other

    def try_all(self, state: dict[str, Any]) -> list[DspexError]:
        """Make every call in a session of this state; return the errors that came."""
        return self.loop.run_until_complete(self._try_all(state))

    async def _try_all(self, state: dict[str, Any]) -> list[DspexError]:
        entries = {key: wire.pack_value(value) for key, value in state.items()}
        programs = [key.removeprefix("dspex.program.") for key in state if key.startswith("dspex.program.")]
        calls: list[tuple[str, dict[str, Any]]] = [("list_programs", {}), ("get_session_state", {})]
        for program in programs:
            for question in ("?", ["?"]):
                calls.append(("execute_program", {"program": program, "inputs": {"question": question}}))
            calls += [("get_program_info", {"program": program})]
            calls += [("configure_lm", {"model": "main", "program": program}), ("delete_program", {"program": program})]
        if "dspex.program.talks" in state:
            talks = {"program": "talks"}
            calls += [("list_versions", talks), ("use_version", {**talks, "version": 1}), ("export_program", talks)]
            calls += [("get_history", talks), ("reset_history", talks)]
            # What cannot be used can be replaced.
            calls += [("create_program", {"id": "talks", "signature": "question -> answer", "replace": True})]
        calls += [("configure_lm", {"model": "main"}), ("reset_state", {})]
        errors, failed = [], []
        for method, params in calls:
            self.driver.sessions["s"] = Copy(1, "s", 1, dict(entries))
            try:
                await self.driver.call(method, "s", **copy.deepcopy(params))
            except DspexError as error:
                errors.append(error)
                failed.append(method)
        always = {"list_programs", "get_session_state", "reset_state", "create_program"}
        assert not always.intersection(failed), errors
        return errors


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    app = App()
    app.program("own")(Own)

    @app.reward
    def length(inputs: dict[str, Any], prediction: dspy.Prediction) -> float:
        return float(len(prediction.answer))

    loop = asyncio.new_event_loop()

    async def opened(stack: AsyncExitStack, own: OpenAIServer) -> Driver:
        models = {"main": {"model": "openai/m", "api_key": OPERATOR_KEY, "api_base": own.base, "adapter": "json"}}
        return await stack.enter_async_context(driving(app, models))

    def answer(_: Any) -> str:
        return json_answer(
            answer="yes", reasoning="since", next_thought="enough", next_tool_name="finish", next_tool_args={}
        )

    with OpenAIServer(answer=answer) as own, OpenAIServer(answer=answer) as other:
        stack = AsyncExitStack()
        driver = loop.run_until_complete(opened(stack, own))
        yield Bench(loop, driver, own, other)
        loop.run_until_complete(stack.aclose())
        loop.close()


def holds(bench: Bench, errors: list[DspexError]) -> None:
    """Errors are clean and can be sent, and the operator's key went to nobody but the operator's LM."""
    for error in errors:
        assert error.code in CLEAN, (error.code, error.message, error.details)
        assert error.message
        assert len(wire.pack_value(error.to_wire())) < 64 << 10
        assert OPERATOR_KEY not in str(error.to_wire())
    assert OPERATOR_KEY not in {seen.key for seen in bench.other.requests}
    bench.other.requests.clear()


def test_a_real_state(bench: Bench) -> None:
    errors = bench.try_all(real_state(bench.other.base))
    holds(bench, errors)
    # A question of the wrong kind, for each program.
    assert [error.details["errors"][0]["path"] for error in errors] == ["inputs.question"] * 7


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dspex.lm", {"settings": {"model": "openai/m", "api_base": "OTHER"}, "model": "main"}),
        ("dspex.lm", {"settings": {"model": "openai/m", "api_base": "OTHER", "api_key": "smuggled"}}),
        ("dspex.lm", {"settings": {"model": "bedrock/x", "api_base": "OTHER"}}),
        ("dspex.lm", {"settings": {"model": "openai/m", "api_base": "file:///etc/passwd"}}),
        ("dspex.lm", {"settings": {"model": "openai/m", "api_base": "OTHER", "headers": {"a": "b"}}}),
        ("dspex.lm", {"model": ["main"]}),
        ("dspex.lm", [1]),
        ("dspex.lm", "main"),
        ("dspex.program.plain", None),
        ("dspex.program.plain", "os:system"),
        ("dspex.program.plain", {"signature": "a -> b"}),
        ("dspex.program.plain.module", "os.system"),
        ("dspex.program.plain.module", ["predict"]),
        ("dspex.program.plain.signature", "a -> b: os.PathLike"),
        ("dspex.program.plain.signature", {"__reduce__": ["os.system", ["true"]]}),
        ("dspex.program.plain.instructions", "x" * 100_000),
        ("dspex.program.plain.instructions", 5),
        ("dspex.program.plain.stamp", [1]),
        ("dspex.program.plain.state", {"self": {"lm": {"model": "openai/m", "api_base": "OTHER"}}}),
        ("dspex.program.plain.state", {"self": {"signature": {"instructions": "x"}}}),
        ("dspex.program.plain.state", {"self": {"demos": [{"question": "q", "config": {"api_base": "OTHER"}}]}}),
        ("dspex.program.plain.state", {"self": {"demos": [{}] * 1001}}),
        ("dspex.program.plain.state", {"self": {"demos": {"a": 1}}}),
        ("dspex.program.plain.state", {"other": {}}),
        ("dspex.program.plain.state", [{}]),
        ("dspex.program.plain.tools", [{"name": "look"}]),
        ("dspex.program.talks.memory", {"turns": -1}),
        ("dspex.program.talks.memory", "x"),
        ("dspex.program.talks.version", "1"),
        ("dspex.program.talks.meta", "x" * 100_000),
        ("dspex.program.picks.parameters", {"n": 10**6, "reward": "length", "threshold": 0.5}),
        ("dspex.program.picks.parameters", {"n": 2, "reward": "os.system", "threshold": 0.5}),
        ("dspex.program.acts.tools", "look"),
        ("dspex.program.acts.tools", [{"name": "look", "func": "os.system"}]),
        ("dspex.program.acts.tools", [{"name": "look", "schema": {"properties": [1]}}]),
    ],
)
def test_what_cannot_be_used_is_told(bench: Bench, key: str, value: Any) -> None:
    state = real_state(bench.other.base)
    whole = value if isinstance(value, dict) and key == "dspex.lm" else None
    if whole is not None and "settings" in whole and whole["settings"].get("api_base") == "OTHER":
        whole["settings"]["api_base"] = bench.other.base
    parts = key.split(".")
    if len(parts) == 4:
        state[".".join(parts[:3])][parts[3]] = value
    else:
        state[key] = value
    errors = bench.try_all(state)
    holds(bench, errors)
    told = [error for error in errors if "state holds" in error.message or "settings." in error.message]
    assert told or value is None
    for error in errors:
        assert isinstance(error, InvalidParams | LMError)


def test_a_conversation_that_is_gone_is_told(bench: Bench) -> None:
    state = real_state(bench.other.base)
    del state["dspex.history.talks"]
    errors = bench.try_all(state)
    holds(bench, errors)
    assert any("reset_history" in error.message for error in errors)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each value in a state."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, held in value.items():
            yield from paths(held, (*path, key))
    elif isinstance(value, list):
        for index, held in enumerate(value):
            yield from paths(held, (*path, index))


words = st.sampled_from(
    [
        *("settings", "model", "api_base", "api_key", "adapter", "headers", "demos", "instructions", "signature", "lm"),
        *("state", "self", "predict", "inner", "stamp", "module", "question", "answer", "config", "__class__", "type"),
        *(
            "predict",
            "chain_of_thought",
            "own",
            "react",
            "tools",
            "schema",
            "properties",
            "name",
            "main",
            "openai/m",
            "json",
            "OTHER",
            "a -> b",
            "os.system",
            "list[int]",
        ),
    ]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | words
    | st.text(max_size=20)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    state = real_state("OTHER")
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(list(paths(state))))
        container: Any = state
        for step in above:
            container = container[step]
        if draw(st.booleans()) or not isinstance(container, dict):
            container[last] = draw(values)
        elif draw(st.booleans()):
            del container[last]
        else:
            container[draw(words)] = draw(values)
        if not state:
            break
    return state


def with_base(value: Any, base: str) -> Any:
    if isinstance(value, dict):
        return {key: with_base(held, base) for key, held in value.items()}
    if isinstance(value, list):
        return [with_base(held, base) for held in value]
    return base if value == "OTHER" else value


@pytest.mark.timeout(300)
@settings(max_examples=400 if os.environ.get("DSPEX_LONG") else 60, deadline=None)
@given(state=mutated())
def test_mutated_states(bench: Bench, state: dict[str, Any]) -> None:
    errors = bench.try_all(with_base(state, bench.other.base))
    holds(bench, errors)
