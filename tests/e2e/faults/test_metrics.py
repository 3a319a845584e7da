"""Metrics of the application, summed over its workers, whatever becomes of them."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from dspex.errors import WorkerLost
from e2e.support.configuration import SIDECAR
from e2e.support.machine import until
from e2e.support.servers import Server


def metrics(server: Server) -> dict[str, float]:
    command = [str(SIDECAR), "stats", "--prometheus", "--socket", server.path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def tables(**pool: Any) -> dict[str, Any]:
    return {"pools": {"default": {"app": "measured:app", "size": 2, "concurrency": 1, **pool}}}


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_counters_outlive_their_workers(start: str) -> None:
    with Server("sidecar", tables(start=start)) as server:
        client = server.client()
        for _ in range(20):
            client.call("work", {"kind": "a", "size": 5})
        until(lambda: metrics(server).get('dspex_app_jobs_total{kind="a"}') == 20, "all are told")
        seen = metrics(server)
        assert seen['dspex_app_job_size_bucket{le="1"}'] == 0
        assert seen['dspex_app_job_size_bucket{le="10"}'] == seen["dspex_app_job_size_count"] == 20
        assert seen["dspex_app_job_size_sum"] == 100
        assert seen["dspex_app_busy"] in (1, 2)
        until(lambda: metrics(server).get('dspex_app_jobs_total{kind="start"}') == 2, "both workers are told of")
        at_import = seen.get('dspex_app_jobs_total{kind="at import"}', 0)
        assert at_import == (0 if start == "zygote" else at_import)

        with pytest.raises(WorkerLost):
            client.call("die")
        until(lambda: metrics(server).get('dspex_app_jobs_total{kind="start"}') == 3, "another worker has started")
        after = metrics(server)
        assert after['dspex_app_jobs_total{kind="a"}'] == 20
        assert after["dspex_app_job_size_count"] == 20
        assert after['dspex_worker_ends_total{pool="default",reason="crashed"}'] == 1
        assert after['dspex_calls_total{method="die",code="worker_lost"}'] == 1
        assert after['dspex_calls_total{method="work",code="ok"}'] == 20
        client.call("work", {"kind": "a", "size": 5})
        until(lambda: metrics(server)['dspex_app_jobs_total{kind="a"}'] == 21, "it goes on")


def test_what_was_counted_before_a_worker_is_recycled_is_told() -> None:
    with Server("sidecar", tables(recycle_calls=5, size=1)) as server:
        client = server.client()
        made = 0

        def ends() -> float:
            nonlocal made
            client.call("work", {"kind": "a", "size": 1})
            made += 1
            return metrics(server).get('dspex_worker_ends_total{pool="default",reason="planned"}', 0)

        until(lambda: ends() >= 5, "five workers were recycled")
        until(lambda: metrics(server).get('dspex_app_jobs_total{kind="a"}') == made, "all are told")
