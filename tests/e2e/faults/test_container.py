"""In a container the sidecar is process 1, has a uid that nobody knows, no HOME, and a root that it cannot write."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspex import Client
from e2e.support import configuration
from e2e.support.configuration import APPLICATIONS, ROOT, SIDECAR
from e2e.support.container import Container, hidden
from e2e.support.machine import WAIT, until
from support.openai_server import OpenAIServer, json_answer

pytestmark = pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode != 0,
    reason="no namespaces can be made here",
)

UID = 54_321
APP_UID = 10_002
STRANGER = 10_003
GROUP = 20_000  # of a pod's volumes: fsGroup
SOCKET = "/run/dspex/s/dspex.sock"


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """The sidecar in it, with the DSPy application, its sessions kept in a file, and an LM."""
    at = Path(tempfile.mkdtemp(prefix="dspex-"))
    python = Path(sys.base_prefix)
    try:
        with OpenAIServer(answer=lambda _: json_answer(answer="yes")) as lm:
            model = {"model": "openai/m", "api_key": "env:LM_KEY", "api_base": lm.base, "adapter": "json"}
            tables: dict[str, Any] = {
                "listen": {"socket": SOCKET, "allow_uids": [APP_UID]},
                "sessions": {"store": "file", "path": "/run/dspex/sessions"},
                "pools": {"default": {"app": "contained:app", "shutdown_timeout": "10s"}},
                "models": {"main": model},
            }
            (at / "config").mkdir()
            configuration.write(at / "config", tables)
            at.chmod(0o755)
            (at / "config").chmod(0o755)
            # Everybody may write the volume, as they may a pod's emptyDir: the sidecar makes a folder of its own in it.
            folders = {"/tmp": "mode=1777", "/run": "mode=0755", "/run/dspex": f"mode=2777,gid={GROUP}"}
            folders |= {str(folder): "mode=0755" for folder in hidden(ROOT / "build", python)}
            volumes = {str(ROOT): f"{ROOT}:ro", str(python): f"{python}:ro", "/run/config": f"{at / 'config'}:ro"}
            with Container(
                [str(SIDECAR), "serve", "--config", "/run/config/dspex.toml"],
                at=at,
                uid=UID,
                groups=str(GROUP),
                environment={"PATH": "/usr/bin:/bin", "LM_KEY": "k", "DSPEX_SOCKET": SOCKET},
                workdir=str(APPLICATIONS),
                folders=folders,
                volumes=volumes,
            ) as one:
                until(lambda: one.init and one.log.count("worker ready") == 2, "the workers are ready")
                assert one.run(str(SIDECAR), "healthcheck", "--startup").returncode == 0
                yield one
                print(one.log[-8000:])  # shown where the test failed
    finally:
        shutil.rmtree(at)


def client(container: Container) -> Client:
    return Client(str(container.path(SOCKET)), timeout=WAIT)


def status(container: Container) -> dict[str, str]:
    lines = Path(f"/proc/{container.init}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def written(container: Container, folder: str) -> set[str]:
    """The files that are in a folder, without those of what is mounted in it."""
    top = container.path(folder)
    found = subprocess.run(
        ["find", ".", "-xdev", "!", "-type", "d", "-printf", "%P\n"],
        cwd=top,
        capture_output=True,
        check=True,
        text=True,
    )
    return set(found.stdout.split())


def test_what_a_container_gives(container: Container) -> None:
    """It works, writes where it was told to and nowhere else, and its workers' deaths are told right."""
    said = status(container)
    assert (said["NSpid"].split()[-1], said["CapEff"], said["CapBnd"]) == ("1", "0" * 16, "0" * 16)
    assert said["Uid"].split() == [str(UID)] * 4
    assert container.run("touch", "/etc/x").returncode != 0, "the root can be written"
    assert container.run(str(SIDECAR), "healthcheck", "--ready").returncode == 0
    with client(container) as c:
        assert c.call("user") == [UID, 0, None]
        session = c.create_session("kept")
        session.call("increment")
        program = session.create_program("ask", "question -> answer")
        assert program(question="so?") == {"answer": "yes"}
        worker = session.info()["worker"]
        (pid,) = [w["pid"] for w in c.call("sidecar.workers")["workers"] if w["worker"] == worker]
        assert container.run("kill", "-9", str(pid)).returncode == 0
        until(lambda: "killed by SIGKILL" in container.log, "the worker's status is told")
        assert session.call("increment") == 2
        assert program(question="so?") == {"answer": "yes"}
    assert written(container, "/tmp") == set()
    assert {path.partition("/")[0] for path in written(container, "/run/dspex")} == {"s", "sessions"}
    folder = container.path("/run/dspex/s").stat()
    assert (folder.st_uid, folder.st_gid, folder.st_mode & 0o777) == (UID, GROUP, 0o750)


def test_the_application_beside_it(container: Container) -> None:
    """Another uid, in the volume's group, where it can write nothing: let in if it is named, and nobody else."""
    call = (str(SIDECAR), "call", "user")
    done = container.run_beside(APP_UID, GROUP, "/run/dspex", *call)
    assert done.returncode == 0, done.stderr
    assert str(UID) in done.stdout
    assert "permission_denied" in container.run_beside(STRANGER, GROUP, "/run/dspex", *call).stderr
    assert "permission denied" in container.run_beside(APP_UID, APP_UID, "/run/dspex", *call).stderr
    assert container.run_beside(APP_UID, GROUP, "/run/dspex", "touch", "/run/dspex/x").returncode != 0


def test_process_1_ends(container: Container) -> None:
    """SIGTERM lets calls end, and then it ends with 0. The last test: it ends the container."""
    answers: list[Any] = []
    with client(container) as c:
        caller = threading.Thread(target=lambda: answers.append(c.call("sleep", {"seconds": 1.0})))
        caller.start()
        with client(container) as other:
            until(lambda: other.call("sidecar.stats")["in_flight"] == 1, "the call runs")
        os.kill(container.init, signal.SIGTERM)
        caller.join()
    assert len(answers) == 1
    assert container.process.wait(WAIT) == 0, container.log[-3000:]
