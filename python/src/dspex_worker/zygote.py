"""Zygote mode: a process that loads the application once and forks a pool's workers.

It has one thread and waits, nearly always, for the sidecar's next request. Worker and zygote share the memory of what
was loaded, and a worker is there in milliseconds.

The control channel is a SOCK_SEQPACKET socket whose descriptor number is in ``DSPEX_ZYGOTE_FD``; each packet is one
MessagePack map. The sidecar sends ``{id, worker}`` with three descriptors: the worker's channel, standard output and
standard error. The zygote sends, first, one of ``{ready: {pid}}``, ``{unfit: [text]}`` (workers cannot be forked from
this process: the reasons) or ``{failed: {message, details}}`` (the application cannot be loaded), and ends after the
last two; then an answer to each request, ``{id, pid}`` or ``{id, error: text}``.

A worker is forked twice, so that the zygote is not its parent, and the zygote's end not its own.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import logging
import multiprocessing.process
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import msgpack

from dspex_worker import loading
from dspex_worker.app import App
from dspex_worker.worker import LOAD_FAILED

log = logging.getLogger("dspex_worker")

DESCRIPTOR = "DSPEX_ZYGOTE_FD"
_PACKET = 4096  # bytes of a request at most
_NEVER = 2**31 - 1  # allocations after which garbage is collected
_THREADS_END = 1.0  # seconds that threads which are about to end are waited for


@dataclass
class Forked:
    """What a forked process is to be."""

    worker_id: str
    channel: socket.socket
    app: App


def serve(target: str | None, control: socket.socket) -> int | Forked:
    """Fork workers until the sidecar closes the channel; return the exit code, or, in a worker, what it is."""
    # What is collected before the fork leaves holes, which workers would fill, page by page of their own.
    collects_after = gc.get_threshold()[0]
    gc.set_threshold(_NEVER)
    try:
        app = loading.load(target)
    except BaseException as error:  # importing an application may raise anything
        failure = loading.load_failure(error)
        log.error("the application cannot be loaded", exc_info=error)
        _send(control, {"failed": {"message": failure.message, "details": failure.details}})
        return LOAD_FAILED
    loading.close_lms()
    loading.settle_memory()
    if reasons := [*_threads(), *_sockets(control)]:
        _send(control, {"unfit": reasons})
        return 0
    _send(control, {"ready": {"pid": os.getpid()}})
    while True:
        packet, files, _, _ = socket.recv_fds(control, _PACKET, 3)
        if not packet:
            return 0
        if (worker_id := _fork(control, msgpack.unpackb(packet), files)) is not None:
            if gc.get_threshold()[0] == _NEVER:  # the application has not said otherwise
                gc.set_threshold(collects_after)
            return Forked(worker_id, socket.socket(fileno=files[0]), app)


def run_forked(body: Callable[[], int]) -> NoReturn:
    """Run a worker to its end, and end the process without touching, and so copying, what it shares."""
    code = 1
    try:
        code = body()
        atexit._run_exitfuncs()
    except BaseException:
        log.exception("the worker failed")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _fork(control: socket.socket, request: dict[str, Any], files: list[int]) -> str | None:
    """Fork for a request, and answer it. Returns the worker's id in the worker, None in the zygote."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    error = f"{len(files)} descriptors came with the request, where 3 are needed"
    if len(files) == 3:
        try:
            between = os.fork()
        except OSError as caught:
            error = f"forking failed: {caught}"
        else:
            if between == 0:
                _fork_again(control, request, files)
                return str(request["worker"])
            status = _wait(between)
            error = "" if status == 0 else f"the process between zygote and worker ended with status {status}"
    for file in files:
        os.close(file)
    if error:
        _send(control, {"id": request["id"], "error": error})
    return None


def _fork_again(control: socket.socket, request: dict[str, Any], files: list[int]) -> None:
    """Fork the worker, say which process it is, and end; return in the worker alone."""
    try:
        if child := os.fork():
            _send(control, {"id": request["id"], "pid": child})
            os._exit(0)
        _become_worker(control, request["worker"], files)
    except BaseException:
        log.exception("a worker was not forked")
        os._exit(1)


def _become_worker(control: socket.socket, worker_id: str, files: list[int]) -> None:
    """Give up what is the zygote's, and take what the sidecar gave."""
    os.setsid()
    control.close()
    os.dup2(files[1], 1)
    os.dup2(files[2], 2)
    for file in files[1:]:
        os.close(file)
    os.set_inheritable(files[0], False)  # a child of the application must not keep the channel open
    _show_as(f"dspex {worker_id}")
    _leave_exit_functions()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()  # the standard library's generator reseeds itself


def _leave_exit_functions() -> None:
    """Forget what was registered before the fork, which the zygote undoes: a temporary folder, say, that all use.

    What the standard library registers when it is imported is each process's own.
    """
    atexit._clear()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    atexit.register(logging.shutdown)
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        # As it does itself in the processes that it forks.
        multiprocessing.process._children.clear()  # type: ignore[attr-defined]
        util._finalizer_registry.clear()
        util._run_after_forkers()
        atexit.register(util._exit_function)


def _show_as(title: str) -> None:
    """Have ps and top show the worker's name, and not the zygote's command line."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/comm", "w") as comm:
            comm.write(title[:15])
        with open("/proc/self/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc(5): fields 48 and 49
        if 0 < start < end:
            room = end - start
            ctypes.memmove(start, title.encode()[: room - 1].ljust(room, b"\0"), room)


def _threads() -> list[str]:
    """Name the threads beside this one. Those that are about to end, or that their library ends at a fork, are none."""
    if len(os.listdir("/proc/self/task")) > 1:
        _fork_and_forget()  # OpenBLAS, which numpy brings, ends its threads before a fork and makes them when needed
    deadline = time.monotonic() + _THREADS_END
    while (names := list(_thread_names())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [f"it has a thread: {name}" for name in names]


def _fork_and_forget() -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    _wait(child)


def _wait(child: int) -> int:
    """Wait for a child's end; return its exit status, 0 where the application has the children reaped (SIGCHLD)."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return 0


def _thread_names() -> Iterator[str]:
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    for task in os.listdir("/proc/self/task"):
        if int(task) == os.getpid():
            continue
        try:
            with open(f"/proc/self/task/{task}/comm") as comm:
                yield known.get(int(task)) or f"{comm.read().strip()} (of a library)"
        except OSError:
            continue  # it has just ended


def _sockets(control: socket.socket) -> Iterator[str]:
    """Name the open sockets: two workers that read from one would each get a part of what comes."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            kind = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if fd > 2 and fd != control.fileno() and kind.startswith("socket:"):
            with socket.socket(fileno=os.dup(fd)) as found:
                try:
                    where = f"connected to {found.getpeername()!r}"
                except OSError:
                    where = f"bound to {found.getsockname()!r}"
                yield f"it has an open socket (descriptor {fd}, {found.family.name}, {where})"


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(msgpack.packb(message))
