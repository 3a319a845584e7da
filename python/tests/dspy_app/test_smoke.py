from __future__ import annotations

import asyncio

from dspex_worker import App
from support.driver import driving
from support.openai_server import OpenAIServer, chat_answer


def test_smoke() -> None:
    async def run() -> None:
        with OpenAIServer(answer=lambda s: chat_answer(answer=42.5) if "[[" in s.prompt else "") as server:
            models = {"main": {"model": "openai/gpt-4o-mini", "api_key": "k", "api_base": server.base}}
            async with driving(App(), models) as driver:
                print(await driver.call("create_program", "s", id="qa", signature="question -> answer: float"))
                r = await driver.call("execute_program", "s", program="qa", inputs={"question": "x"})
                print(r, r.usage)
                r = await driver.stream("execute_program", "s", program="qa", inputs={"question": "x"})
                print(r, r.usage, r.items)
                print(await driver.call("get_program_info", "s", program="qa"))
                print(await driver.call("list_programs", "s"))

    asyncio.run(run())
