"""The examples in Python and Go, before a real sidecar. Those in Node are tested with its client."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspex import Client
from e2e.support.configuration import ROOT, Tables
from e2e.support.machine import WAIT
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Seen, json_answer

EXAMPLES = ROOT / "examples"
# Folders whose tests are not here.
ELSEWHERE = {"dspy": "tests/e2e/newcomer/test_dspy_examples.py", "statsd": "tests/e2e/faults/test_operators.py"}


def answer(seen: Seen) -> str:
    """Values for whichever outputs the prompt asks for; a chat's answer tells how much it was told of before."""
    return json_answer(
        answer=f"{seen.prompt.count('they: ')} before",
        title="On a sidecar",
        names=["Ada"],
        places=["London"],
        explanation=["so"],
        colours=colours(seen.prompt),
    )


def colours(prompt: str) -> list[str]:
    """Those of the last sentence, in small letters where there are demos of that."""
    words = {"red", "blue", "green", "white", "black", "yellow", "brown", "grey", "pink", "orange"}
    found = [word for word in re.findall(r"[a-z]+", prompt.rpartition("## text ##")[2]) if word in words]
    return found if prompt.count("## text ##") > 2 else [word.title() for word in found]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with OpenAIServer(answer=answer) as lm:
        model = {"model": "openai/m", "api_key": "env:LM_KEY", "api_base": lm.base, "adapter": "json", "default": True}
        pool = {"app": "app:app", "env": {"PYTHONPATH": str(EXAMPLES / "demo"), "PYTHONDONTWRITEBYTECODE": "1"}}
        tables: Tables = {"pools": {"default": pool}, "models": {"local": model}}
        with Server("sidecar", tables, environment={"LM_KEY": "k"}) as server:
            yield server


def environment(server: Server) -> dict[str, str]:
    return {**os.environ, "DSPEX_SOCKET": server.path, "PYTHONDONTWRITEBYTECODE": "1"}


def run(server: Server, *command: str | Path, text: str = "") -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(server),
        input=text,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chat(server: Server) -> None:
    chat = (sys.executable, EXAMPLES / "chat" / "chat.py")
    assert run(server, *chat, "ada", text="hello\nand again\n") == "0 before\n1 before\n"
    assert run(server, *chat, "ada", text="a third time\n") == "2 before\n"  # another process, and it remembers
    assert run(server, *chat, "grace", text="hello\n") == "0 before\n"


def test_parallel(server: Server, tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.txt" for n in range(5)]
    for file in files:
        file.write_text("A process beside another.")
    parallel = (sys.executable, EXAMPLES / "parallel" / "parallel.py")
    assert run(server, *parallel, *files) == "".join(f"{file}: On a sidecar\n" for file in files)
    command = [str(part) for part in (*parallel, files[0], tmp_path / "none")]
    failed = subprocess.run(command, env=environment(server), capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert f"{files[0]}: On a sidecar\n" in failed.stdout
    assert "No such file" in failed.stdout
    with Client(server.path) as client:
        assert not [one for one in client.call("session.list")["sessions"] if "file" in one["labels"]]


def test_jobs(server: Server, tmp_path: Path) -> None:
    path = str(tmp_path / "queue.db")
    consumer = (sys.executable, EXAMPLES / "jobs" / "consumer.py", path)
    assert run(server, *consumer) == ""
    with sqlite3.connect(path) as queue:
        queue.executemany("INSERT INTO jobs (text) VALUES (?)", [("word " * n,) for n in range(1, 21)])
        queue.execute("UPDATE jobs SET taken = 1 WHERE id = 3")  # by a consumer that died, long ago
    queue.close()
    several = [subprocess.Popen(consumer, env=environment(server), stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(line for one in several for line in one.communicate(timeout=WAIT)[0].splitlines())
    assert said == sorted(f"job {n}: {n} words" for n in range(1, 21))
    queue = sqlite3.connect(path)
    assert queue.execute("SELECT result FROM jobs ORDER BY id").fetchall() == [(f"{n} words",) for n in range(1, 21)]
    queue.close()


def test_optimise(server: Server) -> None:
    said = run(server, sys.executable, EXAMPLES / "optimise" / "optimise.py").splitlines()
    assert said == ["before 0.00, after 1.00", "6 demos; Given the fields `text`, produce the fields `colours`."]


def test_gowire(server: Server, tmp_path: Path) -> None:
    binary = tmp_path / "gowire"
    run(server, "go", "build", "-o", binary, "./examples/gowire")
    assert json.loads(run(server, binary, "-text", "three short words")) == {"words": 3, "different": 3}
    failed = subprocess.run([binary, "-socket", "/no/such"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "no such file" in failed.stderr


@pytest.fixture
def web(server: Server) -> Iterator[str]:
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "examples/fastapi", "--port", "0", "web:app"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(server), stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stderr is not None
            said = ""
            while not (found := re.search(r"running on (http://\S+)", said)):
                line = process.stderr.readline()
                assert line, f"uvicorn has ended: {said}"
                said += line
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=WAIT)


def ask(url: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_fastapi(web: str) -> None:
    assert ask(f"{web}/health")[1]["status"] == "healthy"
    expected = {"names": ["Ada"], "places": ["London"], "explanation": ["so"]}
    assert ask(f"{web}/digest", {"text": "Ada was born in London."}) == (200, expected)
    assert ask(f"{web}/digest", {"text": 1})[0] == 422


def test_each_folder_has_its_test_and_its_line() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    node = (ROOT / "clients" / "node" / "tests" / "examples.test.ts").read_text()
    for folder in EXAMPLES.iterdir():
        if folder.is_dir() and folder.name != "demo":
            assert f"[{folder.name}]({folder.name})" in readme
            elsewhere = folder.name in ELSEWHERE and folder.name in (ROOT / ELSEWHERE[folder.name]).read_text()
            assert folder.name in here or elsewhere or f'test("examples/{folder.name}"' in node
