"""Frames that are made to do harm: refused before anything is allocated for them, and nobody else notices."""

from __future__ import annotations

import random
import socket

import pytest
from dspex import wire
from e2e.faults.conftest import Bystander
from e2e.support import machine
from e2e.support.servers import Server
from runtime.harness import Connection

BOMB = 2 << 20


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def params(data: bytes) -> bytes:
    """A request for `echo` with these params."""
    return frame(b"\x95\x00\x32\xa4echo\xc0" + data)


def ended(connection: Connection) -> None:
    """The client is told why, and its connection ends."""
    told = connection.notification()
    assert (told.method, told.params["code"]) == ("protocol_error", "invalid_frame")
    assert connection.receive() is None


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * BOMB,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xdc\xff\xff" * 1000,
        b"\xdd\x00\x3f\xff\xff" * 60,
        b"\x81\xa5value\xdc\xff\xff" + b"\xdc\xff\xff" * 20,
        b"\xdd\x00\x4f\xff\xff" + b"\xc0" * 0x4FFFFF,  # more values than a frame may hold
    ],
    ids=["deep", "array", "map", "bytes", "text", "extension", "arrays", "budget", "in a map", "values"],
)
def test_bombs(server: Server, bystander: Bystander, bomb: bytes) -> None:
    before = machine.memory(server.pid)
    for _ in range(3):
        connection = server.raw()
        connection.send(params(bomb))
        ended(connection)
    assert machine.memory(server.pid) < before + (100 << 20)


@pytest.mark.parametrize("seed", range(8))
def test_garbage(server: Server, bystander: Bystander, seed: int) -> None:
    choice = random.Random(seed)
    for greeted in (True, False):
        connection = server.raw(None if greeted else {})
        try:
            for _ in range(20):
                body = choice.randbytes(choice.randrange(1, 2000))
                connection.send(frame(body) if choice.random() < 0.8 else body)
            connection.socket.shutdown(socket.SHUT_WR)
            while (message := connection.receive()) is not None:
                assert isinstance(message, wire.Notification | wire.Response)
        except OSError:
            pass  # the sidecar may close with bytes unread
        connection.close()


def test_frames_that_are_almost_right(server: Server, bystander: Bystander) -> None:
    good = wire.encode_request(50, "echo", {"timeout_ms": 1000}, {"value": [1, "two", b"three", {"four": None}]})
    choice = random.Random(7)
    for _ in range(150):
        connection = server.raw()
        bad = bytearray(good)
        for _ in range(choice.randrange(1, 4)):
            bad[choice.randrange(4, len(bad))] = choice.randrange(256)
        connection.send(bytes(bad))
        connection.socket.shutdown(socket.SHUT_WR)
        while connection.receive() is not None:
            pass
        connection.close()
