"""HTTP figures checked with a public load tool, bombardier: what it counts beside what bench/load counts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

from measuring import place
from measuring.load import load
from measuring.result import Result
from measuring.running import Running, running
from peers import ASGI, FASTAPI, GRANIAN, MOSEC
from work import WIDE

TOOL = place.BUILD / "tools" / "bombardier"
VERSION = "v1.2.6"


def measure(rounds: int, seconds: float) -> Iterator[Result]:
    """A ratio over 1: bench/load gets more out of a peer than the public tool does, and does it no wrong."""
    if not TOOL.exists():
        module = f"github.com/codesenberg/bombardier@{VERSION}"  # the module's hash is in Go's checksum database
        subprocess.run(["go", "install", module], env={**os.environ, "GOBIN": str(TOOL.parent)}, check=True)
    for peer in (FASTAPI, ASGI, GRANIAN, MOSEC):
        ours, theirs = [], []
        with running(peer) as it:
            for number in range(rounds + 1):
                found = load(it, WIDE, seconds)["per_second"], bombard(it, seconds)
                if number:
                    ours.append(found[0])
                    theirs.append(found[1])
        name = f"checked with a public load tool, {peer.name}: calls/s of bench/load beside bombardier's"
        yield Result(name, "1/s", ours, theirs)


def bombard(it: Running, seconds: float) -> float:
    """Calls a second."""
    command = [
        *(str(TOOL), "--connections", str(WIDE.in_flight), "--duration", f"{max(seconds, 1.0)}s", "--method", "POST"),
        *("--header", "Content-Type: application/json", "--body", WIDE.body, "--print", "result", "--format", "json"),
        f"http://{it.address}{it.peer.path}",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 60)
    found = json.loads(done.stdout)["result"]
    if found["req2xx"] == 0 or found["req4xx"] or found["req5xx"]:
        raise SystemExit(f"bench: {it.peer.name} did not answer bombardier well")
    return float(found["req2xx"] / found["timeTakenSeconds"])
