"""Programs of sessions and of the application: made, found, restored, replaced, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import pytest
from dspex import wire
from dspex.errors import DspexError, InvalidParams, InvalidSignature, ProgramError, ProgramExists, ProgramNotFound
from dspex_worker import App, Session
from dspex_worker.dspy_app.modules import copy_module, load_state, runs_async
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, Seen, json_answer

AB: dict[str, Any] = {"inputs": [{"name": "a"}], "outputs": [{"name": "answer"}]}


def run(scenario: Callable[[Driver, OpenAIServer], Awaitable[None]], app: App | None = None) -> None:
    def answer(seen: Seen) -> str:
        return json_answer(answer="yes", reasoning="since", facts=["a", "b"], title="T")

    async def go() -> None:
        with OpenAIServer(answer=answer) as server:
            models = {"main": {"model": "openai/m", "api_key": "k", "api_base": server.base, "adapter": "json"}}
            async with driving(app or App(), models) as driver:
                await scenario(driver, server)

    asyncio.run(go())


def test_a_program_lives_in_its_session() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        made = await driver.call(
            "create_program", "s", id="qa", signature="question -> answer", instructions="Be brief."
        )
        assert (made["program"], made["module"], made["signature"]) == ("qa", "predict", "question -> answer")
        params: dict[str, Any] = {"program": "qa", "inputs": {"question": "Is it?"}}
        assert await driver.call("execute_program", "s", **params) == {"answer": "yes"}
        assert "Be brief." in server.requests[0].prompt
        driver.restored("s")
        assert await driver.call("execute_program", "s", **params) == {"answer": "yes"}
        for other in ("t", None):
            with pytest.raises(ProgramNotFound):
                await driver.call("execute_program", other, **params)
        assert len(server.requests) == 2

    run(scenario)


def test_an_id_is_taken_once_unless_replaced() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="a -> answer")
        with pytest.raises(ProgramExists):
            await driver.call("create_program", "s", id="p", signature="b -> answer")
        await driver.call("create_program", "s", id="p", signature="b -> answer", replace=True)
        await driver.call("execute_program", "s", program="p", inputs={"b": "x"})
        with pytest.raises(InvalidParams):
            await driver.call("execute_program", "s", program="p", inputs={"a": "x"})
        made = await driver.call("create_program", "s", signature="a -> answer")
        assert made["program"] not in ("", "p")

    run(scenario)


def test_demos_are_checked_and_shown_to_the_lm() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        fields = {"inputs": [{"name": "n", "type": "int"}], "outputs": [{"name": "answer"}]}
        wrong: list[tuple[Any, str]] = [
            ([{"m": 1}], "demos[0].m"),
            ([{"n": 1}, {"n": "1"}], "demos[1].n"),
            ([{"n": 1, "answer": ["a"]}], "demos[0].answer"),
            ([{}] * 1001, "demos"),
            ([1], "demos[0]"),
            ({"n": 1}, "demos"),
        ]
        for demos, path in wrong:
            with pytest.raises(InvalidParams) as caught:
                await driver.call("create_program", "s", id="p", signature=fields, demos=demos)
            assert caught.value.details["errors"][0]["path"] == path
        for module in ("predict", "chain_of_thought"):
            await driver.call(
                "create_program", "s", id=module, signature=fields, module=module, demos=[{"n": 4711, "answer": "a"}]
            )
            driver.restored("s")
            await driver.call("execute_program", "s", program=module, inputs={"n": 1})
            assert "4711" in server.requests[-1].prompt
            assert (await driver.call("get_program_info", "s", program=module))["demos"] == [{"n": 4711, "answer": "a"}]

    run(scenario)


def test_wrong_programs_are_refused_and_leave_nothing() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(InvalidSignature):
            await driver.call("create_program", "s", id="p", signature="a -> a")
        with pytest.raises(InvalidSignature, match="reasoning"):
            await driver.call("create_program", "s", id="p", signature="a -> reasoning", module="chain_of_thought")
        with pytest.raises(InvalidParams, match="modules are: best_of_n, chain_of_thought, multi"):
            await driver.call("create_program", "s", id="p", signature="a -> b", module="os.system")
        for id in ("", "x" * 129, "a\nb"):
            with pytest.raises(InvalidParams):
                await driver.call("create_program", "s", id=id, signature="a -> b")
        with pytest.raises(InvalidParams, match="session"):
            await driver.call("create_program", id="p", signature="a -> b")
        assert await driver.call("list_programs", "s") == {"programs": []}

    run(scenario)


def test_chain_of_thought_info_list_and_delete() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="c", signature="a -> answer", module="chain_of_thought")
        got = await driver.call("execute_program", "s", program="c", inputs={"a": "x"})
        assert got == {"reasoning": "since", "answer": "yes"}
        info = await driver.call("get_program_info", "s", program="c")
        assert list(info["outputs"]["properties"]) == ["reasoning", "answer"]
        assert info["inputs"]["required"] == ["a"]
        assert (info["scope"], info["model"], info["demos"]) == ("session", "main", [])
        assert [p["program"] for p in (await driver.call("list_programs", "s"))["programs"]] == ["c"]
        assert await driver.call("delete_program", "s", program="c") == {"program": "c"}
        with pytest.raises(ProgramNotFound):
            await driver.call("delete_program", "s", program="c")

    run(scenario)


def test_a_program_that_the_application_can_build_no_longer_hides_no_other() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="good", signature="a -> answer", instructions="Be brief.")
        await driver.call("create_program", "s", id="gone", signature={"description": "D", **AB})
        copy = driver.session("s")
        value = wire.decode_value(copy.entries["dspex.program.gone"])
        copy.entries["dspex.program.gone"] = wire.pack_value(value | {"module": "once_registered"})
        driver.restored("s")
        listed = (await driver.call("list_programs", "s"))["programs"]
        assert [(p["program"], p["module"], p["doc"]) for p in listed] == [
            ("gone", "once_registered", "D"),
            ("good", "predict", "Be brief."),
        ]
        with pytest.raises(InvalidParams, match="once_registered"):
            await driver.call("execute_program", "s", program="gone", inputs={"a": "x"})

    run(scenario)


def test_names_of_any_length_make_short_errors() -> None:
    long = "x" * 1_000_000

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="a -> answer")
        calls: list[tuple[str, dict[str, Any]]] = [
            ("execute_program", {"program": long, "inputs": {}}),
            ("get_program_info", {"program": long}),
            ("delete_program", {"program": long}),
            ("configure_lm", {"model": long}),
            ("configure_lm", {"model": "main", "program": long}),
            ("create_program", {"signature": "a -> b", "module": long}),
            ("create_program", {"signature": "a -> b", "id": long}),
            ("create_program", {"signature": {"inputs": [{"name": f"{long}-"}], "outputs": [{"name": "b"}]}}),
            ("update_session_state", {"set": {long: 1}}),
        ]
        for method, params in calls:
            with pytest.raises(DspexError) as caught:
                await driver.call(method, "s", **params)
            assert len(str(caught.value.to_wire())) < 5_000

    run(scenario)


def test_state_methods() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="a -> answer")
        await driver.call("configure_lm", "s", settings={"model": "openai/x", "api_key": "secret"})
        assert await driver.call("update_session_state", "s", set={"x": 1, "y": [2]}) == {"keys": ["x", "y"]}
        assert await driver.call("update_session_state", "s", delete=["x", "z"]) == {"keys": ["y"]}
        assert await driver.call("get_session_state", "s") == {"state": {"y": [2]}}
        with pytest.raises(InvalidParams, match="reserved"):
            await driver.call("update_session_state", "s", set={"dspex.program.p": {}})
        with pytest.raises(InvalidParams, match="reserved"):
            await driver.call("update_session_state", "s", delete=["dspex.program.p"])
        assert await driver.call("reset_state", "s") == {"deleted": 3}
        assert driver.session("s").entries == {}
        with pytest.raises(ProgramNotFound):
            await driver.call("execute_program", "s", program="p", inputs={"a": "x"})

    run(scenario)


class TwoSteps(dspy.Module):
    """Facts, then a title."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = dspy.Predict("text -> facts: list[str]")
        self.title = dspy.Predict("facts: list[str] -> title")
        self.seen: list[str] = []

    def forward(self, text: str, times: int = 1) -> dspy.Prediction:
        self.seen.append(text)
        found = self.facts(text=text)
        return dspy.Prediction(title=self.title(facts=found.facts).title, seen=list(self.seen), times=times)


