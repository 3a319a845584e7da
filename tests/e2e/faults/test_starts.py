"""Workers that cannot be started: the reason reaches the caller and `health`, and nothing spins."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from dspex.errors import CheckoutTimeout, NoWorkers
from e2e.support import configuration
from e2e.support.configuration import APPLICATIONS, SIDECAR, merged
from e2e.support.machine import until
from e2e.support.servers import Server

BASE: dict[str, Any] = {"pools": {"default": {"app": "noisy:app", "size": 2, "start_timeout": "20s"}}}
PRINTED = ("about to be imported", "on standard error, too", "and past Python's buffers")


def started(pool: dict[str, Any], how: str = "") -> Server:
    environment = {"PYTHONPATH": str(APPLICATIONS), "DSPEX_TEST_IMPORT": how}
    tables = merged(BASE, {"pools": {"default": {**pool, "env": environment}}})
    return Server("sidecar", tables, wait=False)


def refusal(server: Server) -> NoWorkers:
    """What a call is told, once workers are known not to start."""

    def refused() -> NoWorkers | None:
        try:
            server.client().call("echo", {"value": 1})
        except NoWorkers as error:
            return error
        except CheckoutTimeout:
            return None  # none has failed yet
        raise AssertionError("a worker was started")

    found = until(refused, "the call is refused")
    assert found is not None
    return found


def starts(server: Server) -> int:
    return len(re.findall(r'"msg":"worker lost"', server.log))


@pytest.mark.parametrize("start", ["zygote", "spawn"])
@pytest.mark.parametrize(
    ("pool", "how", "reason", "printed"),
    [
        ({"app": "missing:app"}, "", "No module named 'missing'", ("No module named 'missing'",)),
        ({"app": "noisy:nothing"}, "", "has no attribute 'nothing'", PRINTED),
        ({"app": "noisy:not_an_app"}, "", "not a dspex_worker.App", PRINTED),
        ({}, "raise", "the model file is not there", (*PRINTED, "RuntimeError: the model file is not there")),
        ({}, "exit", "9", (*PRINTED, "SystemExit: 9")),
        ({}, "end", "exit code 9", PRINTED),
        ({"start_timeout": "1s"}, "hang", "start_timeout", PRINTED),
    ],
    ids=["missing", "attribute", "no app", "raises", "sys.exit", "os._exit", "hangs"],
)
def test_an_application_that_cannot_be_loaded(
    start: Literal["zygote", "spawn"], pool: dict[str, Any], how: str, reason: str, printed: tuple[str, ...]
) -> None:
    with started({**pool, "start": start}, how) as server:
        error = refusal(server)
        assert error.retryable
        assert reason in f"{error.message} {error.details}"
        for line in printed:  # the last that it printed
            assert line in error.details["output"]
        health = server.client().call("sidecar.health")
        assert health["status"] == "unhealthy"
        assert reason in "\n".join(health["reasons"])
        assert reason in server.client().call("sidecar.pools")["pools"][0]["last_failure"]


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_a_python_that_is_not_there(start: Literal["zygote", "spawn"]) -> None:
    with started({"python": "/nowhere/python3", "start": start}) as server:
        error = refusal(server)
        assert "/nowhere/python3" in f"{error.message} {error.details}"
        assert "/nowhere/python3" in str(server.client().call("sidecar.health")["reasons"])


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_a_python_without_the_worker(start: Literal["zygote", "spawn"]) -> None:
    with started({"python": "/bin/false", "start": start}) as server:
        error = refusal(server)
        assert "exit code 1" in f"{error.message} {error.details}"


def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    """The sidecar does not start, and says which it is."""
    model = {"model": "openai/m", "api_key": "env:DSPEX_TEST_NOT_SET"}
    config = configuration.write(tmp_path, merged(BASE, {"models": {"main": model}}))
    done = subprocess.run(
        [SIDECAR, "serve", "--config", str(config)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode != 0
    assert "models.main.api_key: env:DSPEX_TEST_NOT_SET" in done.stderr


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_failing_starts_are_not_a_busy_loop(start: Literal["zygote", "spawn"]) -> None:
    with started({"start": start}, "end") as server:
        refusal(server)
        began, before = time.monotonic(), starts(server)
        while time.monotonic() - began < 3:  # what is counted is time
            server.client().call("sidecar.stats")
            time.sleep(0.1)
        assert starts(server) - before <= 6  # after 0.1, 0.2, 0.4, 0.8 and 1.6 s and more, each one at a time
        server.disconnect()


def test_an_application_that_is_mended_is_served(tmp_path: Any) -> None:
    (tmp_path / "mended.py").write_text("raise RuntimeError('not yet')\n")
    tables = merged(BASE, {"pools": {"default": {"app": "mended:app", "env": {"PYTHONPATH": str(tmp_path)}}}})
    with Server("sidecar", tables, wait=False) as server:
        assert "not yet" in str(refusal(server))
        (tmp_path / "mended.py").write_text((APPLICATIONS / "faulty.py").read_text())
        server.healthy()
        assert server.client().call("echo", {"value": 1}) == 1
