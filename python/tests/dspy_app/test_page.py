"""The blocks of docs/dspy.md are applications, and do what the page says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from dspex_worker import App
from support.driver import driving

PAGE = Path(__file__).parents[3] / "docs" / "dspy.md"


def applications() -> list[App]:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found = []
    for number, block in enumerate(blocks):
        names: dict[str, Any] = {"__name__": f"page_{number}"}
        exec(compile(block, f"{PAGE}, block {number}", "exec", dont_inherit=True), names)
        found.append(names["app"])
    return found


def test_the_page() -> None:
    types, functions = applications()

    async def with_types() -> None:
        async with driving(types) as driver:
            made = await driver.call("create_program", "s", signature="message -> ticket: Ticket")
            assert made["outputs"]["$defs"]["Priority"]["enum"] == ["low", "high"]

    async def with_functions() -> None:
        async with driving(functions) as driver:
            await driver.call("create_program", "s", signature="q -> answer", module="react", tools=["price"])
            parameters = {"n": 3, "reward": "brevity", "threshold": 1.0}
            await driver.call("create_program", "s", signature="q -> answer", module="refine", parameters=parameters)

    asyncio.run(with_types())
    asyncio.run(with_functions())
