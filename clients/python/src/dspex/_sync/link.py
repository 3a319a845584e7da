"""One connection with threads: whoever waits for an answer reads, for all.

There is no thread of its own. Of the threads that wait, one leads: it reads from the socket and settles calls, those
of the others too. When it has what it waited for, it leaves the lead to another. So a single caller sends and receives
in its own thread, without a switch between threads, and nothing is left running when nobody waits. Writing is alike:
who comes while another writes leaves its frame, and the other takes it along.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any

from dspex.core import GRACE, Call, Core, State
from dspex.errors import ConnectionLost, DeadlineExceeded, DspexError
from dspex.place import lost, new_socket, no_sidecar

_SCRATCH = 256 << 10  # bytes taken from the socket at once
_STALE = 0.05  # seconds without reading after which a call looks first whether the sidecar has left
_RETRY = 50  # milliseconds: how long who waits to write lets another read, before it asks for the lead again


class ThreadCall(Call):
    """A call that a thread waits for. All its methods want the link's lock."""

    __slots__ = ("_waker",)

    def __init__(self, method: str, credit: int = 0) -> None:
        super().__init__(method, credit)
        self._waker: threading.Lock | None = None

    def wake(self) -> None:
        waker, self._waker = self._waker, None
        if waker is not None:
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
    """One connection to a sidecar. All methods may be called from any thread."""

    def __init__(self, max_frame: int) -> None:
        self.core = Core(max_frame)
        self._lock = threading.Lock()  # guards core, calls, _leading, _closers, _deaf; nothing slow under it
        self._writing = threading.Lock()  # held by who writes; only ever tried for, never waited for
        self._unsent = memoryview(b"")  # guarded by _writing
        self._deaf = False  # the other side takes nothing more; what it said before can still be read
        self._leading = False
        self._closers: list[threading.Lock] = []
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._heard = 0.0
        self._socket = new_socket()
        self._readable = select.poll()

    @classmethod
    def connect(cls, path: str, hello: Mapping[str, Any], max_frame: int, timeout: float) -> Link:
        """Connect and greet, within `timeout` seconds. Raises DspexError."""
        link = cls(max_frame)
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
            link.wait(greeting, timeout)
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

    def start(
        self, method: str, params: Mapping[str, Any] | None, meta: Mapping[str, Any] | None, credit: int = 0
    ) -> ThreadCall:
        """Send a request. Raises DspexError where it was not sent."""
        call = ThreadCall(method, credit)
        try:
            with self._lock:
                self.core.request(call, meta, params)
            while not self._send():
                self._wait_writable()
        except BaseException:
            self.cancel(call)
            raise
        return call

    def wait(self, call: ThreadCall, timeout: float | None = None) -> None:
        """Until `call` is settled, or has an item; after `timeout` seconds it settles as `deadline_exceeded`."""
        deadline = None if timeout is None else monotonic() + timeout + GRACE
        try:
            while not call.ready():
                with self._lock:
                    if call.ready():
                        return
                    sleeper = call.sleeper() if self._leading else None
                    self._leading = True
                if sleeper is None:
                    self._lead(call, deadline)
                else:
                    sleeper.acquire(timeout=-1 if deadline is None else max(0.0, deadline - monotonic()))
                if deadline is not None and monotonic() >= deadline and not call.items:
                    message = f"no answer to {call.method} within {timeout} s"
                    self.cancel(call, DeadlineExceeded(message, details={"ended_by": "client"}))
        except BaseException:
            self.cancel(call)  # KeyboardInterrupt, say: the answer is wanted no more
            raise
        finally:
            self._pass_on()

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
        self._shut_down()
        while True:
            with self._lock:
                if not self._leading:
                    self._socket.close()
                    return
                gone = threading.Lock()
                gone.acquire()
                self._closers.append(gone)
            gone.acquire()

    # Reading

    def _lead(self, call: ThreadCall, deadline: float | None) -> None:
        """Read for all, until `call` has what it waits for. `_leading` was set by the caller."""
        try:
            while not call.ready():
                left = None
                if deadline is not None:
                    left = (deadline - monotonic()) * 1000
                    if left <= 0:
                        return
                if self._unsent:
                    self._wait_both(left)
                elif left is None:
                    self._read(0)
                elif self._readable.poll(left):
                    self._read()
        finally:
            with self._lock:
                self._leading = False

    def _read(self, flags: int = socket.MSG_DONTWAIT) -> None:
        """Take what has arrived; without flags, wait for it. Only for who leads."""
        core = self.core
        room = core.splitter.room()
        error: OSError | None = None
        try:
            count = self._socket.recv_into(self._scratch if room is None else room, 0, flags)
        except BlockingIOError:
            return
        except OSError as failed:
            count, error = 0, failed
        try:
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
            self._give_up()
            raise
        if core.outgoing:
            self._send()
        if core.state is State.CLOSED:
            self._shut_down()

    def _glance(self) -> None:
        """Read what has come by now, unless somebody reads anyway."""
        with self._lock:
            if self._leading or self.core.state is State.CLOSED:
                return
            self._leading = True
        try:
            if self._readable.poll(0):
                self._read()
        finally:
            with self._lock:
                self._leading = False
            self._pass_on()

    def _pass_on(self) -> None:
        """Where nobody leads, wake one who waits: it will."""
        with self._lock:
            if self._leading:
                return
            for gone in self._closers:
                gone.release()
            self._closers.clear()
            for call in self.core.calls.values():
                if isinstance(call, ThreadCall) and call.asleep:
                    call.wake()
                    return

    # Writing

    def _send(self) -> bool:
        """Send what there is to send, or leave it to who is at it. False: the socket is full."""
        while self._writing.acquire(blocking=False):
            try:
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
                self._give_up()
                raise
            finally:
                self._writing.release()
            if not self.core.outgoing:
                break
        return True

    def _wait_writable(self) -> None:
        """The socket is full. The other side may want to be read from before it reads on."""
        with self._lock:
            lead = not self._leading
            self._leading = True
        if not lead:
            poller = select.poll()
            poller.register(self._socket, select.POLLOUT)
            poller.poll(_RETRY)
            return
        try:
            self._wait_both(None)
        finally:
            with self._lock:
                self._leading = False
            self._pass_on()

    def _wait_both(self, milliseconds: float | None) -> None:
        """Wait until something can be read or written, and do it. Only for who leads."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLOUT)
        for _, event in poller.poll(milliseconds):
            if event & ~select.POLLOUT:
                self._read()
            if event & select.POLLOUT:
                self._send()

    def _give_up(self) -> None:
        """An interrupt came at a moment that leaves the connection in no known state."""
        with self._lock:
            self.core.close(ConnectionLost("interrupted while sending or receiving"))
        self._shut_down()

    def _shut_down(self) -> None:
        """Wake whoever reads or writes."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
