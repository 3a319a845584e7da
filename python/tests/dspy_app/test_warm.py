"""What installing the DSPy application leaves behind: nothing that a fork would share, or that others would see."""

from __future__ import annotations

import json
import subprocess
import sys

_SCRIPT = """
import json, os, sys, threading
import dspex_worker
lazy = "dspy" not in sys.modules
from dspex_worker import App, dspy_app
sockets = lambda: [t for t in map(_link, os.listdir("/proc/self/fd")) if t.startswith("socket")]
def _link(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
before = sockets()
dspy_app.install(App())
import dspy
print(json.dumps({
    "lazy": lazy,
    "litellm": "litellm" in sys.modules,
    "threads": threading.active_count(),
    "sockets": len(sockets()) - len(before),
    "lm": dspy.settings.lm is not None,
    "history": len(dspy.clients.base_lm.GLOBAL_HISTORY),
    "disk_cache": dspy.cache.enable_disk_cache,
    "memory_cache": dspy.cache.enable_memory_cache,
    "map": os.environ["LITELLM_LOCAL_MODEL_COST_MAP"],
}))
"""


def test_nothing_is_left_behind() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "lazy": True,
        "litellm": False,
        "threads": 1,
        "sockets": 0,
        "lm": False,
        "history": 0,
        "disk_cache": False,
        "memory_cache": False,
        "map": "true",
    }
    assert done.stderr == ""  # no attempt to fetch a list of prices, which would be logged
