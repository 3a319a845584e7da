"""The handlers that are measured, as an application of dspex_worker."""

import asyncio

from dspex_worker import App, Session

app = App()
app.use_dspy = False


@app.method(inline=True)
def echo(value: object) -> object:
    return value


@app.method
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.method
async def keep(value: str, session: Session) -> int:
    count: int = session.state.get("count", 0) + 1
    session.state["count"] = count
    session.state[f"value {count % 4}"] = value
    return count
