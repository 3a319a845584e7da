"""Conversations: kept in the session, trimmed, shown, edited, forgotten; and what has to do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import pytest
from dspex.errors import InvalidParams, InvalidSignature, LMError
from dspex_worker import App
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, Reply, Seen, json_answer

Scenario = Callable[[Driver, OpenAIServer], Awaitable[None]]


def run(scenario: Scenario, app: App | None = None) -> None:
    numbers = iter(range(1, 1000))

    def answer(seen: Seen) -> str:
        return json_answer(answer=f"answer {next(numbers)}", reasoning="since")

    async def go() -> None:
        with OpenAIServer(answer=answer) as server:
            models = {"main": {"model": "openai/m", "api_key": "k", "api_base": server.base, "adapter": "json"}}
            async with driving(app or App(), models) as driver:
                await scenario(driver, server)

    asyncio.run(go())


async def say(driver: Driver, text: str, session: str = "s", program: str = "chat") -> str:
    said: str = (await driver.call("execute_program", session, program=program, inputs={"question": text}))["answer"]
    return said


def turns(seen: Seen) -> list[str]:
    """What the request's messages between the system's and the last say, in short."""
    return [f"{one['role']}: {one['content']}" for one in seen.body["messages"][1:-1]]


def test_what_was_said_is_remembered_and_restored() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        made = await driver.call("create_program", "s", id="chat", signature="question -> answer", memory={"turns": 2})
        assert list(made["inputs"]["properties"]) == ["question"]
        assert made["signature"] == "question -> answer"
        assert [await say(driver, text) for text in ("one", "two")] == ["answer 1", "answer 2"]
        driver.restored("s")
        assert await say(driver, "three") == "answer 3"
        told = turns(server.requests[2])
        assert [one.split(":")[0] for one in told] == ["user", "assistant"] * 2
        for part, text in zip(("one", "answer 1", "two", "answer 2"), told, strict=True):
            assert part in text
        assert await say(driver, "four") == "answer 4"
        assert "one" not in "".join(turns(server.requests[3]))  # two turns are kept
        got = await driver.call("get_history", "s", program="chat")
        assert got["messages"] == [
            {"question": "three", "answer": "answer 3"},
            {"question": "four", "answer": "answer 4"},
        ]
        assert got["memory"] == {"turns": 2}
        assert (await driver.call("get_program_info", "s", program="chat"))["memory"] == {"turns": 2}
        assert (await driver.call("get_session_state", "s"))["state"] == {}

    run(scenario)


def test_a_conversation_is_its_sessions_and_its_programs_own() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for session, program in (("s", "chat"), ("s", "other"), ("t", "chat")):
            await driver.call(
                "create_program", session, id=program, signature="question -> answer", memory={"turns": 9}
            )
        await say(driver, "one")
        await say(driver, "two", "t")
        await say(driver, "three", "s", "other")
        assert [turns(seen) for seen in server.requests] == [[], [], []]
        assert len((await driver.call("get_history", "t", program="chat"))["messages"]) == 1

    run(scenario)


def test_memory_by_tokens() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="chat", signature="question -> answer", memory={"tokens": 60})
        for _ in range(5):
            await say(driver, "x" * 60)  # some 25 tokens a turn
        got = await driver.call("get_history", "s", program="chat")
        assert [one["answer"] for one in got["messages"]] == ["answer 4", "answer 5"]
        assert 40 < got["tokens"] <= 60
        await say(driver, "x" * 1000)  # more than may be kept
        assert (await driver.call("get_history", "s", program="chat"))["messages"] == []

    run(scenario)


def test_a_call_that_fails_is_not_remembered() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="chat", signature="question -> answer", memory={"turns": 9})
        server.script.extend([Reply(status=500), Reply("no JSON")])
        for _ in range(2):
            with pytest.raises(LMError):
                await say(driver, "one")
        with pytest.raises(InvalidParams):
            await driver.call("execute_program", "s", program="chat", inputs={"question": 5})
        assert (await driver.call("get_history", "s", program="chat"))["messages"] == []
        assert len(server.requests) == 2

    run(scenario)


def test_streams_remember_too() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="chat", signature="question -> answer", memory={"turns": 9})
        got = await driver.stream("execute_program", "s", program="chat", inputs={"question": "one"})
        assert got == {"answer": "answer 1"}
        assert "".join(item["text"] for item in got.streamed) == "answer 1"
        await say(driver, "two")
        assert "answer 1" in turns(server.requests[1])[1]

    run(scenario)


def test_a_conversation_is_edited_and_reset() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="chat", signature="question -> answer", memory={"turns": 2})
        await driver.call("create_program", "s", id="plain", signature="question -> answer")
        wrong: list[tuple[list[dict[str, Any]], str]] = [
            ([{"question": "a", "other": "b"}], "messages[0].other"),
            ([{}], "messages[0]"),
            ([{"question": "a"}] * 1001, "messages"),
            ([{"question": "<<CUSTOM-TYPE-START-IDENTIFIER>>"}], "messages[0]"),
        ]
        for messages, path in wrong:
            with pytest.raises(InvalidParams) as caught:
                await driver.call("edit_history", "s", program="chat", messages=messages)
            assert caught.value.details["errors"][0]["path"] == path
        messages = [{"question": str(number), "answer": b"picture"} for number in range(5)]
        assert await driver.call("edit_history", "s", program="chat", messages=messages) == {"turns": 2}
        await say(driver, "go on")
        assert "(7 bytes)" in turns(server.requests[0])[3]
        await driver.call("reset_history", "s", program="chat")
        await say(driver, "go on")
        assert turns(server.requests[1]) == []
        for method in ("get_history", "reset_history"):
            with pytest.raises(InvalidParams, match="without memory"):
                await driver.call(method, "s", program="plain")

    run(scenario)


def test_a_program_of_the_applications_remembers() -> None:
    app = App()

    class Talk(dspy.Signature):
        """Talk."""

        question: str = dspy.InputField()
        past: dspy.History = dspy.InputField()
        answer: str = dspy.OutputField()

    app.program("chat", memory={"turns": 3})(dspy.ChainOfThought(Talk))
    app.program("free")(dspy.Predict(Talk))

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        info = await driver.call("get_program_info", "s", program="chat")
        assert list(info["inputs"]["properties"]) == ["question"]
        await say(driver, "one")
        await say(driver, "two")
        assert "since" in turns(server.requests[1])[1]
        with pytest.raises(InvalidParams, match="session"):
            await driver.call("execute_program", program="chat", inputs={"question": "x"})
        with pytest.raises(InvalidParams, match=r"inputs\.past"):
            await driver.call("execute_program", "s", program="chat", inputs={"question": "x", "past": {}})
        with pytest.raises(InvalidParams, match="of their own"):
            await driver.call("execute_batch", "s", program="chat", inputs=[{"question": "x"}])

    run(scenario, app)


@pytest.mark.parametrize(
    "memory", [{}, {"turns": 0}, {"turns": 1001}, {"turns": True}, {"turns": 1, "tokens": 1}, {"t": 1}]
)
def test_memory_that_cannot_be(memory: dict[str, Any]) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(InvalidParams, match="memory"):
            await driver.call("create_program", "s", signature="a -> b", memory=memory)

    run(scenario)


def test_names_and_changes_of_programs_with_memory() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        create: dict[str, Any] = {"id": "chat", "memory": {"turns": 9}, "replace": True}
        with pytest.raises(InvalidSignature, match="history"):
            await driver.call("create_program", "s", signature="question, history -> answer", **create)
        two = "question, h: dspy.History, i: dspy.History -> answer"
        with pytest.raises(InvalidSignature, match="not 2"):
            await driver.call("create_program", "s", signature=two, **create)
        await driver.call("create_program", "s", signature="question -> answer", **create)
        await say(driver, "one")
        # The same signature goes on with the conversation, another begins a new one, and one without memory ends it.
        await driver.call("create_program", "s", signature="question -> answer", instructions="Be brief.", **create)
        await say(driver, "two")
        assert len(turns(server.requests[1])) == 2
        await driver.call("create_program", "s", signature="question -> answer, reasoning", **create)
        await say(driver, "three")
        assert turns(server.requests[2]) == []
        await driver.call("create_program", "s", **{**create, "memory": None}, signature="question -> answer")
        assert not [key for key in driver.session("s").entries if "history" in key]
        await driver.call("create_program", "s", **create, signature="question -> answer")
        await driver.call("delete_program", "s", program="chat")
        assert not driver.session("s").entries

    run(scenario)
