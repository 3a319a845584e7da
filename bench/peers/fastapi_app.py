"""The handler behind FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from peers.handlers import handle_async

app = FastAPI()


@app.post("/")
async def call(body: dict[str, Any]) -> dict[str, Any]:
    return await handle_async(body)
