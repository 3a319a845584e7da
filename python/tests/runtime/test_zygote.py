"""Zygote mode: what it says of itself, the workers that it forks, and what they do and do not share."""

from __future__ import annotations

import gc
import os
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.harness import HELLO, Zygote

HEAD = "from dspex_worker import App\napp = App(use_dspy=False)\n"

Start = Callable[..., Zygote]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts zygotes of an application of the test's own."""
    zygotes: list[Zygote] = []

    def make(source: str, head: str = HEAD, **options: Any) -> Zygote:
        (tmp_path / "made.py").write_text(head + textwrap.dedent(source))
        zygotes.append(Zygote("made:app", cwd=tmp_path, **options))
        return zygotes[-1]

    yield make
    for zygote in zygotes:
        zygote.close()


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def test_workers_answer_and_know_who_they_are(zygote: Zygote) -> None:
    assert zygote.first == {"ready": {"pid": zygote.process.pid}}
    workers = [zygote.fork().ready(worker=f"worker_{n}") for n in range(3)]
    for worker in workers:
        assert worker.call("echo", value=[1, "two"]) == [1, "two"]
    pids = {worker.call("pid") for worker in workers}
    assert pids == {worker.pid for worker in workers}
    shown = [Path(f"/proc/{worker.pid}/cmdline").read_text().rstrip("\0") for worker in workers]
    assert shown == ["dspex worker_7"] * 3
    for worker in workers:
        output = worker.end()
        assert "worker started" in output  # each runs the hooks itself, and prints into its own pipe
        assert "worker stopped" in output
    assert not any("worker started" in line for line in zygote.lines)


def test_a_worker_is_not_the_zygotes_child_and_outlives_it(start: Start) -> None:
    zygote = start("@app.method\ndef echo(value):\n    return value\n")
    worker = zygote.fork().ready()
    status = Path(f"/proc/{worker.pid}/status").read_text()
    assert f"PPid:\t{zygote.process.pid}\n" not in status
    assert os.getsid(worker.pid) == worker.pid
    zygote.process.send_signal(signal.SIGKILL)
    zygote.process.wait()
    assert worker.call("echo", value=1) == 1
    worker.end()


def test_no_descriptor_is_shared(zygote: Zygote) -> None:
    before = descriptors(zygote.process.pid)
    workers = [zygote.fork().ready() for _ in range(2)]
    assert descriptors(zygote.process.pid) == before
    held = [set(descriptors(worker.pid).values()) for worker in workers]
    control = {target for target in before.values() if target.startswith("socket:")}
    assert len(control) == 1
    for links in held:
        assert not control & links
    own = [{link for link in links if not link.startswith(("/", "anon_inode:"))} for links in held]
    assert not own[0] & own[1]
    for worker in workers:
        worker.end()


def test_generators_of_random_numbers_differ(start: Start) -> None:
    zygote = start(
        """
        import random
        import numpy
        random.random(), numpy.random.rand()

        @app.method
        def draw():
            return [random.random(), float(numpy.random.rand())]
        """
    )
    assert "ready" in zygote.first, zygote.first  # numpy's threads are no reason not to fork
    workers = [zygote.fork().ready() for _ in range(2)]
    first, second = (worker.call("draw") for worker in workers)
    assert first[0] != second[0]
    assert first[1] != second[1]
    for worker in workers:
        worker.end()


def test_init_worker_runs_in_each_worker(start: Start) -> None:
    zygote = start(
        """
        import os

        class Mine(App):
            def init_worker(self, worker):
                super().init_worker(worker)
                self.made_by = os.getpid(), worker.id

        app = Mine(use_dspy=False)

        @app.method
        def made_by():
            return app.made_by
        """
    )
    workers = [zygote.fork().ready(worker=f"worker_{n}") for n in (1, 2)]
    assert [worker.call("made_by") for worker in workers] == [[w.pid, f"worker_{n}"] for n, w in enumerate(workers, 1)]
    for worker in workers:
        worker.end()


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("", [True, *gc.get_threshold()]),
        ("gc.disable()", [False, *gc.get_threshold()]),
        ("gc.disable(); gc.enable()", [True, *gc.get_threshold()]),
        ("gc.set_threshold(5000, 20, 30)", [True, 5000, 20, 30]),
        ("gc.set_threshold(0)", [True, 0, *gc.get_threshold()[1:]]),
    ],
)
def test_what_the_application_wants_of_the_garbage_collector_holds(start: Start, said: str, wanted: list[Any]) -> None:
    zygote = start(
        f"""
        import gc
        {said}

        @app.method
        def collector():
            return [gc.isenabled(), *gc.get_threshold()]
        """
    )
    worker = zygote.fork().ready()
    assert worker.call("collector") == wanted
    worker.end()


