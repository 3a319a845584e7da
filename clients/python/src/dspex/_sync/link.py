"""One connection with threads: whoever waits for an answer reads, for all.

There is no thread of its own, but while functions that the client offers run and nobody waits. Of the threads that
wait, one leads: it reads from the socket and settles calls, those of the others too. When it has what it waited for,
it leaves the lead to another. So a single caller sends and receives in its own thread, without a switch between
threads, and nothing is left running when nobody waits. Writing is alike: who comes while another writes leaves its
frame, and the other takes it along.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from dspex.core import Ask, Call, Core, State
from dspex.deadline import Deadline
from dspex.errors import ConnectionLost, DspexError
from dspex.models import Params
from dspex.place import lost, new_socket, no_greeting, no_sidecar

_SCRATCH = 256 << 10  # bytes taken from the socket at once
_STALE = 0.05  # seconds without reading after which a call looks first whether the sidecar has left
_RETRY = 0.05  # seconds: how long who waits to write lets another read, before it asks for the lead again; and how
# long a listener waits before it looks whether it is still wanted
_LONGEST_POLL = 1000.0  # seconds; poll() takes no more than 24 days at a time


class ThreadCall(Call):
    """A call that a thread waits for. All its methods want the link's lock."""

    __slots__ = ("_waker",)

    def __init__(self, method: str, credit: int = 0) -> None:
        super().__init__(method, credit)
        self._waker: threading.Lock | None = None

    def wake(self) -> None:
        waker = self._waker
        if waker is not None:
            self._waker = None
            waker.release()

    def sleeper(self) -> threading.Lock:
        """A lock that `wake` will release."""
        if self._waker is None:
            self._waker = threading.Lock()
            self._waker.acquire()
        return self._waker

    @property
    def asleep(self) -> bool:
        return self._waker is not None


