"""The threads that sync methods run on, and the way back from them to the loop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from dspex_worker.batch import Batch

log = logging.getLogger("dspex_worker")

CALL_THREAD = "dspex-call"  # what the names of these threads begin with


class Inbox:
    """Work handed to the loop's thread from others: all that is there is done in one wake-up of the loop.

    The loop is woken by an eventfd. Its own way, `call_soon_threadsafe`, reads a socket until that is empty, which
    takes a second system call that fails.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, batch: Batch) -> None:
        self._loop = loop
        self._batch = batch
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False  # a wake-up is under way, which will find what is posted now
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._guard = threading.Lock()  # held while the bell is rung: a closed descriptor's number is soon another's
        self._closed = False
        contextvars.Context().run(loop.add_reader, self._bell, self._collect)  # not in the context of a call

    def post(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Have the loop's thread call ``callback(*arguments)``. Any thread may post."""
        self._waiting.append((callback, arguments))
        if not self._woken:
            self._woken = True
            with self._guard:
                if not self._closed:
                    os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """Take nothing more: what threads that were left behind still post is dropped."""
        with self._guard:
            if not self._closed:
                self._closed = True
                self._loop.remove_reader(self._bell)
                os.close(self._bell)

    def _collect(self) -> None:
        os.eventfd_read(self._bell)
        self._woken = False  # before looking: whoever posts after this look wakes the loop again
        waiting = self._waiting
        self._batch.open()
        while waiting:
            callback, arguments = waiting.popleft()
            try:
                callback(*arguments)
            except Exception:
                log.exception("taking over a thread's result failed")
        self._batch.close()


class Threads:
    """Threads, made when there is work for them; idle ones cost nothing.

    There are as many as there were jobs at one time: what bounds the calls in flight bounds them. With a limit of their
    own, a call made while another, which has a thread, waits for its answer could wait for ever.

    One thread at a time is on its way to the queue. It wakes the next if it leaves work behind, so a batch of short
    jobs is done by few threads, and a job that blocks holds up no other.
    """

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._mutex = threading.Lock()  # guards all below; held for a few instructions only
        self._idle: list[threading.Lock] = []  # what each idle thread waits on; the last to fall idle is woken first
        self._count = 0
        self._coming = False  # a thread was woken or made and has not looked at the queue yet
        self._closed = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job()`` on a thread, in the order of submission; it must not raise.

        Raises RuntimeError, and drops the job, where the system gives no thread and there is none yet.
        """
        self._queue.append(job)
        if not self._coming:
            with self._mutex:
                self._call_one()
                if not self._count and self._queue:
                    self._queue.remove(job)
                    raise RuntimeError("can't start new thread: the limit on processes of the container or the user")

    def close(self) -> None:
        """Let the idle threads end, and the others when their job is done."""
        with self._mutex:
            self._closed = True
            for waiting in self._idle:
                waiting.release()
            self._idle.clear()

    def _call_one(self) -> None:
        """Bring one more thread to the queue, if there is one to be had. The mutex is held."""
        if self._coming or not self._queue:
            return
        if self._idle:
            self._coming = True
            self._idle.pop().release()
        else:
            name = f"{CALL_THREAD}-{self._count + 1}"
            try:
                # Daemons, since a method that never returns must not keep the process from ending.
                threading.Thread(target=self._work, name=name, daemon=True).start()
            except RuntimeError as error:
                log.error("no thread to be had; %d go on, and %d jobs wait: %s", self._count, len(self._queue), error)
            else:
                self._coming = True
                self._count += 1

    def _work(self) -> None:
        waiting = threading.Lock()
        waiting.acquire()
        came = True
        while True:
            with self._mutex:
                if came:
                    self._coming = came = False
                if self._queue:
                    job = self._queue.popleft()
                    self._call_one()
                elif self._closed:
                    return
                else:
                    job = None
                    self._idle.append(waiting)
            if job is None:
                waiting.acquire()
                came = True
                continue
            try:
                job()
            except BaseException:
                log.exception("a job of the runtime failed")
            job = None  # what the job held must not live until the next one
