"""The modules that clients make programs of: their parameters, what they add, the application's tools and rewards."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import pytest
from dspex.errors import DspexError, InvalidParams, InvalidSignature, LMError, ProgramError
from dspex_worker import App
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, Reply, json_answer

Scenario = Callable[[Driver, OpenAIServer], Awaitable[None]]


def run(scenario: Scenario, app: App | None = None, settings: dict[str, Any] | None = None) -> None:
    async def go() -> None:
        with OpenAIServer(answer=lambda seen: json_answer(answer="yes", reasoning="since")) as server:
            models = {"main": {"model": "openai/m", "api_key": "k", "api_base": server.base, "adapter": "json"}}
            async with driving(app or App(), models, settings=settings) as driver:
                await scenario(driver, server)

    asyncio.run(go())


def choosing() -> App:
    app = App()

    @app.reward
    def brevity(inputs: dict[str, Any], prediction: dspy.Prediction) -> float:
        """Prefer what is short, and say so by the inputs' limit."""
        return 1.0 if len(prediction.answer) <= inputs["limit"] else 1 / len(prediction.answer)

    @app.reward
    def nothing(inputs: dict[str, Any], prediction: dspy.Prediction) -> float:
        raise ValueError("no reward today")

    return app


def paths(error: DspexError) -> list[str]:
    return [problem["path"] for problem in error.details["errors"]]


@pytest.mark.parametrize(
    ("module", "parameters", "path"),
    [
        ("predict", {"max_iters": 1}, "parameters.max_iters"),
        ("best_of_n", None, "parameters.n"),
        ("best_of_n", {"n": 99, "reward": "brevity", "threshold": 1.0}, "parameters.n"),
        ("best_of_n", {"n": "2", "reward": "brevity", "threshold": 1.0}, "parameters.n"),
        ("best_of_n", {"n": 2, "reward": "os.system", "threshold": 1.0}, "parameters.reward"),
        ("refine", {"n": 2, "reward": "brevity", "threshold": float("nan")}, "parameters.threshold"),
        ("refine", {"n": 2, "reward": "brevity", "threshold": 1.0, "module": "react"}, "parameters.module"),
        ("react", {"max_iters": 0}, "parameters.max_iters"),
        ("multi_chain_comparison", {"m": 1}, "parameters.m"),
        ("program_of_thought", None, "module"),
    ],
)
def test_what_a_module_cannot_be_made_of_is_named(module: str, parameters: Any, path: str) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        tools = ["clock"] if module == "react" else None
        with pytest.raises(InvalidParams) as caught:
            await driver.call(
                "create_program", "s", signature="q -> a", module=module, parameters=parameters, tools=tools
            )
        assert path in paths(caught.value)
        assert (await driver.call("list_programs", "s"))["programs"] == []

    run(scenario, choosing())


@pytest.mark.parametrize(
    ("module", "parameters", "signature", "path"),
    [
        ("multi_chain_comparison", {"m": 2}, "completions -> a", "inputs.completions"),
        ("multi_chain_comparison", {"m": 2}, "q, reasoning_attempt_2 -> a", "inputs.reasoning_attempt_2"),
        ("multi_chain_comparison", {"m": 2}, "q -> rationale", "outputs.rationale"),
        ("refine", {"n": 2, "reward": "brevity", "threshold": 1.0}, "hint_ -> a", "inputs.hint_"),
        (
            "best_of_n",
            {"n": 2, "reward": "brevity", "threshold": 1.0, "module": "chain_of_thought"},
            "q -> reasoning",
            "outputs.reasoning",
        ),
        ("program_of_thought", None, "q -> generated_code", "outputs.generated_code"),
    ],
)
def test_names_that_a_module_uses_itself(module: str, parameters: Any, signature: str, path: str) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(InvalidSignature) as caught:
            await driver.call("create_program", "s", signature=signature, module=module, parameters=parameters)
        assert paths(caught.value) == [path]

    run(scenario, choosing(), {"program_of_thought": True})


@pytest.mark.parametrize("module", ["best_of_n", "refine"])
def test_the_best_answer_is_chosen(module: str) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        parameters = {"n": 3, "reward": "brevity", "threshold": 1.0}
        made = await driver.call(
            "create_program", "s", id="p", signature="q, limit: int -> answer", module=module, parameters=parameters
        )
        assert list(made["inputs"]["properties"]) == ["q", "limit"]
        driver.restored("s")
        advice = [Reply(json_answer(discussion="d", advice={"self": "Be as short as can be."}))]
        advice = advice if module == "refine" else []
        server.script.extend([Reply(json_answer(answer="much too long")), *advice, Reply(json_answer(answer="ok"))])
        got = await driver.call("execute_program", "s", program="p", inputs={"q": "x", "limit": 2})
        assert got == {"answer": "ok"}
        assert got.usage["lm_calls"] == (3 if module == "refine" else 2)
        assert [seen.body["temperature"] for seen in server.requests if "discussion" not in seen.prompt] == [1.0, 1.0]
        # None is good enough: the best of them.
        server.requests.clear()
        for text in ("seven77", "five5", "eleven 1111"):
            server.script.extend([Reply(json_answer(answer=text)), *advice])
        if module == "refine":
            server.script.pop()  # no advice after the last
        got = await driver.call("execute_program", "s", program="p", inputs={"q": "x", "limit": 2})
        assert got == {"answer": "five5"}

    run(scenario, choosing())


