"""The handler in a ProcessPoolExecutor, which has no clients: it is measured from inside its own program.

usage: python -m peers.process_pool OUTSTANDING SECONDS <PARAMS      prints what bench/load prints, and cpu_us
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from measuring.processes import processor_time

from peers.handlers import handle


def drive(pool: ProcessPoolExecutor, body: dict[str, Any], outstanding: int, seconds: float) -> dict[str, Any]:
    answered: queue.SimpleQueue[tuple[float, Future[Any]]] = queue.SimpleQueue()

    def submit() -> None:
        began = time.perf_counter()
        pool.submit(handle, body).add_done_callback(lambda future: answered.put((began, future)))

    start = time.perf_counter()
    took = []
    for _ in range(outstanding):
        submit()
    waiting = outstanding
    while waiting:
        began, future = answered.get()
        future.result()
        now = time.perf_counter()
        took.append((now - began) * 1e6)
        waiting -= 1
        if now - start < seconds:
            submit()
            waiting += 1
    took.sort()
    at = {f"p{q}_us": took[int(q / 100 * (len(took) - 1))] for q in (50, 99)}
    return {"calls": len(took), "per_second": len(took) / (time.perf_counter() - start), "max_us": took[-1], **at}


def main() -> None:
    body, outstanding, seconds = json.load(sys.stdin), int(sys.argv[1]), float(sys.argv[2])
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        drive(pool, body, 4, 0.1)
        before = processor_time(os.getpid())
        found = drive(pool, body, outstanding, seconds)
        found["cpu_us"] = (processor_time(os.getpid()) - before) / found["calls"] * 1e6
    print(json.dumps(found))


if __name__ == "__main__":
    main()
