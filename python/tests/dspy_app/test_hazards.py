"""What DSPy would let one call do to another, to the operator's settings or to the process: it cannot happen here."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import pytest
from dspex.errors import InvalidParams, InvalidSignature
from dspex_worker import App
from dspy.clients.base_lm import GLOBAL_HISTORY
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, Reply, json_answer

KEY = "sk-of-the-operator"
Scenario = Callable[[Driver, OpenAIServer], Awaitable[None]]


class Secret:
    """In the frames of those who call, where DSPy would look for a type of this name."""


class Anything(dspy.Module):
    """Takes whatever it is given, and hands it on as a careless program does."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        return await self.answer.acall(**inputs)


class Counting(dspy.Module):
    """Changes itself in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.count = 0
        self.seen: list[str] = []
        self.by_name: dict[str, list[str]] = {"seen": []}

    async def aforward(self, question: str) -> dspy.Prediction:
        self.count += 1
        self.seen.append(question)
        self.by_name["seen"].append(question)
        self.answer.demos.append({"question": question, "answer": "a"})
        self.answer.signature = self.answer.signature.with_instructions(f"Asked {question}.")
        answer = (await self.answer.acall(question=question)).answer
        return dspy.Prediction(answer=answer, count=self.count, seen=self.seen, by_name=self.by_name)


def run(scenario: Scenario) -> None:
    app = App()
    app.program("anything")(Anything)
    app.program("counting")(Counting())

    async def go() -> None:
        with OpenAIServer(answer=lambda _: json_answer(answer="yes", reasoning="since")) as server:
            models = {"main": {"model": "openai/m", "api_key": KEY, "api_base": server.base, "adapter": "json"}}
            async with driving(app, models) as driver:
                await scenario(driver, server)

    asyncio.run(go())


@pytest.mark.parametrize("name", ["config", "lm", "demos", "signature", "new_signature", "_trace", "self", "instance"])
def test_inputs_are_not_taken_for_parameters_of_dspys(name: str) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with OpenAIServer(answer=lambda _: json_answer(answer="stolen")) as elsewhere:
            value = {"api_base": elsewhere.base, "api_key": None, "model": "openai/x"}
            with pytest.raises(InvalidSignature):
                await driver.call("create_program", "s", signature=f"question, {name}: dict -> answer")
            with pytest.raises(InvalidParams) as caught:
                await driver.call("execute_program", program="anything", inputs={"question": "x", name: value})
            assert caught.value.details["errors"][0]["path"] == f"inputs.{name}"
            await driver.call("create_program", "s", id="p", signature="question -> answer")
            with pytest.raises(InvalidParams):
                await driver.call("execute_program", "s", program="p", inputs={"question": "x", name: value})
            with pytest.raises(InvalidParams):
                await driver.call("execute_batch", "s", program="p", inputs=[{"question": "x", name: value}])
            assert (server.requests, elsewhere.requests) == ([], [])

    run(scenario)


def test_a_module_that_changes_itself_is_new_in_each_call() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        async def ask(question: str, session: str) -> dict[str, Any]:
            return await driver.call("execute_program", session, program="counting", inputs={"question": question})

        before = await driver.call("get_program_info", "s", program="counting")
        got = await asyncio.gather(*(ask(f"q{number}", f"s{number % 3}") for number in range(12)))
        for number, one in enumerate(got):
            own = [f"q{number}"]
            assert (one["count"], one["seen"], one["by_name"]) == (1, own, {"seen": own})
        for seen in server.requests:
            others = [number for number in range(12) if f"Asked q{number}." in seen.prompt]
            assert len(others) == 1
        assert await driver.call("get_program_info", "s", program="counting") == before

    run(scenario)


def test_nothing_of_calls_is_left_in_the_process() -> None:
    """Of each call DSPy would keep inputs and answers in lists of the whole process."""

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="question -> answer", module="chain_of_thought")
        mark = "marked-4711"
        for _ in range(5):
            await driver.call("execute_program", "s", program="p", inputs={"question": mark})
            await driver.stream("execute_program", "s", program="p", inputs={"question": mark})
            await driver.call("execute_batch", "s", program="p", inputs=[{"question": mark}] * 2)
        server.requests.clear()
        assert not GLOBAL_HISTORY
        assert not dspy.settings.trace
        gc.collect()
        kept = [one for one in gc.get_objects() if isinstance(one, (dspy.Prediction, dspy.Example))]
        assert not [one for one in kept if mark in str(one)]
        for lm in [one for one in gc.get_objects() if isinstance(one, dspy.LM)]:
            assert not lm.history

    run(scenario)


def test_each_stream_has_all_of_its_own() -> None:
    """Listeners that DSPy made for one stream drop what comes in the next, and mix two that run at once."""

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="question -> answer")

        async def stream(number: int) -> None:
            got = await driver.stream("execute_program", "s", program="p", inputs={"question": f"QQ{number}QQ"})
            assert "".join(one["text"] for one in got.streamed) == got["answer"] == f"{number} is {'what ' * 20}it is"

        def answer(seen: Any) -> Reply:
            return Reply(json_answer(answer=f"{seen.prompt.split('QQ')[1]} is {'what ' * 20}it is"), pause=0.001)

        server.answer = answer
        for number in range(3):
            await stream(number)
        await asyncio.gather(*map(stream, range(8)))

    run(scenario)


def test_types_are_looked_up_nowhere() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for name in ("Secret", "Driver", "OpenAIServer", "Anything", "dspy.Module", "typing.Any", "os.environ", "App"):
            for signature in (
                f"question: {name} -> answer",
                {"inputs": [{"name": "question"}], "outputs": [{"name": "answer", "type": f"list[{name}]"}]},
            ):
                with pytest.raises(InvalidSignature) as caught:
                    await driver.call("create_program", "s", signature=signature)
                assert "Secret" in name or "Secret" not in str(caught.value)
        assert Secret.__doc__

    run(scenario)


def test_state_that_is_loaded_again_and_again_does_not_grow() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="question -> answer", module="chain_of_thought")
        saved = dspy.ChainOfThought("question -> answer").dump_state()
        for _ in range(150):  # DSPy's own nests one deeper each time, until it breaks
            await driver.call("import_program", "s", id="p", data=saved)
        first = await driver.call("export_program", "s", program="p")
        assert first["version"] == 151
        assert list(first["state"]) == ["predict"]
        assert (await driver.call("execute_program", "s", program="p", inputs={"question": "x"}))["answer"] == "yes"
        for key, value in (("callbacks", ["x"]), ("_compiled", True), ("history", [])):
            with pytest.raises(InvalidParams):
                await driver.call("import_program", "s", id="p", data={"predict": {**saved["predict"], key: value}})
        kept = [key for key in driver.session("s").entries if key.startswith("dspex.version")]
        assert len(kept) == 9

    run(scenario)
