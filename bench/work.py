"""What is asked of every peer: which method, with what, and how many calls at once."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Work:
    """Attributes:
    connections, outstanding: calls in flight are the product of both; where a peer's protocol has one call a
        connection (HTTP/1.1), or no connections, it gets as many calls in flight.
    options: of bench/load, for dspex alone.
    """

    name: str
    method: str = "echo"
    size: int = 512
    params: str = ""
    connections: int = 1
    outstanding: int = 1
    options: tuple[str, ...] = ()

    @property
    def body(self) -> str:
        return self.params or json.dumps({"value": "x" * self.size})

    @property
    def in_flight(self) -> int:
        return self.connections * self.outstanding


ONE = Work("512 B, one call at a time")
DEEP = Work("512 B, 8 connections of 8 calls", connections=8, outstanding=8)
WIDE = Work("512 B, 64 connections of one call", connections=64)
SMALL_ONE = Work("128 B, one call at a time", size=128)
SMALL_DEEP = Work("128 B, 8 connections of 8 calls", size=128, connections=8, outstanding=8)
LARGE_ONE = Work("1 MiB, one call at a time", size=MIB)
LARGE_MANY = Work("1 MiB, 16 calls at a time", size=MIB, connections=4, outstanding=4)
NAP = Work("20 ms sleep, 64 calls at a time", "nap", params='{"nap": 0.02}', connections=8, outstanding=8)
BURN = Work("5 ms CPU, 16 calls at a time", "burn", params='{"burn": 0.005}', connections=4, outstanding=4)
STREAM = Work(
    "streams of 100 items, 8 at a time",
    "items",
    params='{"count": 100}',
    connections=8,
    options=("-stream", "1000"),
)
ASYNC_ONE = Work("512 B to an async method, one call at a time", "plain")
STREAM_ONE = replace(STREAM, name="streams of 100 items, one at a time", connections=1)


def pinned(work: Work) -> Work:
    """The same with a session for each call in flight."""
    return replace(work, name=f"{work.name}, in sessions", options=(*work.options, "-session"))
