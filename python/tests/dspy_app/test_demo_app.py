"""The demo's application file loads and does what the demo shows of it; the demo ends when it is told to."""

from __future__ import annotations

import _thread
import asyncio
import importlib.util
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dspex.errors import ConnectionLost
from support.driver import driving
from support.openai_server import OpenAIServer, json_answer

DEMO = Path(__file__).parents[3] / "examples" / "demo"


def load(name: str = "app") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
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


def test_ctrl_c_does_not_wait_for_the_calls_of_the_demo_s_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()

    class Stuck:
        def create_session(self, name: str) -> Any:
            if name == "ada":
                _thread.interrupt_main()
            closed.wait(5.0)
            raise ConnectionLost

        def close(self) -> None:
            closed.set()

    monkeypatch.syspath_prepend(DEMO)
    with pytest.raises(KeyboardInterrupt):
        load("demo").sessions_side_by_side(Stuck(), None)
    assert closed.is_set()
