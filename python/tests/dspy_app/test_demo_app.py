"""The demo's application file loads and does what the demo shows of it."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

from support.driver import driving
from support.openai_server import OpenAIServer, json_answer

DEMO = Path(__file__).parents[3] / "examples" / "demo"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_app", DEMO / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_s_application() -> None:
    async def go() -> None:
        answer = json_answer(names=["Ann"], places=["Rome"], explanation=["Ann was in Rome."])
        with OpenAIServer(answer=lambda seen: answer) as server:
            models = {"local": {"model": "openai/m", "api_key": "k", "api_base": server.base, "adapter": "json"}}
            async with driving(load().app, models) as driver:
                got = await driver.call("execute_program", program="digest", inputs={"text": "t"})
                assert got == {"names": ["Ann"], "places": ["Rome"], "explanation": ["Ann was in Rome."]}
                assert got.usage["lm_calls"] == 2
                assert await driver.call("count_words", text="A a b.") == {"words": 3, "different": 2}
                streamed = await driver.stream("sentences", text="One. Two!  Three?")
                assert streamed.streamed == ["One.", "Two!", "Three?"]
                for count in (1, 2):
                    _, answered = driver.begin("remember", "s", note="n")
                    await answered
                    assert len(driver.session("s").entries) == 1, count

    asyncio.run(go())
