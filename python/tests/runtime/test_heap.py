"""The memory of large frames."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime.harness import TIMEOUT, Worker

VALUE = "x" * (1 << 20)
PAGES = 256  # of VALUE


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker().ready()
    yield worker
    worker.close()


def faults(worker: Worker) -> int:
    """Pages that the kernel has given the worker so far."""
    stat = Path(f"/proc/{worker.process.pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[7])  # minflt of proc(5)


def resident(worker: Worker) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


@pytest.mark.parametrize("method", ["echo", "echo_async", "echo_sync"])
def test_large_frames_go_through_memory_that_is_there(worker: Worker, method: str) -> None:
    def call(times: int) -> None:
        for _ in range(times):
            assert worker.call(method, value=VALUE) == VALUE

    call(3)
    before = faults(worker)
    call(20)
    assert faults(worker) - before < 20 * PAGES  # one copy of five


def test_what_large_frames_took_is_given_back(worker: Worker) -> None:
    worker.call("echo", value="")
    before = resident(worker)
    for id in range(1, 9):
        worker.request(id, "echo_async", value=VALUE)
    for id in range(1, 9):
        assert worker.response(id).result == VALUE
    deadline = time.monotonic() + TIMEOUT
    while (more := resident(worker) - before) > 2 * len(VALUE):
        assert time.monotonic() < deadline, f"{more} bytes are still taken"
        worker.call("ping")
