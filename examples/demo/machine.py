"""What the demo needs of the machine: the sidecar's process, what it leaves behind, and its configuration."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build"
SIDECAR = BUILD / "dspex-sidecar"
SOCKET = BUILD / "demo.sock"
LOG = BUILD / "demo.log"

_STARTING = 120.0  # seconds, on a slow machine: four workers and a model
_ENDING = 15.0


def configuration(model: str | None) -> Path:
    """The configuration to use: the one that ships, or for a provider's ``model`` one made from it in build/."""
    shipped = HERE / "dspex.toml"
    if not model:
        return shipped
    provider = model.partition("/")[0]
    variable = f"{re.sub(r'[^A-Z0-9]', '_', provider.upper())}_API_KEY"
    if not os.environ.get(variable):
        raise SystemExit(f"demo: MODEL={model} needs its provider's key in the environment: {variable}")
    text = shipped.read_text().split("# A small language model")[0]
    text = text.replace('"../../build/', f'"{BUILD}/')
    text = text.replace("env = { ", f'env = {{ PYTHONPATH = "{HERE}", ')
    text += f'[models.provider]\nmodel = "{model}"\napi_key = "env:{variable}"\nadapter = "json"\nnum_retries = 2\n'
    made = BUILD / "demo.toml"
    made.write_text(text)
    return made


class Sidecar:
    """The sidecar's process, for as long as the context lasts; its log goes to build/demo.log."""

    def __init__(self, config: Path) -> None:
        self._command = [str(SIDECAR), "serve", "--config", str(config)]
        self._family: dict[int, str] = {}  # the sidecar and all that came from it, with when each was started

    def __enter__(self) -> Sidecar:
        if not SIDECAR.exists():
            raise SystemExit(f"demo: there is no {SIDECAR.relative_to(ROOT)}: run `make build`")
        if _somebody_listens():
            raise SystemExit(f"demo: {SOCKET.relative_to(ROOT)} is in use (by `make run`?): stop that first")
        self.begun = time.monotonic()
        with LOG.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT)
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def wait_until_it_listens(self) -> None:
        """Wait until the socket takes connections; say why where the sidecar ends instead."""
        until = time.monotonic() + _STARTING
        while not _somebody_listens():
            if self._process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"demo: the sidecar did not start:\n{_last_lines(LOG)}")
            time.sleep(0.05)

    def count_processes(self) -> int:
        """Note all processes that came from the sidecar, and return how many there are."""
        found = {self._process.pid, *_descendants(self._process.pid)}
        self._family |= {pid: started for pid in found if (started := _started(pid))}
        return len(found)

    def stop(self) -> float:
        """End the sidecar as an operator does, with SIGTERM; returns the seconds that it took."""
        begun = time.monotonic()
        if self._process.poll() is None:
            self.count_processes()
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_ENDING)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return time.monotonic() - begun

    def left_running(self) -> list[int]:
        """The processes of the sidecar's that still run, a second after its end at most."""
        until = time.monotonic() + 1.0
        while left := [pid for pid, started in self._family.items() if _started(pid) == started]:
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        return left


def files() -> set[Path]:
    """Every file of the repository outside build/ and .git/."""
    found = set()
    for folder, folders, names in os.walk(ROOT):
        if Path(folder) == ROOT:
            folders[:] = [name for name in folders if name not in ("build", ".git")]
        found |= {Path(folder, name).relative_to(ROOT) for name in names}
    return found


def _somebody_listens() -> bool:
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(str(SOCKET))
        except OSError:
            return False
        return True


def _descendants(root: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {root}} - found:
        found |= more
    return found


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's clock ticks; None where it has ended."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _last_lines(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:])
