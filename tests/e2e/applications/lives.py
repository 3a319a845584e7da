"""An application for what happens to workers, and to the process that they are forked from."""

import contextlib
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator

from dspex_worker import App, Session

app = App(use_dspy=False)

if os.environ.get("LIVES_THREAD"):
    threading.Thread(target=threading.Event().wait, name="of-the-application", daemon=True).start()
if reason := os.environ.get("LIVES_BROKEN"):
    print("about to fail")
    raise RuntimeError(reason)


@app.method(retry="safe")
def pid() -> int:
    return os.getpid()


@app.method(retry="safe")
def safe_nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@app.method
def nap(seconds: float) -> None:
    time.sleep(seconds)


@app.method
def add(session: Session, amount: int = 1) -> int:
    total: int = session.state.get("total", 0) + amount
    session.state["total"] = total
    return total


@app.method
def shout(lines: int, width: int) -> None:
    """Print much at once, past Python's own buffering too."""
    text = ("x" * width + "\n") * lines
    sys.stdout.write(text)
    os.write(2, text.encode())
    print("shouted")


held: list[bytearray] = []


@app.method
def hold(mebibytes: int) -> int:
    """Take memory for good."""
    held.append(bytearray(b"x") * (mebibytes << 20))
    return os.getpid()


@app.method
def open_files(most: int) -> int:
    """Open files until there are no descriptors left; they are closed again."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    with contextlib.ExitStack() as files:
        while True:
            files.enter_context(open(os.devnull))


@app.method
def fill_disk() -> None:
    with open("/dev/full", "w") as full:
        full.write("x" * 100_000)


@app.method
async def say(text: str, session: Session | None) -> None:
    print(text)


@app.on_worker_start
def started() -> None:
    print("hook: worker started")


@app.on_worker_stop
def stopped() -> None:
    print("hook: worker stopped")


@app.method
def numbers() -> Iterator[int]:
    n = 0
    while True:
        yield n
        n += 1
