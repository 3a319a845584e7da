"""Configurations for the servers under test."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
SIDECAR = ROOT / "build" / "dspex-sidecar"
APPLICATIONS = HERE / "applications"

Tables = Mapping[str, Any]

_BASE: dict[str, Any] = {
    "listen": {"socket": "s"},
    "pools": {
        "default": {
            "python": sys.executable,
            "size": 2,
            "max_overflow": 0,
            "tracebacks": True,
            "env": {"PYTHONPATH": str(APPLICATIONS)},
        }
    },
}


def write(folder: Path, tables: Tables) -> Path:
    """Write a configuration with two workers, over which ``tables`` go, and return its path."""
    path = folder / "dspex.toml"
    path.write_text("\n".join(_lines("", merged(_BASE, tables))) + "\n")
    return path


def merged(below: Tables, above: Tables) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


def _lines(name: str, table: Tables) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{name}]"] if name and plain else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]  # what JSON writes of these is TOML
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _lines(f"{name}.{key}" if name else key, value)
    return lines
