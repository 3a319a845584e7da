"""Build the Dockerfiles without a daemon, and test what was built: `make image-test`.

usage: scripts/image.py TEST-COMMAND...

It runs as root with buildah. Base images are those of GO_IMAGE, PYTHON_IMAGE and NODE_IMAGE in the environment. Where
one is not given, no image is pulled: Debian's base is made with debootstrap, and Go or Node is this machine's. The
machine's certificates are mounted for the downloads, and Go's caches. All but what was built is kept in build/image.
The test command gets DSPEX_IMAGES: a folder with, for each image, NAME (its files) and NAME.json (its configuration).
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "image"
# vfs: no overlay is needed, and so no kernel's help.
BUILDAH = ["buildah", "--storage-driver", "vfs", "--root", str(WORK / "store"), "--runroot", str(WORK / "run")]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
# By the targets of the Dockerfiles; "image" is the last stage of the first. The others are in that of the examples.
IMAGES = {name: f"localhost/dspex-{name}" for name in ("image", "sidecar", "workers", "express", "fastapi")}
FILES = {"image": "Dockerfile", "sidecar": "Dockerfile"}
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


def base(name: str, **more: str) -> str:
    """Make a base image of Debian and the files named, each by where it goes, and return its name."""
    if name not in buildah("images", "--format", "{{.Name}}").split():
        say(f"make the base image {name}")
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, debian(), "/")
        for there, here in more.items():
            buildah("add", "--quiet", container, here, there)
        if npm := next((there for there in more if there.endswith("/npm")), None):
            link = ["ln", "-s", f"{npm}/bin/npm-cli.js", "/usr/local/bin/npm"]
            buildah("run", "--isolation", "chroot", container, "--", *link)
        buildah("config", "--env", f"PATH={PATH}", "--env", "GOTOOLCHAIN=local", container)
        buildah("commit", "--quiet", "--rm", container, name)
    return name


def bases() -> dict[str, str]:
    """Return the base images by the Dockerfiles' arguments."""
    npm = Path(run("npm", "root", "--global")) / "npm"
    given = {name: os.environ.get(name, "") for name in ("GO_IMAGE", "PYTHON_IMAGE", "NODE_IMAGE")}
    node = {"/usr/local/bin/node": run("node", "-p", "process.execPath"), "/usr/local/lib/node_modules/npm": str(npm)}
    return {
        "GO_IMAGE": given["GO_IMAGE"]
        or base("localhost/dspex-base-go", **{"/usr/local/go": run("go", "env", "GOROOT")}),
        "PYTHON_IMAGE": given["PYTHON_IMAGE"] or base("localhost/dspex-base-python"),
        "NODE_IMAGE": given["NODE_IMAGE"] or base("localhost/dspex-base-node", **node),
        "SIDECAR_IMAGE": IMAGES["image"],
    }


def volumes() -> list[str]:
    """Return the options that mount this machine's certificates, where each client looks for them, and Go's caches."""
    (WORK / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
    (WORK / "npmrc").write_text(f"cafile={CERTIFICATES}\n")
    go = json.loads(run("go", "env", "-json", "GOMODCACHE", "GOCACHE"))
    mounted = {
        CERTIFICATES: f"{CERTIFICATES}:ro",
        str(WORK / "pip.conf"): "/etc/pip.conf:ro",
        str(WORK / "npmrc"): "/usr/local/etc/npmrc:ro",
        go["GOMODCACHE"]: "/root/go/pkg/mod",
        go["GOCACHE"]: "/root/.cache/go-build",
    }
    return [part for outside, inside in mounted.items() for part in ("--volume", f"{outside}:{inside}")]


def build(name: str, arguments: Mapping[str, str]) -> None:
    """Build one of the images."""
    began = time.monotonic()
    options = ["--isolation", "chroot", "--format", "docker", "--layers=false", "--quiet", *volumes()]
    options += ["--tag", IMAGES[name], "--file", str(ROOT / FILES.get(name, "deploy/kubernetes/Dockerfile"))]
    if name != "image":
        options += ["--target", name]
    for argument, value in arguments.items():
        options += ["--build-arg", f"{argument}={value}"]
    log = WORK / f"{name}.log"
    with log.open("wb") as out:
        done = subprocess.run([*BUILDAH, "bud", *options, str(ROOT)], stdout=out, stderr=out, check=False)
    if done.returncode != 0:
        sys.exit(f"image  {name} was not built; the output is in {log.relative_to(ROOT)}")
    say(f"built {name} in {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def shown(name: str, folder: Path) -> Iterator[None]:
    """Have an image's files and its configuration in the folder."""
    container = buildah("from", "--pull-never", IMAGES[name])
    try:
        (folder / name).symlink_to(buildah("mount", container))
        (folder / f"{name}.json").write_text(buildah("inspect", "--type", "image", IMAGES[name]))
        yield
    finally:
        buildah("rm", container)


def main(test: list[str]) -> int:
    """Return the test command's exit code, 2 where nothing can be built here."""
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if missing or os.getuid() != 0:
        print(f"image  wants root, and of Debian's packages: {' '.join(missing) or 'nothing more'}", file=sys.stderr)
        return 2
    built = WORK / "built"
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    try:
        arguments = {**bases(), "TARGETARCH": run("go", "env", "GOARCH")}
        with contextlib.ExitStack() as stack:
            for name in IMAGES:
                build(name, arguments)
                stack.enter_context(shown(name, built))
            return subprocess.run(test, env={**os.environ, "DSPEX_IMAGES": str(built)}, check=False).returncode
    finally:
        shutil.rmtree(built)
        for tag in IMAGES.values():  # what was not built is not there
            subprocess.run([*BUILDAH, "rmi", tag], capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
