"""`make demo`, `make run` with the commands of the README, and the README's application, as a newcomer meets them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.support import machine
from e2e.support.configuration import ROOT, SIDECAR
from e2e.support.machine import until
from e2e.support.orphans import files, nothing_left_running
from e2e.support.servers import Kind, Server

README = (ROOT / "README.md").read_text()


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Nothing is left running, and no file outside build/ is made, changed or removed."""
    before = files(ROOT)
    with nothing_left_running():
        yield
    after = files(ROOT)
    assert {path for path in before | after if before.get(path) != after.get(path)} == set()


def environment() -> dict[str, str]:
    """What a newcomer's shell has: nothing of this test's own."""
    dropped = ("MAKE", "MFLAGS", "DSPEX_", "PYTHON", "TEXT", "MODEL", "XDG_RUNTIME_DIR")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


@pytest.mark.timeout(240)
def test_make_demo() -> None:
    done = subprocess.run(
        ["make", "demo"],
        cwd=ROOT,
        env=environment() | {"COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(done.stdout.split())  # wrapped as it may be
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" execute ") == 4
    assert said.count("→ text In 1912 Marie Curie") == 3
    assert re.search(r"← topic '(billing|delivery|technical|praise)' \(str\)", said)
    assert re.search(r"← urgent (True|False) \(bool\)", said)
    for name, kind in (("names", "list"), ("places", "list"), ("explanation", "list")):
        assert re.search(rf"← {name} \[.*?\] \({kind}\)", said), name
    assert re.search(r"← year (\d+ \(int\)|None \(NoneType\))", said)
    assert "wrong inputs invalid_params" in said
    workers = set(re.findall(r"session \w+ on (worker_\d+):", said))
    assert workers == {"worker_1", "worker_2", "worker_3", "worker_4"}
    assert re.search(r"on worker_\d+, \d+ ms \(waited .*? 1 LM call, \d+ \+ \d+ tokens", said)
    killed = re.search(r"killed (worker_\d+) \(pid \d+\), with the sessions (\w+)", said)
    assert killed
    moved = re.search(rf"session {killed[2]} now on (worker_\d+), programs \['facts'\], 2 notes", said)
    assert moved
    assert moved[1] != killed[1]
    assert re.search(r"count_words words \d+, different \d+", said)
    assert re.search(r"first piece after [\d.]+ s, \d+ pieces in", said)
    assert "processes left none" in said
    assert "files left none (outside build/)" in said


@pytest.mark.timeout(120)
def test_make_run_and_the_commands_of_the_readme() -> None:
    commands = re.search(r"In another terminal:\n\n((?:    .*\n)+)", README)
    assert commands
    script = "\n".join(line.strip() for line in commands[1].splitlines())
    assert script.count("build/dspex-sidecar ") >= 6
    process = subprocess.Popen(
        ["make", "run"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    health = [str(SIDECAR), "health", "--socket", str(ROOT / "build" / "demo.sock")]
    try:
        until(lambda: subprocess.run(health, capture_output=True, check=False).returncode == 0, "healthy", 60)
        shell = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(shell, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "healthy" in done.stdout
        assert '"words": 3' in done.stdout
        assert [line for line in done.stdout.splitlines() if line in ("One.", "Two.", "Three.")] == [
            "One.",
            "Two.",
            "Three.",
        ]
        assert "worker_1" in done.stdout
        assert "active_sessions" in done.stdout.replace(" ", "_")
    finally:
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        process.wait(machine.WAIT)


@pytest.mark.parametrize("kind", ["sidecar", "standalone"])
def test_the_application_of_the_readme(tmp_path: Path, kind: Kind) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "app.py").write_text(source)
    path = {"PYTHONPATH": str(tmp_path)}
    with Server(kind, {"pools": {"default": {"app": "app:app", "env": path}}}, environment=path) as server:
        client = server.client()
        assert client.call("echo", {"value": "hello"}) == "hello"
        with client.create_session() as session:
            assert session.call("remember", {"key": "a", "value": 1}) == 1
            assert session.call("remember", {"key": "b", "value": [2]}) == 2
            assert session.state() == {"a": 1, "b": [2]}
        assert list(client.stream("count", {"n": 3})) == [0, 1, 2]


def test_the_dspy_bridge(tmp_path: Path) -> None:
    """`python3 dspy_bridge.py` serves the DSPy application by itself."""
    path = str(tmp_path / "s")
    command = [sys.executable, str(ROOT / "python" / "dspy_bridge.py"), "--socket", path]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or os.path.exists(path), "it listens")
        call = [str(SIDECAR), "call", "list_programs", "--socket", path]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
        assert "programs" in done.stdout
    finally:
        process.terminate()
        assert process.wait(machine.WAIT) == 0