@pytest.mark.parametrize("module", ["best_of_n", "refine"])
def test_what_all_attempts_ended_with_is_told(module: str) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for reward in ("brevity", "nothing"):
            parameters = {"n": 2, "reward": reward, "threshold": 1.0}
            await driver.call(
                "create_program",
                "s",
                id=reward,
                signature="q, limit: int -> answer",
                module=module,
                parameters=parameters,
            )
        server.script.extend(Reply(status=401, message="wrong key") for _ in range(2))
        with pytest.raises(LMError) as caught:
            await driver.call("execute_program", "s", program="brevity", inputs={"q": "x", "limit": 2})
        assert caught.value.details["status"] == 401
        with pytest.raises(ProgramError, match="no reward today"):
            await driver.call("execute_program", "s", program="nothing", inputs={"q": "x", "limit": 2})

    run(scenario, choosing())


def test_chains_are_compared() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        made = await driver.call(
            "create_program",
            "s",
            id="p",
            signature="question -> answer",
            module="multi_chain_comparison",
            parameters={"m": 2},
        )
        assert made["signature"] == "completions: list[dict], question -> rationale, answer"
        assert list(made["inputs"]["properties"]) == ["completions", "question"]
        assert list(made["outputs"]["properties"]) == ["rationale", "answer"]
        attempts = [{"reasoning": "count the legs", "answer": "4"}, {"rationale": "count the wings", "answer": "2"}]
        server.script.append(Reply(json_answer(rationale="legs it is", answer="4")))
        got = await driver.call(
            "execute_program", "s", program="p", inputs={"question": "how many?", "completions": attempts}
        )
        assert got == {"rationale": "legs it is", "answer": "4"}
        assert "count the legs" in server.requests[0].prompt
        assert "count the wings" in server.requests[0].prompt
        for wrong in (attempts[:1], [*attempts, attempts[0]], [attempts[0], {"answer": "2"}], "x", [1, 2]):
            with pytest.raises(InvalidParams) as caught:
                await driver.call("execute_program", "s", program="p", inputs={"question": "?", "completions": wrong})
            assert paths(caught.value)[0].startswith("inputs.completions")
        assert len(server.requests) == 1

    run(scenario)


def test_tools_of_the_application() -> None:
    app = App()
    seen: list[tuple[str, bool]] = []

    @app.tool
    def price(item: str, count: int = 1) -> dict[str, Any]:
        """What so many of an item cost, in cents."""
        seen.append((item, threading.current_thread() is threading.main_thread()))
        if item == "gold":
            raise KeyError("gold")
        return {"cents": 250 * count}

    @app.tool(name="stock")
    async def in_stock(item: str) -> int:
        seen.append((item, threading.current_thread() is threading.main_thread()))
        return 7

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        made = await driver.call(
            "create_program", "s", id="p", signature="question -> answer", module="react", tools=["price", "stock"],
            parameters={"max_iters": 5},
        )  # fmt: skip
        driver.restored("s")

        def step(name: str, **arguments: Any) -> Reply:
            return Reply(json_answer(next_thought="so", next_tool_name=name, next_tool_args=arguments))

        steps = [step("price", item="tea", count=2), step("price", item="gold"), step("price", count="x")]
        steps += [step("stock", item="tea"), step("finish")]
        server.script.extend([*steps, Reply(json_answer(reasoning="since", answer="5.00"))])
        got = await driver.call("execute_program", "s", program="p", inputs={"question": "two teas?"})
        assert made["program"] == "p"
        assert got["answer"] == "5.00"
        trajectory = got["trajectory"]
        assert trajectory["observation_0"] == {"cents": 500}
        assert trajectory["observation_1"] == "Execution error in price: 'gold'"
        assert trajectory["observation_2"].startswith("Execution error in price: ")
        assert "Traceback" not in str(trajectory)
        assert trajectory["observation_3"] == 7
        assert seen == [("tea", False), ("gold", False), ("tea", True)]
        assert "What so many of an item cost, in cents." in server.requests[0].prompt
        # No more steps than the program may have.
        await driver.call(
            "create_program", "s", id="q", signature="question -> answer", module="react", tools=["price"],
            parameters={"max_iters": 1},
        )  # fmt: skip
        server.script.extend([step("price", item="tea"), Reply(json_answer(reasoning="r", answer="a"))])
        got = await driver.call("execute_program", "s", program="q", inputs={"question": "?"})
        assert [key for key in got["trajectory"] if key.startswith("observation")] == ["observation_0"]
        for tools in (["os.system"], ["price", "price"], ["price", {"name": "price"}], [5], []):
            with pytest.raises(InvalidParams, match=re.escape("tools")):
                await driver.call(
                    "create_program", "s", id="r", signature="question -> answer", module="react", tools=tools
                )

    run(scenario, app)


def test_docstrings_of_dspys_own_are_not_shown() -> None:
    app = App()

    @app.program("own")
    class Own(dspy.Module):
        def forward(self, text: str) -> dspy.Prediction:
            return dspy.Prediction(text=text)

    app.program("theirs")(dspy.ChainOfThought("question -> answer"))
    app.program("told", description="Told by the decorator.")(dspy.Predict("question -> answer"))

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        listed = {one["program"]: one["doc"] for one in (await driver.call("list_programs"))["programs"]}
        given = "Given the fields `question`, produce the fields `answer`."
        assert listed == {"own": "", "theirs": given, "told": "Told by the decorator."}

    run(scenario, app)
