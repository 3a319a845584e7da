"""A stand-alone worker that a program starts for itself: one process, no pool."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence


class Bridge:
    """`python -m dspex_worker` on a socket of its own. It ends with the process that started it, however that ends."""

    def __init__(self, app: str | None, config: str | None, python: str | None) -> None:
        folder = tempfile.mkdtemp(prefix="dspex-")
        self._clear = weakref.finalize(self, _remove, folder, os.getpid())  # at this process's exit, too
        self.path = f"{folder}/s"
        options: Sequence[str] = (["--config", config] if config else []) + ([app] if app else [])
        command = [python or sys.executable, "-m", "dspex_worker", "--end-with-stdin", "--socket", self.path, *options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr)

    def starts(self) -> bool:
        """Whether it runs, and does not listen yet."""
        return self.exit_code is None and not os.path.exists(self.path)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def stop(self, seconds: float) -> None:
        """Have it finish what it is at, for so long at most."""
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._clear()


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a forked child, which may exit long before it
        shutil.rmtree(folder, ignore_errors=True)
