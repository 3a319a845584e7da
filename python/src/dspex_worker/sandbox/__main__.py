"""``python -m dspex_worker.sandbox``: fetch Pyodide by Deno, check it, and make the sandbox's folder of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from dspex_worker.sandbox import FILES, PYODIDE, SandboxMissing, find, find_deno, find_runner, folder

# What of the npm package is used, as it was published.
_SHA256: Final = {
    "pyodide.mjs": "8fdfed5eaf81bde14bcdeaeea11f2672675b2362248f8537446b6fda5e4a4751",
    "pyodide.asm.js": "fe75e97ef2c7a10c41f23b96344c553c7c1c62821bb206080dbb24941c06d5f3",
    "pyodide.asm.wasm": "10090fe41e019ae669d512e1f747021a8db2aaab0f6dd6f85fa9368c55d681e3",
    "python_stdlib.zip": "92cb24faa546818f3ef4050fd5bd2b6487bd2042efed2113af141d035f30efb4",
    "pyodide-lock.json": "14d2c2dba101277999e17135e653d8f15389ad1437f53eae213bf0c3cdff723d",
}


def main() -> None:
    """Exit with a message where it cannot be made."""
    try:
        find()
    except SandboxMissing:
        pass
    else:
        print(f"{folder()} is there")  # noqa: T201 - a command's answer
        return
    try:
        find_runner()
        make(find_deno(), folder())
    except (SandboxMissing, OSError) as error:
        sys.exit(f"sandbox: {error}")
    print(f"{folder()} is made")  # noqa: T201


def make(deno: str, made: Path) -> None:
    """Make the folder, whole or not at all."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent, prefix=".dspex-sandbox-") as temporary:
        cache, new = Path(temporary, "cache"), Path(temporary, "new")
        (new / "pyodide").mkdir(parents=True)
        new.chmod(0o755)  # workers may be of another user
        # By Deno, which knows .npmrc, NPM_CONFIG_REGISTRY and its credentials, proxies and certificates.
        _run([deno, "cache", "--quiet", "--no-config", "--no-lock", f"npm:pyodide@{PYODIDE}"], DENO_DIR=str(cache))
        fetched = list(cache.glob(f"npm/**/pyodide/{PYODIDE}"))
        if len(fetched) != 1:
            raise SandboxMissing(f"Deno fetched no pyodide {PYODIDE}")
        for name, wanted in _SHA256.items():
            data = (fetched[0] / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != wanted:
                raise SandboxMissing(f"{name} of pyodide {PYODIDE} is not what was published")
            (new / "pyodide" / name).write_bytes(data)
        for name in FILES:
            shutil.copyfile(Path(__file__).parent / name, new / name)
        own = [f"--allow-{right}={new.resolve()}" for right in ("read", "write")]
        sealed = ["--quiet", "--no-prompt", "--no-config", "--no-lock", "--cached-only", "--no-remote", "--no-npm"]
        _run([deno, "run", *sealed, *own, str(new.resolve() / "snapshot.js")], DENO_DIR=str(cache))
        shutil.rmtree(made, ignore_errors=True)
        new.rename(made)


def _run(command: list[str], **environment: str) -> None:
    environment = {**os.environ, "DENO_NO_PACKAGE_JSON": "1", "NO_COLOR": "1", **environment}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise SandboxMissing(f"{' '.join(command[:2])} failed with exit code {done.returncode}: {said}")


if __name__ == "__main__":
    main()
