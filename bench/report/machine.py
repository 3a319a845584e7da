"""What it was measured on: versions, processors, load."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from measuring import place

NAMED = ("dspy", "fastapi", "granian", "grpcio", "gunicorn", "litserve", "mosec", "msgpack", "uvicorn", "uvloop")


def describe() -> dict[str, object]:
    lock = (place.ROOT / "requirements" / "bench.txt").read_text()
    versions = dict(re.findall(r"^([\w-]+)==(\S+)", lock, re.MULTILINE))
    go = subprocess.run(["go", "env", "GOVERSION"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    models = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "dspex-sidecar": (place.ROOT / "VERSION").read_text().strip(),
        "python": platform.python_version(),
        "go": go.removeprefix("go"),
        "kernel": platform.release(),
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": load_average(),
        **{name: versions[name] for name in NAMED},
    }


def load_average() -> float:
    return os.getloadavg()[0]
