"""A web service before the sidecar: `uvicorn --app-dir examples/fastapi web:app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dspex import AsyncClient, DspexError
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

client = AsyncClient(timeout=60, wait=10)  # one for the whole process: any number of calls may be in flight


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connected while the service runs."""
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


class Text(BaseModel):
    """What is to be read."""

    text: str


class Digest(BaseModel):
    """What was found in it."""

    names: list[str]
    places: list[str]
    explanation: list[str]


@app.post("/digest")
async def digest(text: Text) -> Digest:
    """Run a program; its outputs are checked by the model."""
    return await client.program("digest").run_as(Digest, text)


@app.get("/health")
async def health() -> Any:
    """What the sidecar says of itself."""
    return await client.call("sidecar.health")


@app.exception_handler(DspexError)
async def failed(_: Request, error: DspexError) -> JSONResponse:
    """What may succeed later is 503, wrong parameters are 422, and all else is 502."""
    status = 503 if error.retryable else 422 if error.code == "invalid_params" else 502
    return JSONResponse({"code": error.code, "message": error.message}, status)