def test_programs_of_the_application() -> None:
    app = App()
    app.program("steps")(TwoSteps)
    app.program("told", signature="text -> title, seen: list[str]")(TwoSteps())
    app.program("plain")(dspy.Predict("a: int -> answer"))

    class Custom(dspy.Module):
        def __init__(self, signature: Any) -> None:
            super().__init__()
            self.inner = dspy.Predict(signature)

        async def aforward(self, **inputs: Any) -> Any:
            return await self.inner.acall(**inputs)

    app.program("custom")(Custom)

    @app.program("wrong")
    class Wrong(dspy.Module):
        def forward(self) -> Any:
            return 5

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for _ in range(3):  # what one call does to the module is not there for the next
            got = await driver.call("execute_program", program="steps", inputs={"text": "t"})
            assert got == {"title": "T", "seen": ["t"], "times": 1}
            assert got.usage["lm_calls"] == 2
        with pytest.raises(InvalidParams) as caught:
            await driver.call("execute_program", program="steps", inputs={"text": 5, "times": "x", "lm": 1})
        assert {p["path"] for p in caught.value.details["errors"]} == {"inputs.text", "inputs.times", "inputs.lm"}
        info = await driver.call("get_program_info", "s", program="told")
        assert list(info["outputs"]["properties"]) == ["title", "seen"]
        assert (info["scope"], info["module"]) == ("application", "TwoSteps")
        listed = (await driver.call("list_programs", "s"))["programs"]
        assert [(p["program"], p["scope"]) for p in listed] == [
            (name, "application") for name in ("plain", "steps", "told", "wrong")
        ]
        with pytest.raises(ProgramExists):
            await driver.call("create_program", "s", id="steps", signature="a -> b", replace=True)
        with pytest.raises(InvalidParams, match="application's"):
            await driver.call("delete_program", "s", program="steps")
        with pytest.raises(ProgramError, match="returned int"):
            await driver.call("execute_program", program="wrong", inputs={})
        await driver.call("create_program", "s", id="mine", signature="a -> answer", module="custom")
        assert await driver.call("execute_program", "s", program="mine", inputs={"a": "x"}) == {"answer": "yes"}

    run(scenario, app)


