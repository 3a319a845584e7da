"""A Unix stream socket on the loop: everything that is there is read at once, and answered with one send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from time import monotonic

from dspex.wire import Event, FrameSplitter

from dspex_worker.batch import Batch
from dspex_worker.heap import LARGE, Kept

log = logging.getLogger("dspex_worker")

SOCKET_BUFFER = 2 << 20  # bytes; with the default 208 KiB large frames take several rounds of the scheduler
# Bytes read at once, beyond large bodies, which have their own buffer. malloc would map and unmap more each time.
_READ = 64 << 10
_LATEST = 200e-6  # seconds that a frame may wait for others to be sent with it
_JOINED = 64 << 10  # bytes up to which buffers are joined: cheaper than handing many to the kernel
_BUFFERS = 512  # handed to one sendmsg; the system's limit is 1024
_HIGH = 1 << 20  # bytes that wait to be sent, at which streams pause
_LOW = 256 << 10  # and at which they go on

_SO_SNDBUFFORCE = 32  # Linux; the socket module does not name it


class Channel:
    """Frames in and out of one socket. All methods are for the loop's thread.

    Args:
        sock: connected; this owns it from now on.
        splitter: holds the limit on received frames.
        batch: says when to send.
        on_events: takes the splitter's events of one read, in order, until ``reading`` is False.
        on_end: called once, when the peer closed, the socket failed or ``close`` was called.
        on_room: called when so much was sent that streams may go on.
        write_buffer: bytes that may wait to be sent; with more the socket is closed. None: any number.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        splitter: FrameSplitter,
        batch: Batch,
        *,
        on_events: Callable[[list[Event]], None],
        on_end: Callable[[], None],
        on_room: Callable[[], None],
        write_buffer: int | None = None,
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._splitter = splitter
        self._on_events = on_events
        self._on_end = on_end
        self._on_room = on_room
        self._write_buffer = write_buffer
        self._out: list[bytes | memoryview] = []
        self._batch = batch
        self._kept = Kept(loop)
        self._first = 0.0  # when the first of the frames that wait to be sent was written
        self._ending = False
        self._full = False
        self.unsent = 0  # bytes
        self.blocked_since: float | None = None  # monotonic instant since when the peer takes nothing
        self.incomplete_since: float | None = None  # since when the frame that is being read has been under way
        self.writable = True  # False while so much is unsent that streams must pause
        self.closed = False
        self.reading = True  # False once it is closed, or ends when all is sent
        self.before_end: Callable[[], None] | None = None  # what is to be written when the peer has closed its side
        sock.setblocking(False)
        _enlarge_buffers(sock)

    def start(self) -> None:
        """Begin to read."""
        self._loop.add_reader(self._fd, self._readable)

    def write(self, frame: bytes) -> None:
        """Send a frame: with others of this batch, but no later than 200 µs after the first of them."""
        if self.closed:
            return
        self._out.append(frame)
        self.unsent += len(frame)
        if len(frame) > LARGE:
            self._kept.used()
        if self._full:
            if self.unsent > _HIGH:
                self.writable = False
            if self._write_buffer is not None and self.unsent > self._write_buffer:
                log.info("more than %d bytes wait for the other side: the connection is closed", self._write_buffer)
                self._loop.call_soon(self.close)  # not within whatever is being answered
            return
        if len(self._out) == 1:
            self._first = monotonic()
            self._batch.note(self)
        elif monotonic() - self._first > _LATEST:
            self.flush()
        if self.unsent > _HIGH:
            self.flush()
            self.writable = self.unsent <= _HIGH

    def flush(self) -> None:
        """Send what the socket takes."""
        while self._out and not self._full and not self.closed:
            out = self._out
            try:
                if len(out) == 1:
                    sent = self._socket.send(out[0])
                elif self.unsent <= _JOINED:
                    sent = self._socket.send(b"".join(out))
                else:
                    sent = self._socket.sendmsg(out[:_BUFFERS])
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                log.debug("sending failed: %s", error)
                self.close()
                return
            self._sent(sent)

    def end(self) -> None:
        """Close once everything is sent. Nothing may be written after this, and nothing more is read."""
        self._ending = True
        self.reading = False
        self._loop.remove_reader(self._fd)
        self.flush()
        if not self._out:
            self.close()

    def close(self) -> None:
        """Close at once; what is unsent is dropped."""
        if self.closed:
            return
        self.closed = True
        self.reading = False
        self._out.clear()
        self.unsent = 0
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        with contextlib.suppress(OSError):
            self._socket.close()
        self._on_end()

    def _readable(self) -> None:
        room = self._splitter.room()
        data = b""
        try:
            if room is None:
                data = self._socket.recv(_READ)
                size = len(data)
            else:
                size = self._socket.recv_into(room)
                self._kept.used()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            log.debug("reading failed: %s", error)
            size = 0
        if not size:
            if self.before_end is not None:
                self.before_end()
            self.flush()
            self.close()
            return
        self._batch.open()
        try:
            events = self._splitter.feed(data) if room is None else self._splitter.filled(size)
            self._on_events(events)
        finally:
            self._batch.close()
        if not self.reading:
            return
        if self._splitter.idle:
            self.incomplete_since = None
        elif events or self.incomplete_since is None:
            self.incomplete_since = monotonic()

    def _sent(self, sent: int) -> None:
        """Drop what went out, and wait for the socket if that was not all."""
        self.unsent -= sent
        if not self.unsent:
            self._out = []
        else:
            whole = 0
            while sent and sent >= len(self._out[whole]):
                sent -= len(self._out[whole])
                whole += 1
            del self._out[:whole]
            if sent:
                self._out[0] = memoryview(self._out[0])[sent:]
            if whole < _BUFFERS and not self._full:
                self._full = True
                self.blocked_since = monotonic()
                self._loop.add_writer(self._fd, self._has_room)

    def _has_room(self) -> None:
        self._full = False
        self._loop.remove_writer(self._fd)
        self.flush()
        if self.closed:
            return
        if not self._full:
            self.blocked_since = None
        if self._ending and not self._out:
            self.close()
        elif not self.writable and self.unsent <= _LOW:
            self.writable = True
            self._on_room()


def _enlarge_buffers(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SOCKET_BUFFER)  # may exceed wmem_max; needs CAP_NET_ADMIN
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
