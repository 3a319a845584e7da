"""Make what is published, in build/dist: wheels, the npm package, Debian packages. `make dist`.

usage: scripts/dist.py      (with the Python of build/venv; it wants Go, npm and dpkg-deb besides)

The same sources give the same bytes: times are those of SOURCE_DATE_EPOCH, else of the last commit. The version is that
of the file VERSION; a test holds pyproject.toml and package.json to it.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "build" / "dist"
PACKAGING = ROOT / "packaging" / "debian"
VERSION = (ROOT / "VERSION").read_text().strip()
SUMMARY = "A sidecar that keeps Python workers with DSPy warm behind a Unix socket"
# The binary is static: the tags say that any Linux of the architecture will do, with glibc or musl.
PLATFORMS = {
    "amd64": "manylinux2014_x86_64.manylinux_2_17_x86_64.musllinux_1_1_x86_64",
    "arm64": "manylinux2014_aarch64.manylinux_2_17_aarch64.musllinux_1_1_aarch64",
}


def run(*command: str | Path, where: Path = ROOT, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=where,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"dist  failed with exit code {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}")


def epoch() -> int:
    """Return the time that all files get."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    said = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    return (
        int(said.stdout) if said.returncode == 0 and said.stdout else 1_767_225_600
    )  # of an archive without a history


def binary(arch: str, folder: Path) -> Path:
    path = folder / f"dspex-sidecar-{arch}"
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w -X main.version={VERSION}"]
    run("go", "build", *flags, "-o", path, "./cmd/dspex-sidecar", CGO_ENABLED="0", GOOS="linux", GOARCH=arch)
    return path


def binary_wheel(program: Path, tags: str, when: int) -> None:
    """Write the wheel that puts the program beside an environment's Python."""
    name = f"dspex_sidecar-{VERSION}"
    metadata = [
        "Metadata-Version: 2.4",
        "Name: dspex-sidecar",
        f"Version: {VERSION}",
        f"Summary: {SUMMARY}",
        "License-Expression: MIT",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
        "Description-Content-Type: text/markdown",
        "",
        (ROOT / "README.md").read_text(),
    ]
    said = ["Wheel-Version: 1.0", "Generator: dspex-sidecar", "Root-Is-Purelib: false"]
    said += [f"Tag: py3-none-{tag}" for tag in tags.split(".")]
    files = {
        f"{name}.data/scripts/dspex-sidecar": program.read_bytes(),
        f"{name}.dist-info/METADATA": "\n".join(metadata).encode(),
        f"{name}.dist-info/WHEEL": ("\n".join(said) + "\n").encode(),
        f"{name}.dist-info/licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    record = f"{name}.dist-info/RECORD"
    lines = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    stamp = time.gmtime(max(when, 315_532_800))[:6]  # a zip's times begin in 1980
    with zipfile.ZipFile(DIST / f"{name}-py3-none-{tags}.whl", "w") as wheel:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path, stamp)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            wheel.writestr(entry, data)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def python_wheels() -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "-w", DIST, "./clients/python", "./python")


def npm_package(folder: Path) -> None:
    """Pack a copy: npm takes the files' modes, which are the checkout's umask's."""
    client, copy = ROOT / "clients" / "node", folder / "npm"
    shutil.rmtree(client / "dist", ignore_errors=True)
    run("npm", "run", "--silent", "build", where=client)
    shutil.copytree(client / "dist", copy / "dist")
    for name in ("package.json", "LICENSE"):
        shutil.copy(client / name, copy)
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    run("npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", DIST, where=copy)


def debian_package(program: Path, arch: str, when: int, folder: Path) -> None:
    """Lay out the package's files and have dpkg-deb put them together."""
    tree = folder / arch
    documents = tree / "usr/share/doc/dspex-sidecar"
    copied: Mapping[Path, tuple[Path, int]] = {
        tree / "usr/bin/dspex-sidecar": (program, 0o755),
        tree / "usr/lib/systemd/system/dspex-sidecar.service": (PACKAGING / "dspex-sidecar.service", 0o644),
        tree / "usr/lib/sysusers.d/dspex.conf": (PACKAGING / "sysusers.conf", 0o644),
        tree / "etc/dspex/dspex.toml": (PACKAGING / "dspex.toml", 0o644),
        documents / "copyright": (ROOT / "LICENSE", 0o644),
        documents / "config.example.toml": (ROOT / "config.example.toml", 0o644),
        tree / "DEBIAN/postinst": (PACKAGING / "postinst", 0o755),
        tree / "DEBIAN/prerm": (PACKAGING / "prerm", 0o755),
    }
    for path, (source, mode) in copied.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
        path.chmod(mode)
    size = sum(path.stat().st_size for path in copied) // 1024
    control = {
        "Package": "dspex-sidecar",
        "Version": VERSION,
        "Architecture": arch,
        "Maintainer": "The dspex-sidecar authors <dspex-sidecar@localhost>",
        "Installed-Size": str(size),
        "Recommends": "python3 (>= 3.11), python3-venv, systemd",
        "Section": "net",
        "Priority": "optional",
        "Description": f"{SUMMARY}\n The program and its service. Its workers run in a Python environment of your own.",
    }
    (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
    (tree / "DEBIAN/conffiles").write_text("/etc/dspex/dspex.toml\n")
    for path in [tree, *tree.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (when, when))
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, DIST / f"dspex-sidecar_{VERSION}_{arch}.deb")


def main() -> None:
    when = epoch()
    os.environ["SOURCE_DATE_EPOCH"] = str(when)
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for arch, tags in PLATFORMS.items():
            program = binary(arch, folder)
            binary_wheel(program, tags, when)
            debian_package(program, arch, when, folder)
        npm_package(folder)
    python_wheels()
    made = sorted(DIST.iterdir())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made]
    (DIST / "SHA256SUMS").write_text("".join(sums))
    for path in made:
        print(f"dist  {path.relative_to(ROOT)}  {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