def test_a_registered_program_that_cannot_be_built_stops_the_worker() -> None:
    app = App()
    app.program("bad")(lambda: 5)
    with pytest.raises(TypeError, match=r"not a dspy\.Module"):
        run(None, app)  # type: ignore[arg-type]


def test_a_copy_shares_what_is_no_module_or_container() -> None:
    module = TwoSteps()
    module.index = index = bytearray(10)
    lm = module.facts.lm = dspy.LM("openai/x", cache=False)
    module.nested = {"deep": [module.facts]}
    copied = copy_module(module)
    assert copied.facts is not module.facts
    assert copied.nested["deep"][0] is copied.facts
    assert (copied.index, copied.facts.lm) == (index, lm)
    assert copied.seen is not module.seen
    assert copied.facts.signature is module.facts.signature


def test_overriding_forward_alone_makes_a_module_sync() -> None:
    class Override(dspy.ChainOfThought):
        def forward(self, **kwargs: Any) -> Any:
            return super().forward(**kwargs)

    assert runs_async(dspy.ChainOfThought)
    assert not runs_async(Override)
    assert not runs_async(TwoSteps)


def test_state_is_loaded_once_from_known_keys_only() -> None:
    base = dspy.ChainOfThought("a -> b")
    loaded = load_state(base, {"predict": {"demos": [{"a": "1", "b": "2"}], "instructions": "New."}})
    assert loaded.predict.signature.instructions == "New."
    assert [dict(demo) for demo in loaded.predict.demos] == [{"a": "1", "b": "2"}]
    assert base.predict.demos == []
    states: tuple[dict[str, Any], ...] = (
        {"other": {}},
        {"predict": {"lm": {"model": "x"}}},
        {"predict": {"demos": [{"c": 1}]}},
    )
    for wrong in states:
        with pytest.raises(InvalidParams):
            load_state(base, wrong)


def test_a_session_is_filled_in_not_sent() -> None:
    app = App()

    @app.method
    def own(session: Session) -> int:
        return len(session.state)

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="a -> answer")
        spec = driver.app.methods["own"]
        assert spec.session == "required"
        assert driver.app.methods["execute_program"].retry == "safe"
        assert driver.app.methods["execute_program"].read_only

    run(scenario, app)
