"""The socket: stale, in use, removed, at a place where it cannot be; and descriptors that run out."""

from __future__ import annotations

import os
import resource
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from e2e.faults.conftest import BASE
from e2e.support import machine
from e2e.support.configuration import SIDECAR, merged, write
from e2e.support.machine import until
from e2e.support.servers import Server


def refused(folder: Path, path: str, code: int = 1) -> str:
    """Start a sidecar that cannot have its socket; returns what it says."""
    config = write(folder, merged(BASE, {"listen": {"socket": path}}))
    done = subprocess.run(
        [SIDECAR, "serve", "--config", config], capture_output=True, text=True, timeout=machine.WAIT, check=False
    )
    assert done.returncode == code
    return done.stdout + done.stderr


def test_one_that_was_left_behind_is_taken_over() -> None:
    server = Server("sidecar", BASE)
    os.kill(server.pid, 9)
    server.process.wait()
    assert stat.S_ISSOCK(os.stat(server.path).st_mode)
    again = subprocess.Popen([SIDECAR, "serve", "--config", server.config], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(server.path), "the next one listens")
        with server.client() as client:
            assert client.call("echo", {"value": 1}) == 1
    finally:
        again.terminate()
        assert again.wait(machine.WAIT) == 0
        server.kill()


def test_one_in_use_is_left_alone(tmp_path: Path) -> None:
    with Server("sidecar", BASE) as server:
        inode = os.stat(server.path).st_ino
        assert "another process listens there" in refused(tmp_path, server.path)
        assert os.stat(server.path).st_ino == inode
        assert server.client().call("echo", {"value": 1}) == 1


def test_one_that_is_removed_is_made_again() -> None:
    with Server("sidecar", BASE) as server:
        client = server.client().connect()
        os.unlink(server.path)
        until(lambda: _listens(server.path), "it is there again")
        assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o660
        assert client.call("echo", {"value": 1}) == 1  # connections go on
        assert server.client().call("echo", {"value": 2}) == 2
        server.logged("socket file was removed and has been made again")


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert "no socket" in refused(tmp_path, "mine")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 120))
    said = refused(tmp_path, path, 2)  # that much can be seen in the configuration
    assert f"{len(path)} bytes" in said
    assert "107" in said


def test_a_folder_that_everybody_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    said = refused(tmp_path, "open/s")
    assert "everybody" in said
    assert "777" in said
    assert not (tmp_path / "open" / "s").exists()


def test_a_folder_that_is_not_there_is_made() -> None:
    with Server("sidecar", merged(BASE, {"listen": {"socket": "a/b/s"}})) as server:
        assert server.client().call("echo", {"value": 1}) == 1
        assert not os.stat(server.folder / "a" / "b").st_mode & 0o007


def test_without_descriptors_it_waits_and_goes_on() -> None:
    with Server("sidecar", BASE) as server:
        client = server.client().connect()
        server.family()
        used = max(map(int, machine.descriptors(server.pid))) + 1
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 2, hard))
        crowd = [server.raw({}) for _ in range(8)]
        server.logged("accept failed")
        assert client.call("echo", {"value": 1}) == 1
        busy = machine.cpu_seconds(server.pid)
        client.call("sleep", {"seconds": 0.5})
        assert machine.cpu_seconds(server.pid) - busy < 0.3  # it waits, and does not spin
        for connection in crowd[:6]:
            connection.close()
        for connection in crowd[6:]:
            connection.call("hello", None, protocols=[1])
            assert connection.call("echo", value=2) == 2
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(path)
        except OSError:
            return False
    return True


@pytest.mark.parametrize("how", ["XDG_RUNTIME_DIR", "DSPEX_LISTEN_SOCKET"])
def test_where_the_environment_says(tmp_path_factory: pytest.TempPathFactory, how: str) -> None:
    folder = tmp_path_factory.mktemp("x")
    value, path = {
        "XDG_RUNTIME_DIR": (str(folder), folder / "dspex" / "dspex.sock"),
        "DSPEX_LISTEN_SOCKET": (str(folder / "s"), folder / "s"),
    }[how]
    environment = {**os.environ, how: value, "DSPEX_POOLS_DEFAULT_LAZY": "true"}
    process = subprocess.Popen([SIDECAR, "serve"], env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(str(path)), f"it listens on {path}")
    finally:
        process.terminate()
        assert process.wait(machine.WAIT) == 0
