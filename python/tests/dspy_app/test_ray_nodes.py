"""Which process of a cluster runs a row, and what becomes of it where that is lost; Ray is played."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from dspex.errors import NoWorkers, WorkerLost
from dspex_worker.calls import CallCancelled
from dspex_worker.dspy_app.optimise.ray_nodes import RayNodes, _in_time, _leave, check
from dspex_worker.dspy_app.optimise.values import packed, unpacked


class GetTimeoutError(Exception):
    pass


class RayTaskError(Exception):
    pass


class RayError(Exception):
    pass


class Actor:
    """Runs a row: asks once, and ends with what it was answered; one that is not alive is lost."""

    def __init__(self, name: str, alive: bool = True) -> None:
        self.dropped: list[int] = []
        self.drop = SimpleNamespace(remote=self.dropped.append)
        self.begin = self._method(alive, lambda number, _: {"ask": "lm", "number": 1, "of": {"row": number}})
        self.go_on = self._method(alive, lambda _, given: {"end": {"value": unpacked(given)["value"], "by": name}})

    def _method(self, alive: bool, function: Callable[..., dict[str, Any]]) -> Any:
        def result(*arguments: Any) -> bytes:
            if not alive:
                raise RayError("the node died")
            return packed(function(*arguments))

        return SimpleNamespace(remote=lambda *arguments: lambda: result(*arguments))


class Owner:
    """Stands for the run."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.failed: list[Exception] = []

    def fail(self, error: Exception) -> None:
        self.failed.append(error)


def nodes(*actors: Actor) -> tuple[RayNodes, Owner]:
    errors = SimpleNamespace(GetTimeoutError=GetTimeoutError, RayTaskError=RayTaskError, RayError=RayError)
    ray, owner = SimpleNamespace(get=lambda ref, timeout: ref(), exceptions=errors), Owner()
    return RayNodes(ray, "a:1", list(actors), cast(Any, owner)), owner


def answer(asked: dict[str, Any]) -> bytes:
    return packed({"number": asked["number"], "value": "answered"})


def test_a_row_of_a_lost_process_runs_on_another_where_that_does_no_harm() -> None:
    dead, other = Actor("dead", alive=False), Actor("other")
    cluster, _ = nodes(dead, other)
    assert cluster.run(b"", True, answer) == {"value": "answered", "by": "other"}
    assert dead.dropped == [1]
    assert other.dropped == []
    assert len(cluster) == 1
    cluster, _ = nodes(Actor("dead", alive=False), Actor("other"))
    with pytest.raises(WorkerLost, match="none that may be run again: the node died"):
        cluster.run(b"", False, answer)
    assert cluster.run(b"", False, answer)["by"] == "other"


def test_a_row_runs_twice_at_most_and_the_run_ends_where_no_process_is_left() -> None:
    cluster, owner = nodes(*(Actor(str(number), alive=False) for number in range(3)))
    with pytest.raises(WorkerLost, match="two processes"):
        cluster.run(b"", True, answer)
    assert len(cluster) == 1
    with pytest.raises(CallCancelled):
        cluster.run(b"", True, answer)
    (error,) = owner.failed
    assert "all processes of this run on the Ray cluster at a:1 are lost" in str(error)


def test_a_run_that_is_stopped_waits_for_no_process() -> None:
    actor = Actor("one")
    cluster, owner = nodes(actor)
    owner.stopped.set()
    with pytest.raises(CallCancelled):
        cluster.run(b"", True, answer)
    assert actor.dropped == [1]


def test_a_connection_that_is_gone_when_something_is_sent_is_a_lost_process() -> None:
    def gone(*_: Any) -> Any:
        raise ConnectionError("not connected")

    dead, other = Actor("dead"), Actor("other")
    dead.begin = dead.drop = SimpleNamespace(remote=gone)
    cluster, _ = nodes(dead, other)
    assert cluster.run(b"", True, answer) == {"value": "answered", "by": "other"}
    assert len(cluster) == 1


def test_a_cluster_that_hangs_is_waited_for_so_long(caplog: pytest.LogCaptureFixture) -> None:
    never = threading.Event()
    with pytest.raises(NoWorkers, match=r"at a:1 cannot be used .* it did not answer within 0\.3 s"):
        _in_time(never.wait, "a:1", 0.3, threading.Event())
    _leave(SimpleNamespace(shutdown=never.wait), 0.3)
    assert "the Ray cluster did not answer within 0.3 s to the run's leaving it" in caplog.text
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(CallCancelled):
        _in_time(never.wait, "a:1", 60, stopped)
    never.set()


def test_ray_is_asked_for_when_the_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check({"executor": "ray"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check({"executor": "local"})
    with pytest.raises(ValueError, match=r"dspex-worker\[ray\]"):
        check({"executor": "ray"})
