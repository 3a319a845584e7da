"""Streamed execution: pieces of the fields as they come, the outputs as the response, and ends of all kinds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import pytest
from dspex.errors import Cancelled, InvalidParams, LMError
from dspex_worker import App
from dspy.utils.exceptions import LMError as LmFailure
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, Reply, chat_answer, json_answer

ASK: dict[str, Any] = {"program": "p", "inputs": {"a": "x"}}
STORY = 'He said: "Hi"\nand [left]. ' * 20


def run(
    scenario: Callable[[Driver, OpenAIServer], Awaitable[None]],
    *script: Reply,
    adapter: str = "chat",
    app: App | None = None,
    num_retries: int = 0,
) -> None:
    async def go() -> None:
        with OpenAIServer(*script) as server:
            model = {"model": "openai/m", "api_key": "k", "api_base": server.base, "adapter": adapter}
            async with driving(app or App(), {"main": model | {"num_retries": num_retries}}) as driver:
                await driver.call("create_program", "s", id="p", signature="a -> story, tags: list[str]")
                await scenario(driver, server)

    asyncio.run(go())


def texts(items: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in items:
        if item["type"] == "delta":
            found[item["field"]] = found.get(item["field"], "") + item["text"]
    return found


@pytest.mark.parametrize(("adapter", "answer"), [("chat", chat_answer), ("json", json_answer)])
def test_pieces_make_up_the_outputs(adapter: str, answer: Callable[..., str]) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        got = await driver.stream("execute_program", "s", **ASK)
        assert got == {"story": STORY.strip() if adapter == "chat" else STORY, "tags": ["x", "y"]}
        assert texts(got.streamed)["story"] == got["story"]
        assert len(got.streamed) > 20
        assert got.usage["completion_tokens"] == 5
        assert server.requests[0].body["stream"] is True

    run(scenario, Reply(answer(story=STORY, tags=["x", "y"])), adapter=adapter)


def test_pieces_come_before_the_end() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        came = asyncio.Event()
        driver.on_item = lambda call, item: came.set()
        call, answer = driver.begin("execute_program", "s", streamed=True, **ASK)
        await asyncio.wait_for(came.wait(), 10)  # the server sends nothing more
        driver.cancel(call)
        with pytest.raises(Cancelled):
            await answer
        assert await asyncio.to_thread(server.wait_for, lambda s: s.disconnects == 1)

    run(scenario, Reply(chat_answer(story=STORY, tags=[]), hang_after=30))


def test_an_answer_that_is_cut_off_is_an_error_and_not_asked_again() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(LMError):
            await driver.stream("execute_program", "s", **ASK)
        assert len(server.requests) == 1
        got = await driver.stream("execute_program", "s", **ASK)
        assert got["story"] == "again"

    cut = Reply(chat_answer(story=STORY, tags=[]), cut_after=30)
    run(scenario, cut, Reply(chat_answer(story="again", tags=[])), num_retries=3)


def test_what_a_module_asks_again_itself_is_read_anew() -> None:
    """Of an answer that was cut off nothing is left over for the next."""
    app = App()

    @app.program("patient")
    class Patient(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.Predict("a -> b")

        async def aforward(self, a: str) -> Any:
            try:
                return await self.inner.acall(a=a)
            except LmFailure:
                return await self.inner.acall(a=a)

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        got = await driver.stream("execute_program", "s", program="patient", inputs={"a": "x"})
        assert got == {"b": "the whole"}
        assert texts(got.streamed)["b"].endswith("the whole")

    cut = Reply(json_answer(b="half of it"), pieces=('{"b": "half', ' of it"}'), cut_after=1)
    run(scenario, cut, Reply(json_answer(b="the whole")), adapter="json", app=app)


def test_a_refused_request_is_asked_again() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        got = await driver.stream("execute_program", "s", **ASK)
        assert (got["story"], got.usage["lm_calls"]) == ("second", 2)

    refused = Reply(status=429, message="slow", headers={"Retry-After": "0"})
    run(scenario, refused, Reply(chat_answer(story="second", tags=[])), num_retries=1)


def test_wrong_inputs_are_refused_before_the_stream() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(InvalidParams):
            await driver.stream("execute_program", "s", program="p", inputs={})
        assert server.requests == []

    run(scenario)


def test_a_module_of_several_steps_on_a_thread() -> None:
    app = App()

    @app.program("steps")
    class Steps(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.draft = dspy.Predict("a -> text, note")
            self.final = dspy.Predict("text -> better, note")

        def forward(self, a: str) -> Any:
            assert threading.current_thread() is not threading.main_thread()
            return self.final(text=self.draft(a=a).text)

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        got = await driver.stream("execute_program", program="steps", inputs={"a": "x"})
        assert got == {"better": "two words", "note": "n2"}
        assert [i["message"] for i in got.streamed if i["type"] == "status"] == ["draft started", "final started"]
        assert texts(got.streamed) == {"text": "one", "draft.note": "n1", "better": "two words", "final.note": "n2"}

    first, second = chat_answer(text="one", note="n1"), chat_answer(better="two words", note="n2")
    run(scenario, Reply(first), Reply(second), app=app)


def test_streams_at_once_do_not_mix() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.answer = lambda seen: chat_answer(story=f"for {seen.prompt.count('y')} of them", tags=[])

        async def one(number: int) -> None:
            got = await driver.stream("execute_program", "s", program="p", inputs={"a": "y" * number})
            assert texts(got.streamed)["story"] == got["story"]

        await asyncio.gather(*(one(number) for number in range(1, 20)))

    run(scenario)
