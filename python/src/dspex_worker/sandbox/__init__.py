"""What code that an LM wrote is run in: Deno and Pyodide, as files of this environment's, which nothing is fetched for.

``python -m dspex_worker.sandbox`` makes it, once, where there is a network; a worker only finds it. DSPy's own way
fetches both Pyodide and a module of another host's when code is first run.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PYODIDE: Final = "0.29.4"  # the one that DSPy's runner imports
MAKE_IT: Final = "pip install 'dspex-worker[sandbox]' && python -m dspex_worker.sandbox"


class SandboxMissing(Exception):
    """There is nothing to run code in; the message says what to do."""


@dataclass(frozen=True)
class Setup:
    """Where the parts are; all paths are real ones, since Deno compares them as text."""

    deno: str
    runner: str
    folder: str

    def command(self, memory: int) -> list[str]:
        """Start the runner, without permissions, environment or fetching; ``memory`` in bytes is that of the code."""
        mebibytes, pages = memory >> 20, memory >> 16
        return [
            *(shutil.which("env") or "/usr/bin/env", "-i", "NO_COLOR=1", "DENO_NO_UPDATE_CHECK=1"),
            *("DENO_DIR=/dev/null/none", "DENO_NO_PACKAGE_JSON=1"),  # a folder that cannot be: nothing is kept
            *(self.deno, "run", "--quiet", "--no-prompt", "--no-config", "--no-lock"),
            *("--cached-only", "--no-remote", "--no-npm", f"--import-map={self.folder}/imports.json"),
            f"--v8-flags=--wasm-max-mem-pages={pages},--max-old-space-size={mebibytes}",
            f"--allow-read={self.runner},{self.folder}",
            # The runner takes back the right to read the folder before it runs anything.
            *(self.runner, "", f"--dspy-deno-dir={self.folder}"),
        ]


def folder() -> Path:
    """Part of the environment, as its packages are."""
    return Path(sys.prefix).resolve() / "share" / "dspex-sandbox"


def find_deno() -> str:
    """Raises SandboxMissing."""
    beside = Path(sys.prefix) / "bin" / "deno"  # where the package `deno` puts it
    found = str(beside) if beside.is_file() else shutil.which("deno")
    if found is None:
        raise SandboxMissing(f"Deno is not there: {MAKE_IT}")
    return os.path.realpath(found)


def find() -> Setup:
    """Raises SandboxMissing."""
    deno, made, runner = find_deno(), folder(), find_runner()
    if not (made / "snapshot.bin").is_file():
        raise SandboxMissing(f"{made} is not there: {MAKE_IT}")
    if any((made / name).read_bytes() != (Path(__file__).parent / name).read_bytes() for name in FILES):
        raise SandboxMissing(f"{made} is of another version: python -m dspex_worker.sandbox")
    return Setup(deno, str(runner), str(made))


FILES: Final = ("imports.json", "pyodide.js", "lines.js", "snapshot.js")


def find_runner() -> Path:
    """DSPy's. Raises SandboxMissing where it is not the one that all this is made for."""
    import dspy.primitives

    runner = Path(dspy.primitives.__file__).resolve().parent / "runner.js"
    if not runner.is_file() or f'"npm:pyodide@{PYODIDE}/pyodide.js"' not in runner.read_text():
        raise SandboxMissing(f"DSPy {dspy.__version__} asks for another Pyodide than {PYODIDE}")
    return runner
