"""Nodes on a Ray cluster: actors, each of which runs rows of one run, and which end with it."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from dspex.errors import DspexError, NoWorkers, WorkerLost, error_from_wire

from dspex_worker.calls import CallCancelled, message_of
from dspex_worker.dspy_app.optimise.elsewhere import Answer
from dspex_worker.dspy_app.optimise.node import Node
from dspex_worker.dspy_app.optimise.run import Run
from dspex_worker.dspy_app.optimise.values import unpacked

log = logging.getLogger("dspex_worker")

_LOOK: Final = 0.2  # seconds after which a thread that waits for Ray looks whether it still should
_REACHED: Final = 5.0  # seconds to open a connection
_JOINED: Final = 30.0  # seconds to become one of the cluster's drivers
_STARTED: Final = 60.0  # seconds until the first node has loaded the application
_LEFT: Final = 5.0  # seconds to leave the cluster
_OTHERS: Final = 5.0  # seconds that the others have after the first
_MOST: Final = 64  # processes of one run


def check(settings: Mapping[str, Any]) -> None:
    """Raises ValueError where rows are to run on Ray, which is not installed."""
    if settings.get("executor") == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError('optimize.executor = "ray" needs the package ray: install dspex-worker[ray] for the workers')


class _Lost(Exception):
    """The process that ran a row is gone."""


@dataclass
class _Process:
    actor: Any
    busy: int = 0


class RayNodes:
    """Processes on the cluster's nodes. Those that are lost are not made anew."""

    def __init__(self, ray: Any, address: str, actors: list[Any], run: Run) -> None:
        self._ray = ray
        self._address = address
        self._owner = run
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()  # guards the one below, and ``busy`` of each
        self._processes = [_Process(actor) for actor in actors]

    def __len__(self) -> int:
        return len(self._processes)

    def run(self, task: bytes, safe: bool, answer: Answer) -> dict[str, Any]:
        """A row whose process is lost runs on another one, once, if running it again does no harm."""
        try:
            return self._once(task, answer)
        except _Lost as lost:
            if not safe:
                message = "the process that ran this row is lost, and the program is none that may be run again"
                raise WorkerLost(f"{message}: {lost}", retryable=False) from None
        try:
            return self._once(task, answer)
        except _Lost as lost:
            raise WorkerLost(f"two processes that ran this row are lost: {lost}", retryable=False) from None

    def _once(self, task: bytes, answer: Answer) -> dict[str, Any]:
        process = self._taken()
        try:
            return self._run(process, task, answer)
        except _Lost:
            self._forget(process)
            raise
        finally:
            self._given_back(process)

    def _run(self, process: _Process, task: bytes, answer: Answer) -> dict[str, Any]:
        number, ended = next(self._numbers), False
        try:
            event = self._ask(process.actor.begin, number, task)
            while "end" not in event:
                event = self._ask(process.actor.go_on, number, answer(event))
            ended = True
        finally:
            if not ended:
                with suppress(Exception):  # whatever is lost, the row's error is the one to tell
                    process.actor.drop.remote(number)
        end: dict[str, Any] = event["end"]
        return end

    def _ask(self, method: Any, *arguments: Any) -> dict[str, Any]:
        """Raises _Lost, or CallCancelled once the run is stopped."""
        errors = self._ray.exceptions
        try:
            ref = method.remote(*arguments)
            while not self._owner.stopped.is_set():
                with suppress(errors.GetTimeoutError):
                    return unpacked(self._ray.get(ref, timeout=_LOOK))
        except errors.RayTaskError as error:
            raise DspexError(f"a process on the Ray cluster failed: {message_of(error)}") from None
        except (errors.RayError, ConnectionError) as error:
            raise _Lost(message_of(error)) from None
        raise CallCancelled

    def _taken(self) -> _Process:
        with self._guard:
            if not self._processes:
                message = f"all processes of this run on the Ray cluster at {self._address} are lost"
                self._owner.fail(WorkerLost(f"{message}: the cluster's log may say why", retryable=False))
                raise CallCancelled
            process = min(self._processes, key=lambda one: one.busy)
            process.busy += 1
            return process

    def _given_back(self, process: _Process) -> None:
        with self._guard:
            process.busy -= 1

    def _forget(self, process: _Process) -> None:
        with self._guard:
            if process in self._processes:
                self._processes.remove(process)
                log.warning("a process on the Ray cluster is lost; %d are left", len(self._processes))


