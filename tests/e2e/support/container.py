"""The conditions of a container, without a container's engine: for tests of the sidecar and of its image."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from e2e.support import machine
from e2e.support.machine import until

_PREPARE = r"""
set -eu
new=$1
mount --bind "$2" "$new"
folder() { mkdir -p "$new$1" && mount -t tmpfs -o "$2" tmpfs "$new$1"; }
volume() { mkdir -p "$new$2" && mount --bind "$1" "$new$2" && mount -o "remount,bind,$3" "$new$2"; }
mkdir -p "$new/proc" "$new/dev"
mount --rbind /dev "$new/dev"
mount -t proc proc "$new/proc"
"""

_ENTER = r"""
mount -o remount,bind,ro "$new"
exec /usr/sbin/chroot "$new" setpriv --reuid "$3" --regid "$4" --groups "$5" --no-new-privs \
    --bounding-set=-all --inh-caps=-all env --chdir "$6" "${@:7}"
"""


class Container:
    """One command as process 1 of a namespace of its own, with a root that cannot be written, a uid without a passwd
    entry, no capability, and an environment of its own. It sees the machine's network.

    ``groups`` are further groups, with commas. ``root`` is the root of its files; ``folders`` are empty ones that it
    may write, with the options of their mounts; ``volumes`` are folders from outside by where they are inside,
    read-only where the path outside ends with ``:ro``.
    """

    def __init__(
        self,
        command: list[str],
        *,
        at: Path,
        root: Path = Path("/"),
        uid: int,
        gid: int = 0,
        groups: str = "0",
        environment: Mapping[str, str],
        workdir: str = "/",
        folders: Mapping[str, str],
        volumes: Mapping[str, str],
    ) -> None:
        self.uid = uid
        self.gid = gid
        self.environment = dict(environment)
        self._log = at / "container.log"
        new = at / "root"
        new.mkdir()
        steps = [_PREPARE]
        steps += [f"folder {shlex.quote(path)} {shlex.quote(options)}" for path, options in folders.items()]
        for inside, outside in volumes.items():
            path, _, mode = outside.partition(":")
            steps.append(f"volume {shlex.quote(path)} {shlex.quote(inside)} {mode or 'rw'}")
        script = "\n".join([*steps, _ENTER])
        namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *namespaces,
                    "bash",
                    "-c",
                    script,
                    "bash",
                    str(new),
                    str(root),
                    str(uid),
                    str(gid),
                    groups,
                    workdir,
                    *command,
                ],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def init(self) -> int:
        """The pid outside of its process 1."""

        def found() -> int | None:
            assert self.process.poll() is None, self.log
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return int(children[0]) if children else None

        return until(found, "process 1")

    def path(self, inside: str) -> Path:
        """Where something inside is to be found from outside."""
        return Path(f"/proc/{self.init}/root{inside}")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as a probe by exec is."""
        return self._inside(["--setuid", str(self.uid), "--setgid", str(self.gid)], command)

    def run_beside(self, uid: int, group: int, shared: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a pod's other container would: another uid, in the group, the shared folder read-only."""
        become = (
            f"setpriv --reuid {uid} --regid {uid} --groups {group} --no-new-privs --bounding-set=-all --inh-caps=-all"
        )
        script = f'mount -o remount,bind,ro {shlex.quote(shared)} && exec {become} "$@"'
        return self._inside([], ("unshare", "--mount", "sh", "-c", script, "sh", *command))

    def _inside(self, become: list[str], command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--target", str(self.init), "--mount", "--pid", "--root", "--wd", *become, "--"]
        return subprocess.run(
            [*enter, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=machine.WAIT,
            check=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.kill(self.init, signal.SIGKILL)  # and with it all inside; its new uid has undone --kill-child
        self.process.wait()


def hidden(*paths: Path) -> list[Path]:
    """The outermost folders above the paths that not everybody may pass through."""
    found = []
    for path in paths:
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                found.append(folder)
                break
    return found