def test_exit_functions_are_whose_process_registered_them(start: Start, tmp_path: Path) -> None:
    zygote = start(
        """
        import atexit, os, tempfile

        shared = tempfile.TemporaryDirectory()
        own = None
        atexit.register(lambda: print("exit function of", os.getpid()))

        @app.method
        def make():
            global own
            own = tempfile.TemporaryDirectory()
            atexit.register(lambda: print("exit function of the worker", os.getpid()))
            return [shared.name, own.name]
        """,
        TMPDIR=str(tmp_path),
    )
    worker = zygote.fork().ready()
    shared, own = worker.call("make")
    output = worker.end()
    assert f"exit function of the worker {worker.pid}" in output
    assert f"exit function of {worker.pid}" not in output
    assert Path(shared).is_dir()
    assert not Path(own).exists()
    zygote.control.close()
    assert zygote.exit_code() == 0
    assert f"exit function of {zygote.process.pid}" in zygote.output
    assert not Path(shared).exists()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            """
            import threading
            threading.Thread(target=threading.Event().wait, name="of-the-application", daemon=True).start()
            """,
            "it has a thread: of-the-application",
        ),
        (
            """
            import socket
            server = socket.create_server(("127.0.0.1", 0))
            client = socket.create_connection(server.getsockname())
            """,
            "it has an open socket (descriptor",
        ),
    ],
)
def test_what_cannot_be_forked_is_named(start: Start, source: str, reason: str) -> None:
    zygote = start(source)
    assert any(reason in text for text in zygote.first["unfit"]), zygote.first
    assert zygote.exit_code() == 0


def test_a_thread_that_is_about_to_end_is_no_reason(start: Start) -> None:
    zygote = start("import threading, time\nthreading.Thread(target=time.sleep, args=(0.2,)).start()\n")
    assert "ready" in zygote.first, zygote.first


def test_an_application_that_cannot_be_loaded(start: Start) -> None:
    zygote = start("raise RuntimeError('no such luck')\n")
    failed = zygote.first["failed"]
    assert "no such luck" in failed["message"]
    assert failed["details"]["type"] == "RuntimeError"
    assert zygote.exit_code() == 3


def test_a_request_without_its_descriptors_is_refused_and_costs_nothing(zygote: Zygote) -> None:
    read, write = os.pipe()
    before = descriptors(zygote.process.pid)
    assert "3 are needed" in zygote.ask("worker_1", write)["error"]
    assert descriptors(zygote.process.pid) == before
    os.close(read)
    os.close(write)
    worker = zygote.fork().ready()
    assert worker.call("echo", value=1) == 1
    worker.end()


def test_dspy_is_loaded_once_and_its_lms_are_each_workers_own(start: Start) -> None:
    source = """
    import dspy
    from dspy.lm15 import Message, Response, Usage

    class Engine:
        def complete(self, request):
            return Response(id="1", model=request.model, message=Message.assistant("[[ ## answer ## ]]\\n42"),
                            finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1, total_tokens=2))

    dspy.configure(lm=dspy.LM("fake/x", engine=Engine(), cache=False))

    @app.program
    class Answer(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer: int")

        def forward(self, question):
            return self.predict(question=question)
    """
    zygote = start(source, head="from dspex_worker import App\napp = App()\n")
    workers = [zygote.fork().ready(worker=f"worker_{n}") for n in range(2)]
    for worker in workers:
        outputs = worker.call("execute_program", program="Answer", inputs={"question": "what?"})
        assert outputs == {"answer": 42}
        worker.end()


def test_hello_of_a_forked_worker_is_that_of_a_started_one(zygote: Zygote) -> None:
    from runtime.harness import Worker

    forked, started = zygote.fork(), Worker()
    forked.request(1, "hello", None, **HELLO)
    answers = [forked.response(1).result, started.hello().result]
    for answer in answers:
        answer.pop("pid")
    assert answers[0] == answers[1]
    forked.end()
    started.close()


def test_what_a_call_prints_says_whose_it_is(start: Start) -> None:
    zygote = start(
        """
        import logging, os

        @app.method
        async def say(session: __import__("dspex_worker").Session | None):
            print("first\\nsecond")
            print("in", end=" ")
            print("pieces")
            logging.getLogger("of-the-application").warning("logged")
            os.write(1, b"past Python\\n")
        """
    )
    worker = zygote.fork().ready()
    worker.request(5, "say")
    assert worker.response(5).error is None
    worker.request(6, "say", {"session": "s-é", "key": 1, "version": 0, "next": 1})
    assert worker.response(6).error is None
    lines = worker.end().splitlines()
    for mark in ("\x1f\x1f5\x1f", "\x1fs-é\x1f6\x1f"):
        for text in ("first", "second", "in pieces", "WARNING of-the-application: logged"):
            assert lines.count(mark + text) == 1, lines
    assert lines.count("past Python") == 2


def test_an_application_that_ignores_or_reaps_its_children_is_forked(start: Start) -> None:
    zygote = start(
        """
        import signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        @app.method
        def echo(value):
            return value
        """
    )
    for n in range(2):  # the first fork does not end the zygote
        worker = zygote.fork().ready()
        assert worker.call("echo", value=n) == n
        worker.end()


def test_what_the_standard_library_does_at_exit_is_done_in_each_worker(start: Start, tmp_path: Path) -> None:
    zygote = start(
        """
        import logging.handlers, multiprocessing.util, time

        helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
        helper.start()
        kept = logging.handlers.MemoryHandler(1000, target=logging.FileHandler("kept.log", delay=True))
        logging.getLogger("kept").addHandler(kept)

        @app.method
        def work():
            logging.getLogger("kept").warning("of the worker")
            return [multiprocessing.util.get_temp_dir(), len(multiprocessing.active_children()), helper.pid]
        """,
        TMPDIR=str(tmp_path),
    )
    worker = zygote.fork().ready()
    folder, children, helper = worker.call("work")
    assert Path(folder).is_dir()
    worker.end()
    assert not Path(folder).exists()
    assert "of the worker" in (tmp_path / "kept.log").read_text()
    assert children == 0  # the zygote's is not the worker's
    os.kill(helper, 0)  # and lives on
    os.kill(helper, signal.SIGKILL)
