"""One client of one server, under load: `calls.py CLIENT SOCKET OUTSTANDING SECONDS`. Used by bench/clients.py.

Prints {"p50_us", "per_second", "cpu_us"}: the median of a call's time, calls a second, and what a call takes of this
process's time on the processor.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

WARM_UP = 200  # calls


def figures(times: list[float], seconds: float, cpu: float) -> dict[str, float]:
    count = len(times)
    return {"p50_us": statistics.median(times) * 1e6, "per_second": count / seconds, "cpu_us": cpu / count * 1e6}


def one_by_one(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    clock = time.perf_counter
    cpu, began = time.process_time(), clock()
    end = began + seconds
    now = began
    while now < end:
        call()
        then, now = now, clock()
        times.append(now - then)
    return figures(times, now - began, time.process_time() - cpu)


async def side_by_side(call: Callable[[], Awaitable[Any]], outstanding: int, seconds: float) -> dict[str, float]:
    times: list[float] = []
    clock = time.perf_counter

    async def caller(end: float) -> None:
        now = clock()
        while now < end:
            await call()
            then, now = now, clock()
            times.append(now - then)

    async def all_of_them(seconds: float) -> None:
        await asyncio.gather(*[caller(clock() + seconds) for _ in range(outstanding)])

    await all_of_them(0.1)
    times.clear()
    cpu, began = time.process_time(), clock()
    await all_of_them(seconds)
    return figures(times, clock() - began, time.process_time() - cpu)


def dspex_threads(path: str, _: int, seconds: float) -> dict[str, float]:
    import dspex

    with dspex.connect(path) as client:
        return one_by_one(lambda: client.call("ping"), seconds)


def redis_threads(path: str, _: int, seconds: float) -> dict[str, float]:
    import redis

    with redis.Redis(unix_socket_path=path) as client:
        return one_by_one(client.ping, seconds)


async def dspex_asyncio(path: str, outstanding: int, seconds: float) -> dict[str, float]:
    import dspex

    async with dspex.AsyncClient(path) as client:
        return await side_by_side(lambda: client.call("ping"), outstanding, seconds)


async def redis_asyncio(path: str, outstanding: int, seconds: float) -> dict[str, float]:
    import redis.asyncio

    async with redis.asyncio.Redis(unix_socket_path=path, max_connections=max(outstanding, 1)) as client:
        return await side_by_side(client.ping, outstanding, seconds)


CLIENTS: dict[str, Callable[[str, int, float], Any]] = {
    "dspex": dspex_threads,
    "redis-py": redis_threads,
    "dspex asyncio": dspex_asyncio,
    "redis.asyncio": redis_asyncio,
}

if __name__ == "__main__":
    name, path, outstanding, seconds = sys.argv[1:]
    told = CLIENTS[name](path, int(outstanding), float(seconds))
    print(json.dumps(asyncio.run(told) if asyncio.iscoroutine(told) else told))
