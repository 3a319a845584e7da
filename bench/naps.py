"""The limit of sleeping methods: bare asyncio, two processes of 32 sleeps each; prints sleeps/s as bench/load does."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time


async def naps(seconds: float) -> int:
    end = time.perf_counter() + seconds

    async def one() -> int:
        count = 0
        while time.perf_counter() < end:
            await asyncio.sleep(0.02)
            count += 1
        return count

    return sum(await asyncio.gather(*[one() for _ in range(32)]))


def process(seconds: float) -> float:
    began = time.perf_counter()
    return asyncio.run(naps(seconds)) / (time.perf_counter() - began)


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(json.dumps({"per_second": sum(pool.map(process, [float(sys.argv[1])] * 2, chunksize=1))}))
