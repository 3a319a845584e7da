"""What operators are given: the commands of docs/troubleshooting.md, and the forwarder to StatsD."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from e2e.faults.conftest import BASE
from e2e.support.configuration import ROOT, SIDECAR
from e2e.support.machine import WAIT, until
from e2e.support.servers import Server

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def test_the_commands_of_the_page() -> None:
    commands = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    commands += re.findall(r"`(dspex-sidecar [^`]+)`", PAGE)
    slow = ("events", "shutdown", "workers kill", "calls cancel", "check")  # with what they are about, or at the end
    with Server("sidecar", BASE) as server:
        environment = {**os.environ, "DSPEX_SOCKET": server.path, "PATH": f"{SIDECAR.parent}:{os.environ['PATH']}"}

        def run(command: str) -> str:
            done = subprocess.run(
                command.split(),
                env=environment,
                cwd=server.folder,
                capture_output=True,
                text=True,
                timeout=WAIT,
                check=False,
            )
            starting = (5,) if command.startswith("dspex-sidecar health") else ()  # after a resize, it is degraded
            assert done.returncode in (0, *starting), f"{command}: {done.stdout}{done.stderr}"
            return done.stdout

        ran = 0
        for command in dict.fromkeys(commands):
            if not command.removeprefix("dspex-sidecar ").startswith(slow):
                run(command.replace("worker_1", running(run) if "worker_1" in command else ""))
                ran += 1
        assert ran >= 18
        assert "[MainThread]" in run(f"dspex-sidecar stacks {running(run)}")

        assert run("dspex-sidecar check --config dspex.toml")
        run(f"dspex-sidecar workers kill {running(run)}")
        events = subprocess.Popen(
            ["dspex-sidecar", "events", "--json", "--interval", "100ms"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        with events:
            assert events.stdout is not None
            assert '"event":"pool"' in events.stdout.readline()
            events.send_signal(signal.SIGINT)
            assert events.wait(WAIT) == 130
        assert run("dspex-sidecar shutdown --timeout 0s") == "ended\n"
        assert server.process.wait(WAIT) == 0


def test_probes_take_little_time() -> None:
    with Server("sidecar", BASE) as server:
        for what in ("--live", "--ready", "--startup"):
            command = [str(SIDECAR), "healthcheck", what, "--socket", server.path]
            took = []
            for _ in range(20):
                began = time.monotonic()
                subprocess.run(command, check=True)
                took.append(time.monotonic() - began)
            assert min(took) < 0.02, f"{what}: {took}"  # what it takes, whatever else the machine does


def running(run: Callable[[str], str]) -> str:
    """A worker that is ready, and stays: one that is being replaced may be gone when the next command comes."""

    def staying() -> list[str]:
        workers = json.loads(run("dspex-sidecar workers --json"))["workers"]
        return [one["worker"] for one in workers if one["state"] == "ready" and one["leaving"] is None]

    until(lambda: bool(staying()), "a worker is ready")
    return staying()[0]


def test_events_become_statsd() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd, Server("sidecar", BASE) as server:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(WAIT)
        port = statsd.getsockname()[1]
        command = [sys.executable, str(Path("examples/statsd/forward.py")), "--socket", server.path]
        forwarder = subprocess.Popen([*command, "--statsd", f"127.0.0.1:{port}", "--interval", "0.1"], cwd=ROOT)
        try:
            seen: set[str] = set()

            def next_of(beginning: str) -> str:
                while True:
                    packet = statsd.recv(4096).decode()
                    seen.add(packet)
                    if packet.startswith(beginning):
                        return packet

            assert next_of("dspex.pool_size:") == "dspex.pool_size:2|g|#pool:default,generation:1"
            assert next_of("dspex.total_errors:") == "dspex.total_errors:0|g|#pool:default,generation:1"
            with server.client().create_session() as session:
                session.call("echo", {"value": 1})
                assert next_of("dspex.session.") == "dspex.session.created:1|c"
            assert next_of("dspex.session.ended") == "dspex.session.ended:1|c"
            assert {packet.split(":")[0].removeprefix("dspex.") for packet in seen} >= {
                "active_sessions",
                "pool_size",
                "healthy_workers",
                "total_commands",
                "total_errors",
            }
        finally:
            forwarder.terminate()
            forwarder.wait(WAIT)
