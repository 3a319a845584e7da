"""Workers that are replaced as planned, or because they take too much; what they print; their hooks."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from dspex.errors import ProgramError, WorkerLost
from e2e.support import machine
from e2e.support.configuration import merged
from e2e.support.machine import until
from e2e.support.servers import Server

BASE: dict[str, Any] = {"pools": {"default": {"app": "lives:app", "size": 2}}}
THREADS, RECYCLES = 8, 10


def started(**pool: Any) -> Server:
    return Server("sidecar", merged(BASE, {"pools": {"default": pool}}))


def lines(server: Server, message: str) -> list[dict[str, Any]]:
    """The log's lines with this message."""
    return [line for line in map(json.loads, server.log.splitlines()) if line["msg"] == message]


def workers(server: Server) -> dict[str, int]:
    with server.client() as client:
        return {w["worker"]: w["pid"] for w in client.call("sidecar.workers")["workers"]}


def test_recycled_again_and_again_no_call_and_no_session_notices() -> None:
    with started(recycle_calls=50) as server:
        failures: list[Exception] = []
        enough = threading.Event()

        def work(name: str) -> None:
            try:
                with server.client() as client:
                    client.create_session(name)
                    total = 0
                    while not enough.is_set():
                        total += 1
                        assert client.session(name).call("add") == total
            except Exception as error:  # noqa: BLE001 - whatever it is, the test has failed
                failures.append(error)

        threads = [threading.Thread(target=work, args=(f"s{n}",)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        until(
            lambda: failures or len(lines(server, "recycling worker")) >= RECYCLES, f"{RECYCLES} workers are recycled"
        )
        enough.set()
        for thread in threads:
            thread.join()
        assert not failures
        until(lambda: "hook: worker stopped" in server.log, "a recycled worker runs its hooks")
        assert not lines(server, "worker lost")


def test_recycled_for_its_memory_when_its_calls_have_ended() -> None:
    with started(size=1, recycle_memory="200MiB") as server, server.client() as client:
        first = client.call("hold", {"mebibytes": 250})
        until(lambda: client.call("pid") != first, "another worker")
        (line,) = lines(server, "recycling worker")
        assert "over recycle_memory, 200.0 MiB" in line["reason"]
        assert not lines(server, "worker lost")


def test_killed_at_the_limit_on_memory_and_said_why() -> None:
    with started(size=1, memory_limit="300MiB") as server, server.client() as client:

        def hold_and_wait() -> None:  # it is looked at each second, in the first call or in the second
            client.call("hold", {"mebibytes": 400})
            client.call("nap", {"seconds": machine.WAIT})

        with pytest.raises(WorkerLost, match=r"over the memory_limit of 300\.0 MiB"):
            hold_and_wait()
        assert client.call("pid")


def test_out_of_descriptors_or_disk_is_that_calls_error() -> None:
    with started(size=1) as server, server.client() as client:
        for _ in range(3):
            with pytest.raises(ProgramError, match="Too many open files"):
                client.call("open_files", {"most": 40})
            with pytest.raises(ProgramError, match="No space left on device"):
                client.call("fill_disk")
        assert client.call("pid") == workers(server)["worker_1"]


def test_what_a_call_prints_is_logged_with_its_session() -> None:
    with started(size=1) as server, server.client() as client:
        client.create_session("chat 7")
        client.session("chat 7").call("say", {"text": "in a session"})
        client.call("say", {"text": "in none"})
        server.logged("in none")
        server.logged("in a session")
        by_text = {line["line"]: line for line in lines(server, "output")}
        assert by_text["in a session"]["session_id"] == "chat 7"
        assert by_text["in a session"]["worker_id"] == "worker_1"
        assert by_text["in a session"]["worker_request"] > 0
        assert "session_id" not in by_text["in none"]
        assert by_text["in none"]["worker_request"] > by_text["in a session"]["worker_request"]
        assert "worker_request" not in by_text["hook: worker started"]
