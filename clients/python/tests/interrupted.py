"""A program for test_processes.py: interrupts a client's calls at random moments while two threads use it, too.

It ends with 0 where all went on as it should, and says what did not.
"""

from __future__ import annotations

import faulthandler
import random
import signal
import sys
import threading
from types import FrameType

import dspex
from dspex import errors

TIMEOUT = 20.0
TURNS = 300

done = threading.Event()
wrong: list[object] = []
turns = [0, 0]


def work(client: dspex.Client, number: int) -> None:
    while not done.is_set():
        params = {"thread": number, "turn": turns[number], "pad": "x" * (turns[number] % 3000)}
        try:
            if client.call("m", params) != params:
                wrong.append(params)
        except errors.ConnectionLost:
            pass  # an interrupt while sending or receiving costs the connection
        except errors.DspexError as error:
            wrong.append(error)
            return
        turns[number] += 1


def interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(path: str) -> None:
    client = dspex.connect(path, timeout=TIMEOUT)
    threads = [threading.Thread(target=work, args=(client, number), daemon=True) for number in range(len(turns))]
    for thread in threads:
        thread.start()
    signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    for turn in range(TURNS):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-4))
                while True:
                    client.call("m", {"main": turn})
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
        except errors.ConnectionLost:
            pass
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert interrupted > TURNS // 3, interrupted
    assert client.call("m", {"n": 1}) == {"n": 1}
    before = list(turns)
    while any(now == then for now, then in zip(turns, before, strict=True)):
        assert not wrong, wrong
        assert all(thread.is_alive() for thread in threads)
    done.set()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    client.close()
    assert not wrong, wrong


if __name__ == "__main__":
    faulthandler.dump_traceback_later(2 * TIMEOUT, exit=True)
    main(sys.argv[1])
