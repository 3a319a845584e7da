"""DSPy with asyncio in one process, and nothing around it. usage: python -m peers.dspy_plain OUTSTANDING SECONDS

Prints what bench/load prints, and cpu_us.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from measuring.processes import processor_time

from peers.dspy_program import Ask, behind_http


async def drive(outstanding: int, seconds: float) -> dict[str, float]:
    program = Ask(behind_http())
    took: list[float] = []

    async def one(end: float) -> None:
        while (began := time.perf_counter()) < end:
            assert (await program.acall(question="?")).answer == 42
            took.append((time.perf_counter() - began) * 1e6)

    async def many(seconds: float) -> float:
        began = time.perf_counter()
        await asyncio.gather(*[one(began + seconds) for _ in range(outstanding)])
        return time.perf_counter() - began

    await many(0.3)
    took.clear()
    before = processor_time(os.getpid())
    passed = await many(seconds)
    used = processor_time(os.getpid()) - before
    took.sort()
    at = {f"p{q}_us": took[int(q / 100 * (len(took) - 1))] for q in (50, 99)}
    return {"calls": len(took), "per_second": len(took) / passed, "cpu_us": used / len(took) * 1e6, **at}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(drive(int(sys.argv[1]), float(sys.argv[2])))))