class Link:
    """One connection to a sidecar. All methods may be called from any thread.

    Who leads and who writes is noted by an object of its own, not by a flag: an interrupt (Ctrl-C) may come between any
    two steps, and whoever unwinds then can tell whether it was the one.
    """

    def __init__(self, max_frame: int, asked: Callable[[Link, Ask], None]) -> None:
        self.core = Core(max_frame)
        self._asked = asked  # called without the lock, with what the sidecar asks, and again where that has ended
        self._lock = threading.Lock()  # guards core, calls, _leader, _writer, _closers, _deaf; nothing slow under it
        self._unsent = memoryview(b"")  # belongs to who writes
        self._deaf = False  # the other side takes nothing more; what it said before can still be read
        self._leader: object = None  # of who reads
        self._writer: object = None  # of who writes
        self._closers: list[threading.Lock] = []
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._heard = 0.0
        self._socket = new_socket()
        self._receive = self._socket.recv_into
        self._readable = select.poll()

    @classmethod
    def connect(
        cls,
        path: str,
        hello: Mapping[str, Any],
        max_frame: int,
        timeout: float,
        asked: Callable[[Link, Ask], None],
    ) -> Link:
        """Connect and greet, within `timeout` seconds. Raises DspexError."""
        link = cls(max_frame, asked)
        try:
            link._socket.settimeout(timeout)
            link._socket.connect(path)
            link._socket.settimeout(None)  # what must not wait says so, by MSG_DONTWAIT or by polling first
        except OSError as error:
            link._socket.close()
            raise no_sidecar(path, error) from None
        link._readable.register(link._socket, select.POLLIN)
        try:
            greeting = link.start("hello", link.core.greeting(hello), None)
            link.wait(greeting, Deadline(timeout))
            if isinstance(greeting.error, TimeoutError):
                raise no_greeting(path, timeout)
            with link._lock:
                link.core.welcome(greeting)
        except BaseException:
            link.close()
            raise
        return link

    @property
    def usable(self) -> bool:
        """Whether new calls may be made."""
        if not self.core.calls and monotonic() - self._heard > _STALE:
            self._glance()
        return self.core.state is State.READY and not self._deaf

    @property
    def stranded(self) -> bool:
        """Whether it can be used here no more; a forked child has abandoned it already."""
        return False

    def start(
        self,
        method: str,
        params: Params | None,
        meta: Mapping[str, Any] | None,
        credit: int = 0,
        deadline: Deadline | None = None,
    ) -> ThreadCall:
        """Send a request, or as much of it as the other side takes before the deadline. Raises DspexError."""
        call = ThreadCall(method, credit)
        try:
            with self._lock:
                self.core.request(call, meta, params)
            while not self._send() and self._seconds_left(deadline) != 0.0:
                self._wait_writable(deadline)
        except BaseException:
            self.cancel(call)
            raise
        return call

    def wait(self, call: ThreadCall, deadline: Deadline | None = None) -> None:
        """Until `call` is settled, or has an item; once its deadline has passed it settles as `deadline_exceeded`."""
        me = object()
        try:
            while not call.ready():
                with self._lock:
                    if call.ready():
                        return
                    sleeper = None
                    if self._leader is None:
                        self._leader = me
                    else:
                        sleeper = call.sleeper()
                if sleeper is None:
                    self._lead(call, deadline)
                else:
                    left = self._seconds_left(deadline)
                    sleeper.acquire(timeout=-1 if left is None else left)
                if deadline is not None and monotonic() >= deadline.gives_up(self.core.stop_report) and not call.items:
                    self.cancel(call, deadline.error(call.method))
        except BaseException:
            self.cancel(call)  # KeyboardInterrupt, say: the answer is wanted no more
            raise
        finally:
            try:
                self._pass_on(me)
            except BaseException:  # a KeyboardInterrupt before it was done: else nobody would ever read again
                self._pass_on(me)
                raise

    def grant(self, call: ThreadCall, n: int) -> None:
        """Let a stream go on by `n` items."""
        with self._lock:
            self.core.grant(call, n)
        self._send()

    def cancel(self, call: ThreadCall, error: DspexError | None = None) -> None:
        """Settle a call as cancelled, and tell the sidecar. Never waits."""
        with self._lock:
            self.core.cancel(call, error)
        self._send()

    def cancel_from_any_thread(self, call: ThreadCall) -> None:
        """`cancel`. Who waits for the call hears of it when the sidecar answers, which it does at once."""
        self.cancel(call)

    def respond(self, ask: Ask, result: Any, error: DspexError | None) -> None:
        """Answer what the sidecar asked, unless it wants the answer no more. Never waits."""
        with self._lock:
            self.core.respond(ask, result, error)
        self._send()

    def finish(self) -> bool:
        """Close the connection if nothing is in flight on it. True: it is closed."""
        with self._lock:
            if self.core.calls:
                return False
        self.close()
        return True

    def close(self) -> None:
        """End the connection: what is in flight settles as `connection_lost`. Returns when the descriptor is closed."""
        with self._lock:
            self.core.close(ConnectionLost("the client was closed"))
        self._tell()
        self._shut_down()
        while True:
            with self._lock:
                if self._leader is None:
                    self._socket.close()
                    return
                gone = threading.Lock()
                gone.acquire()
                self._closers.append(gone)
            gone.acquire()

    def abandon(self) -> None:
        """In a forked child: forget the parent's connection. The locks may be held by threads that are not here."""
        self._lock = threading.Lock()
        self._leader = self._writer = None
        self._unsent = memoryview(b"")
        self._socket.close()  # this process's descriptor alone: the connection itself goes on
        self.core.outgoing.clear()
        self.core.asks.clear()
        self.core.close(ConnectionLost("this process was forked: the connection is its parent's"))

    # Reading

    def _lead(self, call: ThreadCall, deadline: Deadline | None) -> None:
        """Read for all, until `call` has what it waits for. The caller is the leader, and ceases to be."""
        while not call.ready():
            left = self._seconds_left(deadline)
            if left == 0.0:
                return
            if self._unsent and self._writer is None:
                self._wait_both(left)
                continue
            if self._unsent:  # somebody is at it now, and may leave some
                left = _RETRY if left is None else min(left, _RETRY)
            if left is None:
                self._read(0)  # one system call less than with poll()
            elif self._readable.poll(left * 1000):
                self._read()

    def _read(self, flags: int = socket.MSG_DONTWAIT) -> None:
        """Take what has arrived, waiting for it where the flags do not say otherwise. Only for who leads.

        An interrupt while it waits does no harm; one that comes when something was received costs the connection.
        """
        core = self.core
        error: OSError | None = None
        received: list[int] = []
        try:
            room = core.splitter.room()
            try:
                # In one step: no interrupt comes between receiving and noting it.
                received.extend(map(self._receive, (self._scratch if room is None else room,), (0,), (flags,)))
            except BlockingIOError:
                return
            except OSError as failed:
                received, error = [0], failed
            (count,) = received
            self._heard = monotonic()
            with self._lock:
                if error is not None:
                    core.close(lost(error))
                elif count == 0:
                    core.end_of_file()
                elif room is None:
                    core.receive(self._scratch[:count])
                else:
                    core.handle(core.splitter.filled(count))
        except BaseException:  # KeyboardInterrupt: what was read is lost
            if received:
                self._give_up()
            raise
        self._tell()
        if core.outgoing:
            self._send()
        if core.state is State.CLOSED:
            self._shut_down()

    def _tell(self) -> None:
        """Pass on what the sidecar asks."""
        if self.core.news:
            with self._lock:
                news = self.core.take_news()
            for ask in news:
                self._asked(self, ask)

    def _glance(self) -> None:
        """Read what has come by now, unless somebody reads anyway."""
        me = object()
        try:
            with self._lock:
                if self._leader is not None or self.core.state is State.CLOSED:
                    return
                self._leader = me
            if self._readable.poll(0):
                self._read()
        finally:
            try:
                self._pass_on(me)
            except BaseException:  # a KeyboardInterrupt before it was done: else nobody would ever read again
                self._pass_on(me)
                raise

    def _pass_on(self, me: object) -> None:
        """Lead no more. Where nobody leads, wake one who waits: it will."""
        with self._lock:
            if self._leader is me:
                self._leader = None
            if self._leader is not None:
                return
            while self._closers:
                self._closers.pop().release()
            for call in self.core.calls.values():
                if isinstance(call, ThreadCall) and call.asleep:
                    call.wake()
                    return
            if not self.core.asks:
                return
        threading.Thread(target=self._listen, name="dspex-listen", daemon=True).start()

    def _listen(self) -> None:
        """Read while something is being answered and nobody waits: else its cancel would not be heard."""
        me = object()
        with self._lock:
            if self._leader is not None:
                return
            self._leader = me
        try:
            while self.core.asks and self.core.state is not State.CLOSED:
                if self._unsent and self._writer is None:
                    self._wait_both(_RETRY)
                elif self._readable.poll(_RETRY * 1000):
                    self._read()
        finally:
            self._pass_on(me)

    # Writing

    def _send(self) -> bool:
        """Send what there is to send, or leave it to who is at it. False: the socket is full."""
        me = object()
        while True:
            try:
                with self._lock:
                    if self._writer is not None:
                        return True
                    self._writer = me
                while self._unsent or self.core.outgoing:
                    if not self._unsent:
                        with self._lock:
                            self._unsent = memoryview(self.core.take_outgoing())
                    self._unsent = self._unsent[self._socket.send(self._unsent, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                return False
            except OSError:
                self._unsent = memoryview(b"")
                with self._lock:  # what it said before it went is still to be read, so calls are settled at end of file
                    self._deaf = True
                    self.core.outgoing.clear()
            except BaseException:  # KeyboardInterrupt: nobody knows how much was sent
                if self._writer is me:
                    self._give_up()
                raise
            finally:
                if self._writer is me:
                    self._writer = None
            if not self.core.outgoing:
                return True

    def _wait_writable(self, deadline: Deadline | None) -> None:
        """The socket is full. The other side may want to be read from before it reads on."""
        me = object()
        try:
            with self._lock:
                if self._leader is None:
                    self._leader = me
            left = self._seconds_left(deadline)
            if self._leader is me:
                self._wait_both(left)
                return
            poller = select.poll()
            try:
                poller.register(self._socket, select.POLLOUT)
            except ValueError:  # it was closed meanwhile
                return
            poller.poll(1000 * (_RETRY if left is None else min(left, _RETRY)))
        finally:
            try:
                self._pass_on(me)
            except BaseException:  # a KeyboardInterrupt before it was done: else nobody would ever read again
                self._pass_on(me)
                raise

    def _wait_both(self, seconds: float | None) -> None:
        """Wait until something can be read or written, and do it. Only for who leads."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLOUT)
        for _, event in poller.poll(None if seconds is None else seconds * 1000):
            if event & ~select.POLLOUT:
                self._read()
            if event & select.POLLOUT:
                self._send()

    def _give_up(self) -> None:
        """An interrupt came at a moment that leaves the connection in no known state."""
        with self._lock:
            self.core.close(ConnectionLost("interrupted while sending or receiving"))
        self._tell()
        self._shut_down()

    def _shut_down(self) -> None:
        """Wake whoever reads or writes."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _seconds_left(self, deadline: Deadline | None) -> float | None:
        """How long to wait at a time; None: without an end; 0: not at all."""
        if deadline is None:
            return None
        return min(max(0.0, deadline.gives_up(self.core.stop_report) - monotonic()), _LONGEST_POLL)
