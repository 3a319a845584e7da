"""The process that workers are forked from: it may die, hang, or be of no use, and no call fails for it."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from dspex.errors import NoWorkers
from e2e.support import machine
from e2e.support.configuration import merged
from e2e.support.machine import until
from e2e.support.servers import Server

BASE: dict[str, Any] = {"pools": {"default": {"app": "lives:app", "size": 2}}}


def started(**pool: Any) -> Server:
    return Server("sidecar", merged(BASE, {"pools": {"default": pool}}))


def zygote(server: Server) -> machine.Process:
    return until(lambda: [p for p in server.family() if "--mode zygote" in p.command], "a zygote")[0]


def workers(server: Server) -> dict[str, int]:
    with server.client() as client:
        return {w["worker"]: w["pid"] for w in client.call("sidecar.workers")["workers"] if w["state"] == "ready"}


def replaced(server: Server, killed: int) -> None:
    until(lambda: len(found := workers(server).values()) == 2 and killed not in found, f"{killed} is replaced")


def test_workers_are_forked_and_named() -> None:
    with started() as server:
        commands = {p.pid: p.command for p in server.family()}
        assert {commands[pid] for pid in workers(server).values()} == {"dspex worker_1", "dspex worker_2"}
        assert zygote(server).lives


def test_killed_it_is_replaced_and_no_call_notices() -> None:
    with started() as server, server.client() as client:
        before, old = workers(server), zygote(server)
        client.create_session("s")
        assert client.session("s").call("add") == 1
        os.kill(old.pid, signal.SIGKILL)
        assert client.session("s").call("add") == 2
        until(lambda: not old.lives and zygote(server) != old, "another zygote")
        assert workers(server) == before
        os.kill(before["worker_1"], signal.SIGKILL)
        replaced(server, before["worker_1"])
        assert client.session("s").call("add") == 3
        server.logged("zygote ended; making another one")


def test_killed_together_with_every_worker() -> None:
    """The next worker has to wait until the application has been loaded again."""
    with started(checkout_timeout="20s") as server, server.client() as client:
        client.create_session("s", state={"total": 5})
        pids = set(workers(server).values())
        for pid in [zygote(server).pid, *pids]:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not pids & set(workers(server).values()), "the sidecar knows that they are gone")
        assert client.session("s").call("add", {"amount": 2}) == 7
        until(lambda: len(workers(server)) == 2, "two workers")


def test_stopped_it_is_found_out_and_replaced() -> None:
    with started(checkout_timeout="20s") as server, server.client() as client:
        old = zygote(server)
        os.kill(old.pid, signal.SIGSTOP)
        pids = set(workers(server).values())
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not pids & set(workers(server).values()), "the sidecar knows that they are gone")
        assert client.call("pid") not in pids
        assert not old.lives


def test_the_keepers_death_costs_no_session() -> None:
    with started(checkout_timeout="20s") as server, server.client() as client:
        client.create_session("s")
        assert client.session("s").call("add") == 1
        before = set(workers(server).values())
        keeper = next(p for p in server.family() if p.command.endswith("keeper"))
        os.kill(keeper.pid, signal.SIGKILL)
        until(lambda: not keeper.lives, "the keeper is gone")
        until(lambda: len(workers(server)) == 2 and not before & set(workers(server).values()), "new workers")
        assert client.session("s").call("add") == 2


def test_an_application_that_cannot_be_forked_is_served_all_the_same() -> None:
    with started(env={"LIVES_THREAD": "1", "PYTHONPATH": _path()}) as server, server.client() as client:
        assert client.call("pid") in workers(server).values()
        assert not any("zygote" in p.command for p in server.family())
        server.logged("it has a thread: of-the-application")
        killed = workers(server)["worker_1"]
        os.kill(killed, signal.SIGKILL)
        replaced(server, killed)


def test_spawn_is_there_for_who_wants_it() -> None:
    with started(start="spawn") as server, server.client() as client:
        assert client.call("pid") in workers(server).values()
        assert not any("zygote" in p.command for p in server.family())


def test_an_application_that_cannot_be_loaded_says_why() -> None:
    tables = merged(BASE, {"pools": {"default": {"env": {"LIVES_BROKEN": "no such luck", "PYTHONPATH": _path()}}}})
    with Server("sidecar", tables, wait=False) as server, server.client() as client:
        with pytest.raises(NoWorkers, match="no such luck") as caught:
            client.call("pid")
        assert "about to fail" in caught.value.details["output"]
        health = client.call("sidecar.health")
        assert health["status"] == "unhealthy"
        assert any("no such luck" in reason for reason in health["reasons"])


def test_what_a_worker_prints_is_never_lost_or_refused() -> None:
    with started(size=1) as server, server.client() as client:
        client.call("shout", {"lines": 2000, "width": 2000}, timeout=machine.WAIT)
        server.logged('"line":"shouted"')
        server.logged('"stream":"stdout","line":"' + "x" * 2000 + '"', 2000)
        server.logged('"stream":"stderr","line":"' + "x" * 2000 + '"', 2000)


def _path() -> str:
    from e2e.support.configuration import APPLICATIONS

    return str(APPLICATIONS)
