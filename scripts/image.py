"""Build the Dockerfile without a daemon, and test what was built: `make image-test`.

usage: scripts/image.py TEST-COMMAND...

It runs as root with buildah. Base images are those of GO_IMAGE and PYTHON_IMAGE in the environment. Where they are not
given, no image is pulled: Debian's base is made with debootstrap, and Go is this machine's. The machine's certificates
are mounted for the downloads, and Go's caches. All is kept in build/image; the built image is removed at the end.
The test command gets DSPEX_IMAGE: a folder with `root` (the image's files), `config.json` (its configuration) and
`binary` (the files of the target with the binary alone).
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "image"
# vfs: no overlay is needed, and so no kernel's help.
BUILDAH = ["buildah", "--storage-driver", "vfs", "--root", str(WORK / "store"), "--runroot", str(WORK / "run")]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PATH = "/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def say(what: str) -> None:
    print(f"image  {what}", flush=True)


def run(*command: str | Path) -> str:
    """Run a command whose output is the answer."""
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def buildah(*arguments: str | Path) -> str:
    return run(*BUILDAH, *arguments)


def debian() -> Path:
    """Return the folder of a minimal Debian with Python; made once."""
    folder = WORK / SUITE
    done = folder / "etc" / "dspex-made"
    if not done.exists():
        say(f"debootstrap {SUITE} from {MIRROR}")
        shutil.rmtree(folder, ignore_errors=True)
        with (WORK / "debootstrap.log").open("wb") as log:
            include = "--include=python3,python3-venv,ca-certificates"
            command = ["debootstrap", "--variant=minbase", include, SUITE, str(folder), MIRROR]
            subprocess.run(command, stdout=log, stderr=log, check=True)
        done.touch()
    return folder


def base(name: str, *more: str) -> str:
    """Make a base image of Debian and the folders named, and return its name."""
    if name not in buildah("images", "--format", "{{.Name}}"):
        say(f"make the base image {name}")
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, debian(), "/")
        for folder in more:
            buildah("add", "--quiet", container, folder, "/usr/local/go")
        buildah("config", "--env", f"PATH={PATH}", "--env", "GOTOOLCHAIN=local", container)
        buildah("commit", "--quiet", "--rm", container, name)
    return name


def build(target: str, name: str) -> None:
    began = time.monotonic()
    (WORK / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
    go = json.loads(run("go", "env", "-json", "GOROOT", "GOMODCACHE", "GOCACHE", "GOARCH"))
    images = {
        "GO_IMAGE": os.environ.get("GO_IMAGE") or base("localhost/dspex-base-go", go["GOROOT"]),
        "PYTHON_IMAGE": os.environ.get("PYTHON_IMAGE") or base("localhost/dspex-base-python"),
        "TARGETARCH": go["GOARCH"],
    }
    volumes = {
        CERTIFICATES: f"{CERTIFICATES}:ro",
        str(WORK / "pip.conf"): "/etc/pip.conf:ro",
        go["GOMODCACHE"]: "/root/go/pkg/mod",
        go["GOCACHE"]: "/root/.cache/go-build",
    }
    options = ["--isolation", "chroot", "--format", "docker", "--layers=false", "--quiet", "--tag", name]
    if target:
        options += ["--target", target]
    for argument, value in images.items():
        options += ["--build-arg", f"{argument}={value}"]
    for outside, inside in volumes.items():
        options += ["--volume", f"{outside}:{inside}"]
    with (WORK / f"{target or 'image'}.log").open("wb") as log:
        done = subprocess.run([*BUILDAH, "bud", *options, str(ROOT)], stdout=log, stderr=log, check=False)
    if done.returncode != 0:
        sys.exit(f"image  the build failed; its output is in {WORK / (target or 'image')}.log")
    say(f"built {name} in {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def mounted(name: str) -> Iterator[Path]:
    container = buildah("from", "--pull-never", name)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def main(test: list[str]) -> int:
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if missing or os.getuid() != 0:
        print(f"image  wants root, and of Debian's packages: {' '.join(missing) or 'nothing more'}", file=sys.stderr)
        return 2
    WORK.mkdir(parents=True, exist_ok=True)
    names = {"": "localhost/dspex-sidecar", "sidecar": "localhost/dspex-binary"}
    try:
        for target, name in names.items():
            build(target, name)
        with mounted(names[""]) as root, mounted(names["sidecar"]) as binary, contextlib.ExitStack() as stack:
            folder = WORK / "built"
            folder.mkdir(exist_ok=True)
            stack.callback(shutil.rmtree, folder)
            (folder / "config.json").write_text(buildah("inspect", "--type", "image", names[""]))
            (folder / "root").symlink_to(root)
            (folder / "binary").symlink_to(binary)
            return subprocess.run(test, env={**os.environ, "DSPEX_IMAGE": str(folder)}, check=False).returncode
    finally:
        for name in names.values():  # what was not built is not there
            subprocess.run([*BUILDAH, "rmi", name], capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
