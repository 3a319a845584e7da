"""An application that counts."""

from __future__ import annotations

import os
import signal

from dspex_worker import App

app = App(use_dspy=False)
jobs = app.metrics.counter("jobs", "Jobs done.", labels=("kind",))
busy = app.metrics.gauge("busy", "Jobs under way.")
sizes = app.metrics.histogram("job_size", "Sizes of jobs.", buckets=(1, 10, 100))
jobs.inc(1000, kind="at import")  # by the process that workers are forked from: not theirs


@app.on_worker_start
def started() -> None:
    jobs.inc(kind="start")


@app.method
def work(kind: str, size: float) -> int:
    jobs.inc(kind=kind)
    sizes.observe(size)
    busy.set(1)
    return os.getpid()


@app.method
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
