"""The application of the fault tests: it counts, and it breaks in every way that one may ask for."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dspex_worker import App, Session, current_call

app = App(use_dspy=False)


@app.method(inline=True)
def echo(value: Any) -> Any:
    return value


@app.method(inline=True)
def pid() -> int:
    return os.getpid()


@app.method
async def sleep(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@app.method
async def increment(session: Session, seconds: float = 0.0) -> int:
    session.state["n"] = session.state.get("n", 0) + 1
    await asyncio.sleep(seconds)
    return int(session.state["n"])


@app.method
def increment_in_thread(session: Session) -> int:
    session.state["n"] = session.state.get("n", 0) + 1
    return int(session.state["n"])


@app.method(read_only=True)
def get(session: Session) -> dict[str, Any]:
    return dict(session.state)


def until_go(marker: str) -> int:
    """Leave a line for each time that this is run, then wait until the file says `go`."""
    with open(marker, "a") as file:
        file.write(f"{os.getpid()}\n")
    while "go" not in Path(marker).read_text():
        time.sleep(0.005)
    return os.getpid()


@app.method(retry="safe")
def safe(marker: str) -> int:
    return until_go(marker)


@app.method
def unsafe(marker: str) -> int:
    return until_go(marker)


@app.method(retry="safe")
def safe_stream(marker: str, before: int) -> Iterator[int]:
    yield from range(before)
    until_go(marker)
    yield before


@app.method
def count(n: int) -> Iterator[int]:
    yield from range(n)


# What cannot be cancelled.


@app.method
def spin() -> None:
    current_call().ask_blocking("began")
    while True:
        pass


# In C from the moment on at which the marker is there.


@app.method
def hold_interpreter(marker: str) -> None:
    """C code that keeps the interpreter's lock."""
    ctypes.PyDLL(None).system(f"echo began > {marker}; exec sleep 3600".encode())


@app.method
def block(marker: str) -> None:
    """C code that lets others run, and hears of nothing."""
    ctypes.CDLL(None).system(f"echo began > {marker}; exec sleep 3600".encode())


@app.method
async def block_loop(marker: str) -> None:
    """What should have been a sync method: no other call of its worker goes on meanwhile."""
    block(marker)


# What ends the process.


@app.method(inline=True)
def end_at_once(session: Session) -> None:
    """Before anything else is done on the loop."""
    os._exit(3)


@app.method
def end(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(7)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "abort":
        os.abort()


@app.method
def write_garbage(data: bytes) -> None:
    os.write(_channel(), data)
    time.sleep(3600)


@app.method
def close_channel() -> None:
    os.close(_channel())
    time.sleep(3600)


def _channel() -> int:
    """The descriptor of the socket that leads to the sidecar."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as tried:
                    if tried.type == socket.SOCK_STREAM and tried.getpeername() in ("", b"", None):
                        return int(name)
        except OSError:
            continue
    raise LookupError("no channel")


# What it prints.


@app.method
def say(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)
    os.write(1, f"{text} by descriptor\n".encode())
    libc = ctypes.CDLL(None)
    libc.puts(f"{text} from C".encode())
    libc.fflush(None)


# What it leaves behind.

_CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(3600)"


@app.method
def leave_children() -> list[int]:
    """Start what is hard to find again: in sessions of their own, forked twice, without an environment."""
    command = [sys.executable, "-S", "-E", "-c", _CHILD]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    plain = subprocess.Popen(command, **quiet)
    apart = subprocess.Popen(command, start_new_session=True, env={}, **quiet)
    for child in (plain, apart):
        assert child.stdout is not None
        child.stdout.readline()
    twice = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen({command!r}, start_new_session=True, env={{}}, stdout=subprocess.PIPE, "
        "stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    orphan = int(subprocess.run([sys.executable, "-c", twice], capture_output=True, check=True, env={}).stdout)
    return [plain.pid, apart.pid, orphan]
