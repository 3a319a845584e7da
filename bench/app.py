"""The handlers that are measured, as an application of dspex_worker."""

import asyncio

from dspex_worker import App

app = App()
app.use_dspy = False


@app.method(inline=True)
def echo(value: object) -> object:
    return value


@app.method
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds
