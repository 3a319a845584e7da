"""Calls that have a process of their own: what they see and change, how they end, and that nobody else feels it."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dspex import Client
from dspex.errors import BudgetExceeded, Cancelled, CheckoutTimeout, DspexError, InvalidParams, ProgramError, WorkerLost
from e2e.support.configuration import ROOT, merged
from e2e.support.machine import process, until
from e2e.support.other_user import NOBODY, OtherUser, needs_root
from e2e.support.servers import Server

APP = {"pools": {"default": {"app": "running:app"}}}
CONFIG: dict[str, Any] = {**APP, "runs": {"queue": "2s"}}


def runs(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.call("runs.list")["runs"]
    return found


def last(client: Client, state: str) -> dict[str, Any]:
    """Wait until the last run is in this state."""

    def find() -> dict[str, Any] | None:
        found = runs(client)
        return found[-1] if found and found[-1]["state"] == state else None

    return until(find, f"the last run is {state}")


def steps(client: Client, folder: Path, n: int, **options: Any) -> Any:
    return client.stream("steps", {"folder": str(folder), "n": n}, timeout=60, **options)


def begun(marker: Path) -> list[int]:
    """The processes that a run has written down when it began."""

    def written() -> list[str]:
        return marker.read_text().split() if marker.exists() else []

    return [int(pid) for pid in until(written, "it has begun")]


def test_each_call_has_a_process(server: Server) -> None:
    client = server.client()
    pool = {w["pid"] for w in client.call("sidecar.workers")["workers"]}
    first, second = client.call("alone"), client.call("alone")
    assert len({first["pid"], second["pid"]} | pool) == len(pool) + 2
    assert first["nice"] == 10
    server.logged("a run prints", 2)
    assert [line for line in server.log.splitlines() if "a run prints" in line and '"worker_id":"runner_' in line]
    with pytest.raises(ProgramError, match="as it was told"):
        client.call("alone", {"fail": True})
    states = [one["state"] for one in runs(client)]
    assert states[-3:] == ["succeeded", "succeeded", "failed"]
    until(lambda: len(client.call("sidecar.workers")["workers"]) == len(pool), "they have ended")
    with pytest.raises(InvalidParams, match="idempotency key"):
        client.call("alone", idempotency_key="k")
    with pytest.raises(InvalidParams, match="detach"):
        client.call("echo", {"value": 1}, detach=True)


def test_killed_is_an_error_of_that_call_alone(server: Server, tmp_path: Path, bystander: object) -> None:
    client = server.client()
    session = client.create_session(state={"seen": 1})
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(session.call, "wait", {"marker": str(tmp_path / "m")})
        (pid,) = begun(tmp_path / "m")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="SIGKILL") as caught:
            call.result(20)
    assert caught.value.details["maybe_executed"] is True
    assert last(client, "lost")["error"]["code"] == "worker_lost"
    assert session.state() == {"seen": 1}


@pytest.mark.parametrize("method", ["wait", "stubborn"])
def test_a_cancel_leaves_no_process_within_a_second(server: Server, tmp_path: Path, method: str) -> None:
    client, marker = server.client(), tmp_path / "m"
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.call, method, {"marker": str(marker)})
        processes = [process(pid) for pid in begun(marker)]
        run = last(client, "running")["run"]
        began = time.monotonic()
        client.call("runs.cancel", {"run": run})
        with pytest.raises(Cancelled):
            call.result(20)
        until(lambda: not any(one.lives for one in processes), "its processes are gone")
        busy = os.getloadavg()[0] > (os.cpu_count() or 1)  # with more to do than processors it takes its share longer
        assert time.monotonic() - began < (5.0 if busy else 1.0)
    last(client, "cancelled")


def test_a_client_that_leaves_takes_its_run_with_it(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "m"
    leaving = server.client()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(leaving.call, "wait", {"marker": str(marker)})
        (pid,) = begun(marker)
        one = process(pid)
        leaving.close()
        with pytest.raises(DspexError):
            call.result(20)
    until(lambda: not one.lives, "its process is gone", 1.0)


def test_a_run_that_is_detached_goes_on_and_is_attached_to(server: Server, tmp_path: Path) -> None:
    leaving = server.client()
    stream = steps(leaving, tmp_path, 3, detach=True)
    assert next(stream)["step"] == 0
    leaving.close()
    client = server.client()
    run = last(client, "running")
    assert (run["detached"], run["progress"]["step"]) == (True, 0)
    assert client.call("runs.show", {"run": run["run"]})["progress"] == run["progress"]
    attached = client.stream("runs.attach", {"run": run["run"]})
    assert next(attached)["step"] == 0
    for i in range(3):
        (tmp_path / str(i)).touch()
    later = [item["step"] for item in attached]
    assert later[-1] == 2
    assert attached.result == {"steps": 3}
    again = client.stream("runs.attach", {"run": run["run"]})
    assert [item["step"] for item in again] == [2]
    assert again.result == {"steps": 3}


def test_a_session_is_seen_as_it_was_and_changed_at_the_end(server: Server, tmp_path: Path) -> None:
    client = server.client()
    session = client.create_session(state={"seen": 1})
    assert session.call("put", {"key": "a", "value": 1}) == {"began": True, "seen": 1, "a": 1}
    with steps(client, tmp_path, 1, session=session.id) as run:
        next(run)
        session.call("put", {"key": "seen", "value": 2}, timeout=5)  # its turn is free
        (tmp_path / "0").touch()
        assert list(run) == []
        assert run.result == {"steps": 1}
    assert session.state() == {"began": True, "seen": 2, "a": 1, "step 0": 1}
    assert session.call("put", {"key": "b", "value": 1})["step 0"] == 1  # the pool's worker knows it
    with client.stream("look", session=session.id) as look:
        assert [sorted(state) for state in look] == [["a", "b", "began", "seen", "step 0"]]


def test_what_others_changed_meanwhile_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    client = server.client()
    session = client.create_session(state={"seen": 1})
    with steps(client, tmp_path, 1, session=session.id) as run:
        next(run)
        session.call("put", {"key": "step 0", "value": "theirs"})
        (tmp_path / "0").touch()
        with pytest.raises(DspexError, match="other calls changed") as caught:
            list(run)
    assert (caught.value.code, caught.value.retryable, caught.value.details["keys"]) == (
        "session_busy",
        False,
        ["step 0"],
    )
    assert session.state()["step 0"] == "theirs"


def test_a_session_that_ends_ends_its_runs(server: Server, tmp_path: Path) -> None:
    client, marker = server.client(), tmp_path / "m"
    session = client.create_session()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(session.call, "wait", {"marker": str(marker)})
        (pid,) = begun(marker)
        one = process(pid)
        client.session(session.id).end()
        with pytest.raises(DspexError) as caught:
            call.result(20)
    assert caught.value.code == "session_not_found"
    until(lambda: not one.lives, "its process is gone", 1.0)


def test_no_more_than_max_at_a_time(server: Server, tmp_path: Path) -> None:
    client = server.client()
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(client.call, "wait", {"marker": str(tmp_path / str(i))}) for i in range(2)]
        for i in range(2):
            begun(tmp_path / str(i))
        with pytest.raises(CheckoutTimeout, match=r"runs\.max"):
            client.call("wait")
        waiting = pool.submit(client.call, "alone")
        queued = last(client, "queued")
        assert queued["worker"] is None
        first, second = (one["run"] for one in runs(client) if one["state"] == "running")
        client.call("runs.cancel", {"run": first})
        assert waiting.result(20)["pid"]
        client.call("runs.cancel", {"run": second})
        for call in calls:
            with pytest.raises(Cancelled):
                call.result(20)


@needs_root
def test_runs_of_others_are_neither_seen_nor_stopped(tmp_path: Path) -> None:
    tables = merged(APP, {"listen": {"mode": "0666", "allow_uids": [0, NOBODY]}})
    with Server("sidecar", tables) as server:
        server.folder.chmod(0o711)
        client = server.client()
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.call, "wait", {"marker": str(tmp_path / "m")})
            begun(tmp_path / "m")
            run = last(client, "running")["run"]
            ask = f"""
                client = Client(path, name="other").connect()
                say(client.call("runs.list"))
                for method in ("runs.show", "runs.cancel", "runs.attach"):
                    ask = client.call if method != "runs.attach" else (lambda m, p: list(client.stream(m, p)))
                    say([code(ask, method, {{"run": {run!r}}}), code(ask, method, {{"run": "run_99"}})])
                stream = client.stream("steps", {{"folder": "/nowhere", "n": 1}}, detach=True)
                say(next(stream)["step"])
                say([one["owner"] for one in client.call("runs.list")["runs"]])
                sys.stdin.readline()
                say(code(list, stream))
            """
            with OtherUser(server.path, ask) as other:
                assert other.says() == {"runs": []}
                for _ in range(3):
                    assert other.says() == ["invalid_params", "invalid_params"]
                assert other.says() == 0
                assert other.says() == [f"uid:{NOBODY}"]
                theirs = next(one for one in runs(client) if one["owner"] == f"uid:{NOBODY}")
                client.call("runs.cancel", {"run": theirs["run"]})  # an administrator may
                other.hear()
                assert other.says() == "cancelled"
            client.call("runs.cancel", {"run": run})
            with pytest.raises(Cancelled):
                call.result(20)


def test_limits_hold_while_a_run_goes_on() -> None:
    tables = merged(APP, {"runs": {"memory_limit": "512MiB"}, "budgets": {"session": {"tokens": 1000}}})
    with Server("sidecar", tables) as server:
        client = server.client()
        session = client.create_session()
        with pytest.raises(BudgetExceeded) as caught:
            session.call("spend", {"tokens": 100})
        assert caught.value.details["resource"] == "tokens"
        spent = runs(client)[-1]["usage"]["total_tokens"]
        assert spent >= 1000
        with pytest.raises(BudgetExceeded):
            session.call("alone")
        with pytest.raises(WorkerLost, match="memory_limit"):
            client.call("grow")


def test_a_lazy_pool_and_its_first_call_is_a_run(tmp_path: Path) -> None:
    tables = merged(APP, {"pools": {"default": {"lazy": True}}})
    for detach in (False, True):
        with Server("sidecar", tables) as server:
            client = server.client()
            stream = steps(client, tmp_path, 1, detach=detach)
            assert next(stream)["step"] == 0
            (tmp_path / "0").touch()
            assert list(stream) == []
            assert stream.result == {"steps": 1}


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_a_reload_lets_runs_finish(tmp_path: Path, start: str) -> None:
    with Server("sidecar", merged(APP, {"pools": {"default": {"start": start}}})) as server:
        client = server.client()
        stream = steps(client, tmp_path, 2, detach=True)
        one = process(next(stream)["pid"])
        (tmp_path / "0").touch()
        before = {w["worker"] for w in client.call("sidecar.workers")["workers"] if w["pool"] == "default"}
        client.call("admin.reload", {"renew": True, "wait": True}, timeout=30)
        until(
            lambda: not before & {w["worker"] for w in client.call("sidecar.workers")["workers"]},
            "the workers are others",
        )
        assert one.lives
        assert client.call("alone")["pid"] != one.pid
        (tmp_path / "1").touch()
        assert [item["step"] for item in stream] == [1]
        assert stream.result == {"steps": 2}
        server.logged("generation ended")
        server.healthy()


def test_a_drain_waits_for_runs_and_ends_what_does_not_end(tmp_path: Path) -> None:
    with Server("sidecar", merged(APP, {"pools": {"default": {"shutdown_timeout": "1s"}}})) as server:
        client = server.client()
        session = client.create_session()
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.call, "wait", {"marker": str(tmp_path / "m")})
            begun(tmp_path / "m")
            stream = steps(client, tmp_path, 1, session=session.id)
            next(stream)
            server.family()
            server.process.terminate()
            server.logged("draining")
            (tmp_path / "0").touch()
            assert list(stream) == []
            assert stream.result == {"steps": 1}
            with pytest.raises(Cancelled):
                call.result(20)


def test_what_the_page_shows(tmp_path: Path) -> None:
    application, following = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "runs.md").read_text(), re.DOTALL)
    (tmp_path / "shown.py").write_text(application)
    tables = {"pools": {"default": {"app": "shown:app", "env": {"PYTHONPATH": str(tmp_path)}}}}
    with Server("sidecar", tables) as server:
        client = server.client()
        exec(following, {"client": client})
        assert last(client, "succeeded")["progress"] == {"type": "progress", "step": 1000, "steps": 1000}


@pytest.mark.parametrize("method", ["wait", "stubborn"])
def test_the_sidecar_killed_leaves_no_run(tmp_path: Path, method: str) -> None:
    server = Server("sidecar", APP)
    try:
        client = server.client()
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.call, method, {"marker": str(tmp_path / "m")})
            begun(tmp_path / "m")
            server.family()
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(DspexError):
                call.result(20)
            until(lambda: not server.left(), f"no process is left: {server.left()}", 1.0)
    finally:
        server.kill()
