"""Taking back what was raised in a thread."""

from __future__ import annotations

import subprocess
import sys

# Tracing, as debuggers, coverage and Hypothesis do it, in a process of its own: one that hangs can be ended.
TRACED = """
import sys, threading
from dspex_worker.interrupts import take_back
thread = threading.Thread(target=take_back)
thread.start()
thread.join()
sys.settrace(lambda *_: None)
print((lambda: "went on")())
"""


def test_what_was_taken_back_stops_no_traced_code() -> None:
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "went on\n", done.stderr
