"""Where everything is: the repository's folders and what was built."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
BUILD = ROOT / "build"
PYTHON = BUILD / "venv" / "bin" / "python"
PEERS_PYTHON = BUILD / "bench-venv" / "bin" / "python"
SIDECAR = BUILD / "dspex-sidecar"
LOAD = BUILD / "bench-load"
LOGS = BUILD / "logs"
