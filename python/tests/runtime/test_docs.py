"""The blocks of docs/applications.md make one application, and it does what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime.harness import Forked, Zygote

PAGE = Path(__file__).parents[3] / "docs" / "applications.md"


@pytest.fixture
def application(tmp_path: Path) -> Path:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    (tmp_path / "page.py").write_text("\n".join(blocks))
    return tmp_path


@pytest.fixture
def worker(application: Path) -> Iterator[Forked]:
    zygote = Zygote("page:app", cwd=application)
    assert "ready" in zygote.first, zygote.first
    worker = zygote.fork().ready()
    yield worker
    worker.end()
    zygote.close()


def test_methods(worker: Forked) -> None:
    assert worker.call("shout", text="hi", times=2) == "HI HI"
    assert worker.call("wait", seconds=0.01) == 0.01
    assert worker.call("convert", amount=1, unit="mi") == 1.609344
    problems = worker.error("shout", times="2", loud=True)["details"]["errors"]
    assert {problem["path"] for problem in problems} == {"text", "times", "loud"}
    assert worker.call("count_up", limit=1000) == 1000
    assert worker.call("list_programs")["programs"][0]["program"] == "answer"


def test_streams(worker: Forked) -> None:
    worker.request(9, "words", {"stream": 10}, text="one by one")
    assert worker.items(9, 3) == ["one", "by", "one"]
    assert worker.response(9).error is None


def test_sessions(worker: Forked) -> None:
    session = {"session": "s", "key": 1}
    assert worker.call("remember", {**session, "version": 0, "next": 1}, key="k", value=[1]) == 1
    assert worker.call("recall", {**session, "version": 1}, key="k") == [1]


def test_objects_of_a_session(worker: Forked) -> None:
    session = {"session": "s", "key": 1}
    assert worker.call("say", {**session, "version": 0, "next": 1}, text="to be or not to be")["be"] == 2
    said = worker.changes[-1].changes["set"]
    assert said == {"dspex.object.chat": ["to be or not to be"]}
    worker.call("session.restore", None, **session, version=9, state=said, secrets={}, part=1, parts=1)
    assert worker.call("say", {**session, "version": 9, "next": 10}, text="be")["be"] == 3


def test_a_workers_life(application: Path) -> None:
    zygote = Zygote("page:shop", cwd=application)
    worker = zygote.fork().ready(worker="worker_3")
    meta = {"session": "s", "key": 1, "version": 0, "next": 1, "start": True}
    assert worker.call("label", meta) == "default/worker_3"
    assert worker.changes[-1].changes["set"] == {"greeting": "hello"}
    worker.end()
    zygote.close()
