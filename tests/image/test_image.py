"""The image that `make image-test` built, as it would be run: any uid, nothing to write to but what is mounted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspex import Client
from e2e.support.configuration import ROOT
from e2e.support.container import Container
from e2e.support.machine import WAIT, until
from support.openai_server import OpenAIServer, json_answer

BUILT = Path(os.environ["DSPEX_IMAGES"])
SOCKET = "/run/dspex/dspex.sock"
UID = random.randrange(100_000, 200_000)
KEY = "sk-of-a-mounted-secret"
CONFIG = """
[pools.default]
size = 2
[models.main]
model = "openai/m"
api_key = "file:/etc/dspex-secrets/key"
api_base = "{base}"
adapter = "json"
"""


@pytest.fixture(scope="module")
def image() -> dict[str, Any]:
    """The image's configuration, as engines read it."""
    config: dict[str, Any] = json.loads((BUILT / "image.json").read_text())["Docker"]["config"]
    return config


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=lambda _: json_answer(answer="yes")) as server:
        yield server


@pytest.fixture(scope="module")
def container(image: dict[str, Any], lm: OpenAIServer) -> Iterator[Container]:
    """The image, with a configuration and a secret mounted."""
    at = Path(tempfile.mkdtemp(prefix="dspex-"))
    files = {"config/dspex.toml": CONFIG.format(base=lm.base), "secrets/key": KEY}
    try:
        for name, text in files.items():
            (at / name).parent.mkdir()
            (at / name).write_text(text)
        with Container(
            [*image["Entrypoint"], *image["Cmd"], "--config", "/etc/dspex/dspex.toml"],
            at=at,
            root=(BUILT / "image").resolve(),
            uid=UID,
            environment=dict(one.split("=", 1) for one in image["Env"]),
            workdir=image["WorkingDir"],
            folders={"/run/dspex": "mode=0770,gid=0", "/tmp": "mode=1777"},
            volumes={"/etc/dspex": f"{at / 'config'}:ro", "/etc/dspex-secrets": f"{at / 'secrets'}:ro"},
        ) as one:
            until(lambda: one.init and one.log.count("worker ready") == 2, "the workers are ready", 120)
            yield one
            print(one.log[-8000:])
    finally:
        shutil.rmtree(at)


def client(container: Container) -> Client:
    return Client(str(container.path(SOCKET)), timeout=WAIT)


def test_a_dspy_call(container: Container, image: dict[str, Any], lm: OpenAIServer) -> None:
    kind, *probe = image["Healthcheck"]["Test"]
    assert kind == "CMD"
    probed = container.run(*probe)
    assert probed.returncode == 0, probed.stderr
    with client(container) as c:
        session = c.create_session()
        program = session.create_program("ask", "question -> answer")
        assert program(question="so?") == {"answer": "yes"}
    assert lm.requests[-1].key == KEY
    said = Path(f"/proc/{container.init}/status").read_text()
    assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in said
    assert "CapEff:\t0000000000000000\n" in said
    assert container.run("sh", "-c", "echo > /app/x").returncode != 0
    assert KEY not in container.log


def test_workers_write_no_bytecode_and_need_none(container: Container) -> None:
    """What a worker imports was compiled when the image was made: nothing is compiled at each start."""
    code = (
        "import importlib.util, pathlib, sys, dspy, dspex_worker.zygote, dspex_worker.dspy_app;"
        "of = {m: getattr(m, '__cached__', None) for m in list(sys.modules.values())};"
        "print(*sorted(m.__name__ for m, c in of.items()"
        " if c and (m.__file__ or '').startswith('/opt/dspex/') and not pathlib.Path(c).exists()))"
    )
    done = container.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_the_binary_alone() -> None:
    binary = (BUILT / "sidecar").resolve()
    files = [path for path in binary.rglob("*") if path.is_file()]
    assert [str(path.relative_to(binary)) for path in files] == ["usr/local/bin/dspex-sidecar"]
    said = subprocess.run([files[0], "version"], capture_output=True, text=True, check=True).stdout
    assert (ROOT / "VERSION").read_text().strip() in said
    assert subprocess.run(["ldd", files[0]], capture_output=True, check=False).returncode != 0, "it is not static"


def test_nothing_that_has_no_use(image: dict[str, Any]) -> None:
    root = (BUILT / "image").resolve()
    assert image["User"] == "10001:0"
    for gone in ("src", "usr/local/go", "opt/dspex/bin/pip"):
        assert not (root / gone).exists(), gone
    ours = subprocess.run(
        ["du", "-sm", "opt/dspex", "usr/local/bin/dspex-sidecar"], cwd=root, capture_output=True, text=True, check=True
    )
    sizes = {path: int(size) for size, path in (line.split("\t") for line in ours.stdout.splitlines())}
    assert sizes["opt/dspex"] < 360, sizes  # 22 of it are the search of an optimiser, and what that needs
    assert sizes["usr/local/bin/dspex-sidecar"] < 20, sizes


def test_the_end(container: Container) -> None:
    """The last: it ends the container."""
    os.kill(container.init, signal.SIGTERM)
    assert container.process.wait(WAIT) == 0, container.log[-3000:]
