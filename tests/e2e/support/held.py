"""What a sidecar holds: to be the same after a fault as before it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dspex import Client
from e2e.support import machine
from e2e.support.machine import until
from e2e.support.servers import Server

# Bytes by which a sidecar may have grown. Go gives back what it freed when it likes, so this finds what grows without
# end alone; tests of what takes much memory have limits of their own.
_MEMORY = 192 << 20


@dataclass(frozen=True)
class Held:
    """Descriptors of the sidecar and its keeper, child processes, memory."""

    descriptors: int
    processes: int
    memory: int

    @classmethod
    def by(cls, server: Server) -> Held:
        family = server.family()
        of_go = [server.pid, *(one.pid for one in family if "dspex-sidecar" in one.command)]
        descriptors = sum(len(machine.descriptors(pid)) for pid in of_go if os.path.exists(f"/proc/{pid}"))
        return cls(descriptors, len(family), machine.memory(server.pid))

    def comes_back(self, server: Server) -> None:
        """Wait until the sidecar is healthy, idle, and holds no more than this."""
        server.disconnect()
        _idle(server)
        seen = [self]

        def same() -> bool:
            seen.append(now := Held.by(server))
            return now.descriptors <= self.descriptors and now.processes <= self.processes

        try:
            until(same, "descriptors and processes are back")
        except AssertionError:
            raise AssertionError(f"before: {self}, now: {seen[-1]}, {server.family()}") from None
        assert Held.by(server).memory <= self.memory + _MEMORY


def _idle(server: Server) -> None:
    server.healthy()
    with Client(server.path, timeout=machine.WAIT) as client:
        for session in client.call("session.list", {"limit": 1000, "all": True})["sessions"]:
            client.session(session["session"]).end()

        def idle() -> bool:
            stats = client.call("sidecar.stats")
            return (stats["in_flight"], stats["queued"], stats["clients"]) == (0, 0, 1)

        until(idle, "no call and no client is left")
