"""What `make dist` made: the same bytes from the same sources, and of use where nothing of the project is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.support.configuration import ROOT
from e2e.support.machine import WAIT, until

DIST = ROOT / "build" / "dist"
VERSION = (ROOT / "VERSION").read_text().strip()
README = (ROOT / "README.md").read_text()


def run(*command: str | Path, where: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=where, env=clean() | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def clean() -> dict[str, str]:
    dropped = ("DSPEX_", "PYTHON", "VIRTUAL_ENV", "XDG_RUNTIME_DIR", "MAKE", "npm_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def sums(dist: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in dist.iterdir() if p.name != "SHA256SUMS"}


def block(language: str) -> str:
    """The README's example in that language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    """From another folder, with another umask, at another time of day."""
    copy = tmp_path / "elsewhere"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, tracked)):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    (copy / "clients/node/node_modules").symlink_to(ROOT / "clients/node/node_modules")
    when = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True)
    script = f"umask 027; exec {sys.executable} scripts/dist.py"
    run("sh", "-c", script, where=copy, SOURCE_DATE_EPOCH=when.stdout.strip(), TZ="Pacific/Auckland")
    assert sums(copy / "build/dist") == sums(DIST)


def test_one_version() -> None:
    names = sorted(sums(DIST))
    assert [name for name in names if VERSION not in name] == []
    kinds = [re.sub(re.escape(VERSION), "V", name) for name in names]
    assert [kind for kind in kinds if not kind.startswith("dspex_sidecar-V-py3-none-manylinux")] == [
        "dspex-V-py3-none-any.whl",
        "dspex-V.tgz",
        "dspex-sidecar_V_amd64.deb",
        "dspex-sidecar_V_arm64.deb",
        "dspex_worker-V-py3-none-any.whl",
    ]


class Installed:
    """A clean environment with what the wheels bring, and a sidecar of it that serves the README's application."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / "bin"
        wheels = ("dspex-sidecar", "dspex-worker", "dspex")
        pip: list[str | Path] = [self.bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--find-links", DIST, *[f"{name}=={VERSION}" for name in wheels], where=folder)
        (folder / "app.py").write_text(block("python"))
        (folder / "dspex.toml").write_text('[listen]\nsocket = "s"\n[pools.default]\napp = "app:app"\nsize = 1\n')
        self.environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "DSPEX_SOCKET": str(folder / "s")}

    def sidecar(self, *arguments: str) -> str:
        return run(self.bin / "dspex-sidecar", *arguments, where=self.folder, **self.environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    one = Installed(tmp_path_factory.mktemp("i"))
    log = (one.folder / "log").open("wb")
    serve: list[str | Path] = [one.bin / "dspex-sidecar", "serve", "--config", one.folder / "dspex.toml"]
    with log, subprocess.Popen(serve, cwd="/", env=clean() | one.environment, stdout=log, stderr=log) as process:
        try:
            until(lambda: "worker ready" in (one.folder / "log").read_text() or process.poll(), "a worker is ready")
            yield one
            process.terminate()
            assert process.wait(WAIT) == 0
        finally:
            process.kill()
            print((one.folder / "log").read_text())


def test_the_wheels(installed: Installed) -> None:
    assert VERSION in installed.sidecar("version")
    assert json.loads(installed.sidecar("call", "echo", '{"value": "hello"}', "--json"))["result"] == "hello"
    code = (
        "import dspex; c = dspex.connect(); s = c.create_session(); print(s.call('remember', {'key': 'a', 'value': 1}))"
    )
    assert run(installed.bin / "python", "-c", code, where=installed.folder, **installed.environment) == "1\n"
    listed = json.loads(run(installed.bin / "python", "-m", "pip", "list", "--format=json", where=installed.folder))
    assert {one["name"] for one in listed} - {"pip", "setuptools"} == {
        "dspex",
        "dspex-sidecar",
        "dspex-worker",
        "msgpack",
    }


def test_the_npm_package(installed: Installed) -> None:
    project = installed.folder / "project"
    project.mkdir()
    (project / "package.json").write_text('{"name": "project", "private": true, "type": "module"}')
    run("npm", "install", "--silent", "--offline", "--no-audit", DIST / f"dspex-{VERSION}.tgz", where=project)
    (project / "example.js").write_text(block("ts") + "client.close();\n")
    said = run("node", "example.js", where=project, **installed.environment)
    assert said == "hello\n1\n0\n1\n2\n"


@pytest.mark.parametrize(("arch", "machine"), [("amd64", 62), ("arm64", 183)])
def test_the_debian_package(arch: str, machine: int, tmp_path: Path) -> None:
    deb = DIST / f"dspex-sidecar_{VERSION}_{arch}.deb"
    fields = run("dpkg-deb", "--field", deb, where=tmp_path)
    assert f"Version: {VERSION}\nArchitecture: {arch}\n" in fields
    assert " root/root " in run("dpkg-deb", "--contents", deb, where=tmp_path)
    run("dpkg-deb", "--extract", deb, tmp_path, where=tmp_path)
    run("dpkg-deb", "--control", deb, tmp_path / "control", where=tmp_path)
    for script in ("postinst", "prerm"):
        run("sh", "-n", tmp_path / "control" / script, where=tmp_path)
    program = tmp_path / "usr/bin/dspex-sidecar"
    head = program.read_bytes()[:20]
    assert int.from_bytes(head[18:20], "little") == machine  # of the ELF header
    if os.uname().machine == {62: "x86_64", 183: "aarch64"}[machine]:
        assert VERSION in run(program, "version", where=tmp_path)
        run(program, "check", "--config", tmp_path / "etc/dspex/dspex.toml", where=tmp_path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_the_unit(tmp_path: Path) -> None:
    unit = Path("usr/lib/systemd/system/dspex-sidecar.service")
    run("dpkg-deb", "--extract", DIST / f"dspex-sidecar_{VERSION}_amd64.deb", tmp_path, where=tmp_path)
    text = (tmp_path / unit).read_text().replace("/usr/bin/dspex-sidecar", str(tmp_path / "usr/bin/dspex-sidecar"))
    (tmp_path / unit.name).write_text(text)
    assert "SystemCallErrorNumber=" in text, "a library that tries a call would be killed"
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert unit.name not in said.stderr, said.stderr
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", tmp_path / unit.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout
