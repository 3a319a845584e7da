"""The threads of sync methods, where the system gives no more of them."""

from __future__ import annotations

import textwrap
import threading
from pathlib import Path

import pytest
from dspex_worker.threads import Threads
from runtime.harness import Worker

WAIT = 30.0  # seconds


def test_a_thread_that_cannot_be_made_costs_one_job_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.submit(lambda: pytest.fail("a job that was refused runs"))
    release, started, late, done = (threading.Event() for _ in range(4))

    def first() -> None:
        started.set()
        release.wait(WAIT)

    threads.submit(first)
    assert started.wait(WAIT)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        threads.submit(late.set)  # the thread that there is does it when it has time
    assert not late.is_set()
    release.set()
    assert late.wait(WAIT)
    threads.submit(done.set)
    assert done.wait(WAIT)
    threads.close()


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_call_without_a_thread_is_answered(tmp_path: Path) -> None:
    (tmp_path / "threadless.py").write_text(
        textwrap.dedent(
            """
            import threading
            from dspex_worker import App
            app = App(use_dspy=False)
            start = threading.Thread.start

            def refuse(thread):
                raise RuntimeError("can't start new thread")

            @app.method
            async def limit(on: bool):
                threading.Thread.start = refuse if on else start

            @app.method
            def work():
                return 1
            """
        )
    )
    worker = Worker("threadless:app", cwd=tmp_path)
    worker.hello()
    worker.call("limit", on=True)
    worker.request(7, "work")
    error = worker.response(7).error
    assert error is not None
    assert "can't start new thread" in error["message"]
    worker.call("limit", on=False)
    assert worker.call("work") == 1
    worker.close()
