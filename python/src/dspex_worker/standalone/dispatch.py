"""The way of a call in stand-alone mode: its session's turn, a slot, the runtime, and back."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from dspex.errors import CheckoutTimeout, DeadlineExceeded, DspexError, QueueFull

from dspex_worker.calls import Call
from dspex_worker.runtime import Runtime
from dspex_worker.standalone.table import Record

if TYPE_CHECKING:
    from dspex_worker.standalone.client import Client


class Ticket:
    """What the front end notes of a call; it is the call's ``front``."""

    __slots__ = (
        "answered",
        "arrived",
        "checkout",
        "client",
        "parent",
        "record",
        "started",
        "state",
        "timer",
    )

    def __init__(self, client: Client, record: Record | None, parent: Call | None) -> None:
        self.client = client
        self.record = record
        self.parent = parent  # the call that waits for this one, which its client makes for it: takes no slot
        self.arrived = monotonic()
        self.started = 0.0
        self.state = "queued"  # then running, then stopping where it was answered before it has stopped
        self.answered = False
        self.timer: asyncio.TimerHandle | None = None  # of its deadline
        self.checkout: asyncio.TimerHandle | None = None  # of its wait for a slot


class Dispatcher:
    """Gives calls ``slots`` slots; ``queue_limit`` calls may wait for one, each for ``checkout_timeout`` seconds."""

    def __init__(self, runtime: Runtime, *, slots: int, queue_limit: int, checkout_timeout: float) -> None:
        self._runtime = runtime
        self._loop = asyncio.get_running_loop()
        self._slots = slots
        self._queue_limit = queue_limit
        self._checkout_timeout = checkout_timeout
        self._calls: dict[Call, None] = {}  # all that are in flight, until they have stopped
        self._waiting: dict[Call, None] = {}  # for a slot, in order
        self._idle: asyncio.Event | None = None
        self._running = 0
        self._advancing = False

    @property
    def running(self) -> int:
        return self._running

    @property
    def calls(self) -> list[Call]:
        return list(self._calls)

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        self._idle = asyncio.Event()
        if self._calls:
            await self._idle.wait()

    def submit(self, call: Call) -> None:
        """Run the call when its session and a slot are free; its port is told what became of it."""
        ticket: Ticket = call.front
        self._calls[call] = None
        if call.deadline is not None:
            ticket.timer = self._loop.call_later(max(0.0, call.deadline - monotonic()), self._expire, call)
        if ticket.record is not None:
            ticket.record.turns.enter(call, ticket.client.takes_alone, self._take_slot)
        else:
            self._take_slot(call)

    def stop(self, call: Call, error: DspexError) -> None:
        """Answer a call at once with ``error``, and stop it: slot and turn are free when it has stopped."""
        ticket: Ticket = call.front
        if ticket.answered:
            return
        if ticket.state == "queued":
            error.details["ended_by"] = "queue"
            self._waiting.pop(call, None)
            ticket.client.settle(call, None, error, None)
            return
        self._runtime.cancel(call, type(error)(error.message, code=error.code))
        if not ticket.answered:
            error.details["ended_by"] = call.ended_by
            ticket.state = "stopping"
            ticket.client.answer(call, error)

    def done(self, call: Call) -> None:
        """Take back what a call that has stopped, or will not run, held."""
        ticket: Ticket = call.front
        for timer in (ticket.timer, ticket.checkout):
            if timer is not None:
                timer.cancel()
        ticket.timer = ticket.checkout = None
        if ticket.state != "queued" and ticket.parent is None:
            self._running -= 1
        if ticket.record is not None:
            ticket.record.used = monotonic()
            ticket.record.turns.leave(call)
        del self._calls[call]
        if self._idle is not None and not self._calls:
            self._idle.set()
        self._advance()

    def _take_slot(self, call: Call) -> None:
        ticket: Ticket = call.front
        if ticket.parent is not None:
            self._start(call)
            return
        if self._running + len(self._waiting) >= self._slots + self._queue_limit:
            full = QueueFull(f"{len(self._waiting)} calls wait already", details={"retry_after_ms": 100})
            ticket.client.settle(call, None, full, None)
            return
        self._waiting[call] = None
        self._advance()
        if call in self._waiting:
            ticket.checkout = self._loop.call_later(self._checkout_timeout, self._give_up, call)

    def _advance(self) -> None:
        if self._advancing:  # an inline call begins and ends within _start
            return
        self._advancing = True
        try:
            while self._waiting and self._running < self._slots:
                call = next(iter(self._waiting))
                del self._waiting[call]
                self._running += 1
                self._start(call)
        finally:
            self._advancing = False

    def _start(self, call: Call) -> None:
        ticket: Ticket = call.front
        if ticket.checkout is not None:
            ticket.checkout.cancel()
        ticket.state = "running"
        ticket.started = monotonic()
        ticket.client.starting(call)
        self._runtime.start(call)

    def _expire(self, call: Call) -> None:
        call.front.timer = None
        self.stop(call, DeadlineExceeded("the call's deadline passed"))

    def _give_up(self, call: Call) -> None:
        call.front.checkout = None
        if call in self._waiting:
            del self._waiting[call]
            error = CheckoutTimeout(f"no slot came free within {self._checkout_timeout:g} s")
            call.front.client.settle(call, None, error, None)