@contextmanager
def connected(address: str, told: bytes, concurrency: int, run: Run) -> Iterator[RayNodes]:
    """Processes on the cluster, for as long as the context lasts. Called on a thread.

    Raises:
        DspexError: ``no_workers``: the cluster cannot be reached, or has no processor free; ``program_error``: the
            application cannot be loaded there.
    """
    ray = _joined(address, run.stopped)
    try:
        start = partial(_started, ray, address, told, concurrency, run.stopped)
        yield RayNodes(ray, address, _in_time(start, address, _STARTED + _JOINED, run.stopped), run)
    finally:
        _leave(ray, _LEFT)


def _leave(ray: Any, within: float) -> None:
    """End the actors. Where the cluster does not answer any more, the end of the run's process does, and the run's
    result, or its error, stays what it is."""
    try:
        _within(within, threading.Event(), ray.shutdown)
    except TimeoutError:
        log.warning("the Ray cluster did not answer within %g s to the run's leaving it", within)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises
        log.warning("the run could not leave the Ray cluster in order: %s", message_of(error))


def _joined(address: str, stopped: threading.Event) -> Any:
    where = urlsplit(address if "//" in address else f"//{address}")
    try:
        socket.create_connection((where.hostname or "", where.port or 0), _REACHED).close()
    except OSError as error:
        raise _no_cluster(address, message_of(error)) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.exceptions

    def join() -> None:
        ray.init(address=address, log_to_driver=False, configure_logging=False, namespace=f"dspex-{os.getpid()}")

    try:
        _in_time(join, address, _JOINED, stopped)
    except NoWorkers:
        raise
    except Exception as error:  # noqa: BLE001 - whatever Ray raises of versions, tokens and nodes
        raise _no_cluster(address, message_of(error)) from None
    return ray


def _started(ray: Any, address: str, told: bytes, concurrency: int, stopped: threading.Event) -> list[Any]:
    count = max(1, min(concurrency, int(ray.cluster_resources().get("CPU", 1)), _MOST))
    kind = ray.remote(Node).options(num_cpus=1, max_concurrency=concurrency + 8, scheduling_strategy="SPREAD")
    actors = {}
    for _ in range(count):
        actor = kind.remote(told)
        actors[actor.start.remote()] = actor
    waiting, until = list(actors), time.monotonic() + _STARTED
    ready: list[Any] = []
    problem: DspexError | None = None
    while waiting and time.monotonic() < until:
        if stopped.is_set():
            raise CallCancelled
        done, waiting = ray.wait(waiting, num_returns=1, timeout=_LOOK)
        for ref in done:
            try:
                error = unpacked(ray.get(ref)).get("error")
                problem = None if error is None else error_from_wire(error)
            except ray.exceptions.RayError as lost:
                problem = NoWorkers(message_of(lost))
            if problem is not None:
                waiting, until = [], 0  # the others would say the same
            elif not ready:
                until = min(until, time.monotonic() + _OTHERS)
            ready += [actors[ref]] if problem is None else []
    if problem is not None:
        raise type(problem)(f"on the Ray cluster at {address}: {problem.message}", details=problem.details)
    if not ready:
        message = f"no process was started on the Ray cluster at {address} within {_STARTED:g} s"
        raise NoWorkers(f"{message}: it has {ray.available_resources().get('CPU', 0):g} processors free")
    for ref in waiting:
        ray.kill(actors[ref])  # no processor was free for it
    return ready


def _in_time(function: Callable[[], Any], address: str, seconds: float, stopped: threading.Event) -> Any:
    try:
        return _within(seconds, stopped, function)
    except TimeoutError:
        raise _no_cluster(address, f"it did not answer within {seconds:g} s") from None


def _within(seconds: float, stopped: threading.Event, function: Callable[[], Any]) -> Any:
    """Run it on a thread that is left behind where it takes longer, which the run's process ends.

    Ray's own calls wait for a connection that hangs as long as that does.
    """
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)

    thread = threading.Thread(target=run, name="dspex-ray", daemon=True)
    thread.start()
    until = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < until and not stopped.is_set():
        thread.join(_LOOK)
    if stopped.is_set():
        raise CallCancelled
    return done.result(0)


def _no_cluster(address: str, why: str) -> NoWorkers:
    return NoWorkers(f"the Ray cluster at {address} cannot be used ([optimize] address): {why}")
