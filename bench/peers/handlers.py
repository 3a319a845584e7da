"""The handler that every peer serves: it returns what it was given, after a sleep or some work if that asks for it."""

from __future__ import annotations

import asyncio
import time
from typing import Any


def burn(seconds: float) -> float:
    """Use so much of the processor, however long that takes."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return seconds


def handle(body: dict[str, Any]) -> dict[str, Any]:
    if "nap" in body:
        time.sleep(body["nap"])
    if "burn" in body:
        burn(body["burn"])
    return body


async def handle_async(body: dict[str, Any]) -> dict[str, Any]:
    if "nap" in body:
        await asyncio.sleep(body["nap"])
    if "burn" in body:
        burn(body["burn"])
    return body
