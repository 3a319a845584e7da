"""The handlers that are measured, as an application of dspex_worker."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from dspex_worker import App, Session
from peers.handlers import burn as use_processor

app = App()
app.use_dspy = False


@app.method(inline=True)
def echo(value: object) -> object:
    return value


@app.method
async def nap(nap: float) -> float:
    await asyncio.sleep(nap)
    return nap


@app.method
def burn(burn: float) -> float:
    return use_processor(burn)


@app.method
async def plain(value: object) -> object:
    return value


@app.method
def threaded(value: object) -> object:
    return value


@app.method
async def items(count: int) -> AsyncIterator[int]:
    for n in range(count):
        yield n


@app.method
def threaded_items(count: int) -> Iterator[int]:
    yield from range(count)


@app.method
async def keep(value: str, session: Session) -> int:
    count: int = session.state.get("count", 0) + 1
    session.state["count"] = count
    session.state[f"value {count % 4}"] = value
    return count
