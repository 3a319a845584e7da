"""What one call costs in a worker: microseconds of its CPU and of time, by kind of method, on asyncio and on uvloop.

    build/venv/bin/python bench/worker_loop.py [--calls N] [--loops asyncio,uvloop,epoll]

The worker is a real process at the end of a socketpair, in pool-worker mode; a call carries 512 bytes each way. `epoll`
is no worker but the least that a loop in Python could cost: it reads, decodes, encodes and sends, and runs nothing.
Each figure is the best of three rounds.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dspex import wire

APPLICATION = """
from dspex_worker import App
app = App(use_dspy=False)

@app.method(inline=True)
def inline(value):
    return value

@app.method(name="async")
async def async_(value):
    return value

@app.method
def sync(value):
    return value
"""

START = {
    "asyncio": "import sys; from dspex_worker.command import main; sys.exit(main())",
    "uvloop": "import asyncio, sys, uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy());"
    "from dspex_worker.command import main; sys.exit(main())",
    "epoll": """
import os, select, socket
from dspex import wire
sock = socket.socket(fileno=int(os.environ["DSPEX_WORKER_FD"]))
sock.setblocking(False)
poll = select.epoll()
poll.register(sock.fileno(), select.EPOLLIN)
splitter = wire.FrameSplitter()
while True:
    poll.poll()
    data = sock.recv(256 << 10)
    if not data:
        break
    out = []
    for body in splitter.feed(data):
        request = wire.decode(body, scanned=True)
        out.append(wire.encode_response(request.id, None, request.params.get("value")))
    sock.send(b"".join(out))
""",
}
BATCHES = (1, 64)
ROUNDS = 3


class Worker:
    """A worker process and the other end of its channel."""

    def __init__(self, loop: str, folder: Path) -> None:
        self.socket, theirs = socket.socketpair()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, 2 << 20)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START[loop], "app:app", "--mode", "pool-worker", "--log-level", "error"],
            cwd=folder,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "DSPEX_WORKER_FD": str(theirs.fileno())},
        )
        theirs.close()
        self.splitter = wire.FrameSplitter()
        hello = {"protocols": [1], "worker": "bench", "concurrency": 64}
        self.exchange(wire.encode_request(1, "hello", None, hello), 1)

    def exchange(self, frames: bytes, answers: int) -> None:
        """Send, and wait for so many answers."""
        self.socket.sendall(frames)
        while answers > 0:
            data = self.socket.recv(1 << 20)
            if not data:
                raise SystemExit("the worker ended")
            answers -= len(self.splitter.feed(data))

    def cpu(self) -> float:
        """Seconds of CPU that its threads have used."""
        total = 0
        tasks = Path(f"/proc/{self.process.pid}/task")
        for task in tasks.iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def close(self) -> None:
        self.socket.close()
        self.process.wait()


def measure(worker: Worker, method: str, batch: int, calls: int) -> tuple[float, float]:
    """Microseconds of CPU and of time for each call."""
    params = {"value": "x" * 512}
    meta = {"timeout_ms": 30_000}
    frames = b"".join(wire.encode_request(id, method, meta, params) for id in range(2, batch + 2))
    rounds = max(1, calls // batch)
    found = []
    for _ in range(ROUNDS):
        cpu, began = worker.cpu(), time.perf_counter()
        for _ in range(rounds):
            worker.exchange(frames, batch)
        passed = time.perf_counter() - began
        found.append(((worker.cpu() - cpu) / rounds / batch * 1e6, passed / rounds / batch * 1e6))
    return min(cpu for cpu, _ in found), min(passed for _, passed in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=6000, help="calls in a round (default: %(default)s)")
    parser.add_argument("--loops", default="asyncio,uvloop,epoll", help="(default: %(default)s)")
    options = parser.parse_args()
    print(f"{'loop':8} {'method':8} {'outstanding':>11} {'cpu us':>8} {'time us':>8}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(APPLICATION)
        for loop in options.loops.split(","):
            worker = Worker(loop, Path(folder))
            for method in ("inline",) if loop == "epoll" else ("inline", "async", "sync"):
                for batch in BATCHES:
                    cpu, passed = measure(worker, method, batch, options.calls)
                    print(f"{loop:8} {method:8} {batch:11} {cpu:8.1f} {passed:8.1f}", flush=True)
            worker.close()


if __name__ == "__main__":
    main()
