"""Clients that misbehave: they lose their connection, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Any

import pytest
from dspex import wire
from e2e.faults.conftest import Bystander
from e2e.support import machine
from e2e.support.machine import until
from e2e.support.servers import Server
from runtime.harness import Connection

CONFIG: dict[str, Any] = {
    "listen": {
        "frame_timeout": "500ms",
        "handshake_timeout": "1s",
        "write_timeout": "1s",
        "write_buffer": 16 << 20,
        "max_in_flight_bytes": 16 << 20,
        "max_in_flight": 2000,
    },
    "pools": {"default": {"concurrency": 16, "stream_stall": "1s"}},
}


def ended(connection: Connection) -> None:
    """The client is told why, and its connection ends."""
    told = connection.notification()
    assert (told.method, told.params["code"]) == ("protocol_error", "invalid_frame")
    assert connection.receive() is None


@pytest.mark.parametrize("part", [b"\0", b"\0\0\1", b"\0\0\1\0", b"\0\0\1\0half a frame"])
def test_half_a_frame_and_then_silence(server: Server, bystander: Bystander, part: bytes) -> None:
    connection = server.raw()
    connection.send(part)
    ended(connection)


def test_one_byte_at_a_time(server: Server, bystander: Bystander) -> None:
    connection = server.raw()
    whole = wire.encode_request(50, "echo", None, {"value": bytes(4096)})
    began = time.monotonic()
    try:
        for byte in whole:
            connection.socket.sendall(bytes((byte,)))
            time.sleep(0.02)
            assert time.monotonic() - began < 10
    except OSError:
        pass  # it has been cut off, as it has to be
    assert time.monotonic() - began > 0.4
    ended(connection)


def test_the_longest_length_there_is(server: Server, bystander: Bystander) -> None:
    before = machine.memory(server.pid)
    crowd = [server.raw() for _ in range(20)]
    for connection in crowd:
        connection.send(b"\xff\xff\xff\xff" + b"\x95\x00\x32" + bytes(1 << 16))
    for connection in crowd:  # read past, and given up when the rest does not come
        error = connection.response(50).error
        assert error is not None
        assert (error["code"], error["details"]["length"]) == ("frame_too_large", 2**32 - 1)
        ended(connection)
    assert machine.memory(server.pid) < before + (64 << 20)


def test_a_client_that_reads_nothing(server: Server, bystander: Bystander) -> None:
    before, value = machine.memory(server.pid), bytes(1 << 20)
    frames = [wire.encode_request(id, "echo", None, {"value": value}) for id in range(100, 300)]
    for _ in range(3):  # the second and the third take nothing more
        deaf = server.raw()
        with contextlib.suppress(OSError):  # it may be cut off while it still sends
            deaf.send(*frames)
        with server.client() as client:
            until(lambda: len(client.call("sidecar.clients")["clients"]) == 2, "its connection has ended")
        assert machine.memory(server.pid) < before + (128 << 20)


def test_a_client_that_reads_slowly(server: Server, bystander: Bystander) -> None:
    """As long as it reads, it keeps its connection."""
    slow = server.raw()
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.request(50, "echo", value=bytes(8 << 20))
    (length,) = struct.unpack(">I", slow.socket.recv(4))
    assert length > 8 << 20
    while length:
        got = slow.socket.recv(min(length, 256 << 10))
        assert got
        length -= len(got)
        time.sleep(0.05)
    assert slow.call("echo", value=1) == 1


def test_floods(server: Server, bystander: Bystander) -> None:
    connection = server.raw()
    for first in range(1000, 11_000, 1000):
        ids = range(first, first + 500)
        connection.send(*(wire.encode_request(id, "sleep", None, {"seconds": 3600}) for id in ids))
        connection.send(*(wire.encode_cancel(id) for id in (*ids, *range(2_000_000, 2_000_500))))
        connection.send(*(wire.encode_credit(id, 5) for id in ids))
        for id in ids:
            error = connection.response(id).error
            assert error is not None
            assert error["code"] == "cancelled"
    assert connection.call("echo", value=1) == 1


def test_connections_that_come_and_go(server: Server, bystander: Bystander) -> None:
    def come_and_go(number: int) -> None:
        for turn in range(100):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(server.path)
            connection = Connection(sock)
            if turn % 3:
                connection.request(1, "hello", None, protocols=[1])
            if turn % 3 == 2:
                connection.response(1)
                connection.request(2, "sleep", seconds=3600)
                connection.request(3, "count", {"stream": 10}, n=1_000_000)
            connection.close()

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half closed"])
def test_leaving_in_mid_stream(server: Server, bystander: Bystander, half: bool) -> None:
    connection = server.raw()
    connection.request(50, "count", {"stream": 1_000_000}, n=1_000_000)
    connection.items(50, 10)
    if half:
        connection.socket.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    with server.client() as client:
        until(lambda: len(client.call("sidecar.clients")["clients"]) == 2, "its connection has ended")
