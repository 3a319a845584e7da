"""The sidecar's end of one connection."""

from __future__ import annotations

import socket
import threading
from typing import Any, Final

from dspex import wire

_LARGEST: Final = 4 * wire.DEFAULT_FRAME


class Peer:
    """Reads messages, and writes frames of any kind. One thread reads; any may write."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._splitter = wire.FrameSplitter(_LARGEST)
        self._events: list[wire.Event] = []
        self._writing = threading.Lock()  # held while frames are written, so that they go out whole

    def read(self) -> Any:
        """The next message; None once the client has left. Raises what `wire.decode` does."""
        while not self._events:
            data = self.sock.recv(1 << 20)
            if not data:
                return None
            self._events += self._splitter.feed(data)
        event = self._events.pop(0)
        if isinstance(event, wire.StructureError):
            raise event
        if isinstance(event, wire.TooLong):
            raise wire.StructureError(f"a frame of {event.length} bytes")
        return wire.decode(event)

    def send(self, *frames: bytes) -> None:
        """Write frames, or any bytes."""
        with self._writing:
            self.sock.sendall(b"".join(frames))

    def greet(self, **more: Any) -> wire.Request:
        """Answer `hello`, which has to be the next message; `more` goes over what is answered."""
        hello = self.read()
        if not isinstance(hello, wire.Request) or hello.method != "hello":
            raise ValueError(f"expected hello, got {hello}")
        told = {
            "protocol": wire.PROTOCOL,
            "features": [],
            "server": {"name": "fake", "version": "0"},
            "connection": "c1",
            "max_frame": wire.DEFAULT_FRAME,
            "max_in_flight": 1024,
        }
        self.send(wire.encode_response(hello.id, None, told | more))
        return hello
