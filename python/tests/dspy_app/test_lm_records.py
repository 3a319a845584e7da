"""What is kept and told of LM requests: answers that are kept, exchanges, traces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import pytest
from dspex.errors import InvalidParams, LMError
from dspex_worker import App
from dspex_worker.dspy_app.kept_answers import KeptAnswers
from dspex_worker.dspy_app.settings import LmSettings
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, Reply, json_answer

Scenario = Callable[[Driver, OpenAIServer], Awaitable[None]]
ASK: dict[str, Any] = {"program": "p", "inputs": {"a": "x"}}
CACHED: dict[str, Any] = {"cache": True}


def run(
    scenario: Scenario,
    *script: Reply,
    app: App | None = None,
    history: int = 0,
    others: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    async def go() -> None:
        numbers = iter(range(1000))
        with OpenAIServer(*script, answer=lambda seen: json_answer(b=f"answer {next(numbers)}")) as server:
            main = {"model": "openai/m", "api_key": "operator-key", "api_base": server.base, "adapter": "json"}
            models: dict[str, Any] = {"main": {**main, "default": True, **settings}}
            models |= {name: main | more for name, more in (others or {}).items()}
            async with driving(app or App(), models, history=history) as driver:
                for session in ("s", "t"):
                    await driver.call("create_program", session, id="p", signature="a -> b")
                await scenario(driver, server)

    asyncio.run(go())


def test_answers_are_kept_only_where_that_is_wanted() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        got = [(await driver.call("execute_program", "s", **ASK))["b"] for _ in range(3)]
        assert got == ["answer 0", "answer 1", "answer 2"]

    run(scenario)


def test_kept_answers_are_the_sessions_own() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        first = await driver.call("execute_program", "s", **ASK)
        again = await driver.call("execute_program", "s", **ASK)
        assert (first["b"], again["b"], len(server.requests)) == ("answer 0", "answer 0", 1)
        assert "cache_hits" not in first.usage
        assert again.usage == {"cache_hits": 1}
        assert (await driver.call("execute_program", "t", **ASK))["b"] == "answer 1"
        other = {"program": "p", "inputs": {"a": "y"}}
        assert (await driver.call("execute_program", "s", **other))["b"] == "answer 2"
        streamed = await driver.stream("execute_program", "s", **ASK)
        assert streamed["b"] == "answer 3"  # whoever wants to see it come
        assert (await driver.call("execute_program", "s", **ASK))["b"] == "answer 3"
        driver.restored("s")  # at another worker, say; the session is the same
        assert (await driver.call("execute_program", "s", **ASK))["b"] == "answer 3"

    run(scenario, **CACHED)


def test_kept_answers_of_a_model_are_shared_by_its_settings_alone() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        assert (await driver.call("execute_program", "s", **ASK))["b"] == "answer 0"
        assert (await driver.call("execute_program", "t", **ASK))["b"] == "answer 0"
        for number, other in enumerate(("key", "base", "warm"), 1):
            await driver.call("configure_lm", "t", model=other)
            got = [(await driver.call("execute_program", "t", **ASK))["b"] for _ in range(2)]
            assert got == [f"answer {number}"] * 2, other
        mine = {"model": "openai/m", "api_key": "operator-key", "api_base": server.base, "adapter": "json"}
        await driver.call("configure_lm", "t", settings=mine)  # as good as the operator's own
        assert (await driver.call("execute_program", "t", **ASK))["b"] == "answer 4"
        assert (await driver.call("execute_program", "t", **ASK))["b"] == "answer 5"

    with OpenAIServer() as unused:
        base = unused.base.replace("127.0.0.1", "localhost")

    shared: dict[str, Any] = {"cache": True, "cache_scope": "model"}

    async def with_bases(driver: Driver, server: OpenAIServer) -> None:
        models = driver.app.worker.models if driver.app.worker else {}
        models["base"]["api_base"] = server.base.replace("127.0.0.1", "localhost")
        driver.app.use_models(models)
        await scenario(driver, server)

    others: dict[str, dict[str, Any]] = {
        "key": {"api_key": "another"},
        "base": {"api_base": base},
        "warm": {"temperature": 0.5},
    }
    run(with_bases, others={name: more | shared for name, more in others.items()}, **shared)


def test_failures_and_answers_of_others_are_not_kept() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script += [Reply(status=500), Reply(json_answer(b="other"))]
        assert (await driver.call("execute_program", "s", **ASK))["b"] == "other"
        assert (await driver.call("execute_program", "s", **ASK))["b"] == "answer 0"
        assert (await driver.call("execute_program", "s", **ASK))["b"] == "answer 0"

    run(scenario, others={"other": {}}, fallbacks=["other"], **CACHED)


def test_kept_answers_are_bounded() -> None:
    kept = KeptAnswers(100_000)
    settings = LmSettings("m", "openai/m")
    for number in range(1000):
        kept.put((settings, None, str(number).encode()), ["x" * 1000])
    assert 50 < len(kept) < 100
    assert kept.get((settings, None, b"999")) == ["x" * 1000]
    assert kept.get((settings, None, b"1")) is None
    kept.put((settings, None, b"long"), ["x" * 50_000])
    assert kept.get((settings, None, b"long")) is None


def test_history() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for number in range(3):
            await driver.call("execute_program", "s", program="p", inputs={"a": f"question {number}"})
        server.script.append(Reply(status=401, message="the key operator-key is wrong"))
        with pytest.raises(LMError):
            await driver.call("execute_program", "s", **ASK)
        shown = await driver.call("inspect_history", "s", n=3)
        assert (len(shown["entries"]), shown["dropped"], shown["kept_bytes"]) == (3, 0, 20_000)
        entry = shown["entries"][1]
        assert (entry["model"], entry["program"], entry["outputs"]) == ("main", "p", ['{"b": "answer 2"}'])
        assert [message["role"] for message in entry["messages"]] == ["system", "user"]
        assert "question 2" in entry["messages"][1]["content"]
        assert (entry["usage"]["total_tokens"], entry["cost"]) == (12, pytest.approx(17e-6))
        assert entry["ms"] > 0
        failed = shown["entries"][2]
        assert failed["error"]["type"] == "LMAuthError"
        assert "outputs" not in failed
        assert "operator-key" not in str(shown)
        assert (await driver.call("inspect_history", "t"))["entries"] == []
        await driver.call("execute_program", "t", program="p", inputs={"a": "long " * 20_000})
        long = (await driver.call("inspect_history", "t"))["entries"]
        assert 1000 < len(long[0]["messages"][1]["content"]) < 5000
        for _ in range(60):
            await driver.call("execute_program", "s", **ASK)
        shown = await driver.call("inspect_history", "s", n=100)
        assert 5 < len(shown["entries"]) < 60
        assert shown["dropped"] == 64 - len(shown["entries"])
        for wrong in (0, 1001):
            with pytest.raises(InvalidParams):
                await driver.call("inspect_history", "s", n=wrong)
        driver.restored("s")
        assert (await driver.call("inspect_history", "s"))["entries"] == []

    run(scenario, history=20_000, input_price=1.0, output_price=2.0)


def test_history_of_an_answer_that_cannot_be_packed() -> None:
    """What is kept of an exchange is no reason for a call to fail."""
    app = App()

    @app.program("length")
    class Length(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.Predict("a -> b")

        async def aforward(self, a: str) -> Any:
            return dspy.Prediction(length=len((await self.inner.acall(a=a)).b))

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script.append(Reply('{"b": "half a pair: \ud83d"}'))
        got = await driver.call("execute_program", "s", program="length", inputs={"a": "x"})
        assert got == {"length": 14}
        assert len(server.requests) == 1
        shown = (await driver.call("inspect_history", "s"))["entries"]
        assert "half a pair" in shown[0]["outputs"][0]

    run(scenario, app=app, history=20_000)


def test_no_history_unless_it_is_wanted() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("execute_program", "s", **ASK)
        assert await driver.call("inspect_history", "s") == {"entries": [], "dropped": 0, "kept_bytes": 0}
        assert driver.session("s").history is None

    run(scenario)


def traced() -> App:
    app = App()

    def look_up(word: str) -> str:
        """Look a word up."""
        return f"{word} means something"

    @app.program("agent")
    class Agent(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = dspy.ChainOfThought("a -> b")
            self.look_up = dspy.Tool(look_up)

        async def aforward(self, a: str) -> Any:
            found = await self.look_up.acall(word=a)
            return await self.first.acall(a=found)

    @app.program("threaded")
    class Threaded(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.Predict("a -> b")

        def forward(self, a: str) -> Any:
            return self.inner(a=a)

    return app


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_a_trace(streamed: bool, full: bool) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script.append(Reply(json_answer(reasoning="because", b="yes")))
        call, finished = driver.begin(
            "execute_program",
            streamed=streamed,
            program="agent",
            inputs={"a": "secret word"},
            trace="full" if full else True,
        )
        answer = await finished
        assert answer["b"] == "yes"
        told = [item for item in answer.streamed if item["type"] == "trace"] if streamed else call.reply_app["trace"]
        starts = {event["id"]: event for event in told if event["event"] == "start"}
        ends = {event["id"]: event for event in told if event["event"] == "end"}
        assert starts.keys() == ends.keys()
        seen = [(one["kind"], one["name"], (starts.get(one["parent"]) or {}).get("name")) for one in starts.values()]
        assert seen == [
            ("module", "Agent", None),
            ("tool", "look_up", "Agent"),
            ("module", "first", "Agent"),
            ("module", "first.predict", "first"),
            ("adapter", "JSONAdapter.format", "first.predict"),
            ("adapter", "JSONAdapter.format", "JSONAdapter.format"),
            ("lm", "main", "first.predict"),
            ("adapter", "JSONAdapter.parse", "first.predict"),
        ]
        assert all(end["ms"] >= 0 and "error" not in end for end in ends.values())
        assert [one["at_ms"] for one in starts.values()] == sorted(one["at_ms"] for one in starts.values())
        assert ("secret word" in str(told)) is full
        assert ("because" in str(told)) is full
        assert "operator-key" not in str(told)

    run(scenario, app=traced())


def test_a_trace_of_what_failed_and_of_what_is_long() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script += [Reply(status=500), Reply(status=429)]
        call, finished = driver.begin("execute_program", program="threaded", inputs={"a": "x"}, trace=True)
        with pytest.raises(LMError):
            await finished
        ended = [event for event in call.reply_app["trace"] if event["event"] == "end"]
        assert [(one["name"], one.get("error")) for one in ended] == [
            ("JSONAdapter.format", None),
            ("JSONAdapter.format", None),
            ("main", "LMServerError"),
            ("other", "LMRateLimitError"),
            ("inner", "LMRateLimitError"),
            ("Threaded", "LMRateLimitError"),
        ]
        long: dict[str, Any] = {"program": "threaded", "inputs": {"a": "x" * 100_000}, "trace": "full"}
        call, finished = driver.begin("execute_program", **long)
        assert (await finished)["b"] == "answer 0"
        assert len(str(call.reply_app)) < 40_000
        call, finished = driver.begin("execute_program", **ASK | {"program": "threaded", "trace": "all"})
        with pytest.raises(InvalidParams):
            await finished

    run(scenario, app=traced(), others={"other": {}}, fallbacks=["other"])
