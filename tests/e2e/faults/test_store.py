"""The store `file`: sidecars killed while they commit, disks without space, damage, a second sidecar, a lost key."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dspex import AsyncClient
from dspex.errors import ConnectionLost, SessionLost, StorageUnavailable
from e2e.support import configuration
from e2e.support.configuration import SIDECAR, merged
from e2e.support.machine import until
from e2e.support.servers import Server

CONNECTIONS, EACH = 16, 4
KILLS = 4


def tables(folder: Path, **sessions: Any) -> dict[str, Any]:
    return {
        "listen": {"socket": str(folder / "s")},
        "pools": {"default": {"app": "kept:app"}},
        "sessions": {"store": "file", "path": str(folder / "store"), **sessions},
    }


def key_file(path: Path) -> str:
    path.write_text(base64.b64encode(os.urandom(32)).decode())
    return str(path)


class Kept:
    """A session whose changes are counted: what was answered, and what was only sent."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.added: list[int] = []
        self.set = 0
        self.sent: tuple[str, int] | None = None
        self.last = 0

    async def work(self, client: AsyncClient) -> None:
        """Change the session until the sidecar is gone; calls and updates take turns."""
        session = client.session(self.id)
        try:
            while True:
                self.last += 1
                if self.last % 2:
                    self.sent = ("add", self.last)
                    await session.call("add", {"id": self.last})
                    self.added.append(self.last)
                else:
                    self.sent = ("set", self.last)
                    await session.update({"set": self.last})
                    self.set = self.last
                self.sent = None
        except ConnectionLost:
            return

    def found(self, seen: dict[str, Any]) -> None:
        """All that was answered is there, once; what was sent last is there or not."""
        what, number = self.sent or ("", 0)
        added = [self.added, [*self.added, number]] if what == "add" else [self.added]
        assert seen["log"] in added, (self.id, self.sent, seen["log"], self.added)
        assert seen["set"] in ({self.set, number} if what == "set" else {self.set}), (self.id, self.sent)
        self.added, self.set, self.sent = seen["log"], seen["set"], None


def test_killed_in_a_flood_of_commits(tmp_path: Path) -> None:
    """16 connections commit to 64 sessions, and live on over the sidecar's deaths."""
    sessions = [Kept(f"s{number}") for number in range(CONNECTIONS * EACH)]
    path, moment = str(tmp_path / "s"), random.Random(5)

    async def check(clients: list[AsyncClient]) -> None:
        for number, one in enumerate(sessions):
            one.found(await clients[number // EACH].session(one.id).call("look"))

    async def work() -> None:
        clients = [AsyncClient(path, timeout=30, reconnect=30) for _ in range(CONNECTIONS)]
        server = Server("sidecar", tables(tmp_path))
        try:
            for number, one in enumerate(sessions):
                session = await clients[number // EACH].create_session(one.id)
                await session.call("look")
            for _ in range(KILLS):
                at_work = [asyncio.create_task(one.work(clients[n // EACH])) for n, one in enumerate(sessions)]
                enough = sum(one.last for one in sessions) + 100 + moment.randrange(500)
                await asyncio.to_thread(until, lambda n=enough: sum(one.last for one in sessions) >= n, "changes")
                os.kill(server.pid, signal.SIGKILL)
                await asyncio.gather(*at_work)
                await asyncio.to_thread(server.kill)
                server = await asyncio.to_thread(Server, "sidecar", tables(tmp_path))
                await check(clients)
            assert sum(len(one.added) for one in sessions) > KILLS * 30
            assert (await clients[0].call("sidecar.health"))["status"] == "healthy"
        finally:
            for client in clients:
                await client.close()
            await asyncio.to_thread(server.kill)

    asyncio.run(work())


class SmallDisk:
    """A file system of its own for a store, which can be full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, pid: int) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def clear(self, pid: int) -> None:
        (self.folder / "ballast").unlink()


class ShortFiles:
    """No file of the process may become any longer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, pid: int) -> None:
        longest = max(path.stat().st_size for path in (self.folder / "store").glob("*.journal"))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))

    def clear(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["small disk", "short files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk | ShortFiles]:
    if request.param == "short files":
        yield ShortFiles(tmp_path)
    else:
        with small_disk(tmp_path / "disk") as disk:
            yield disk


def test_no_space(tmp_path: Path, disk: SmallDisk | ShortFiles) -> None:
    """What cannot be kept is refused and changes nothing; with space again all goes on by itself."""
    settings = merged(tables(tmp_path), {"sessions": {"path": str(disk.folder / "store")}})
    server = Server("sidecar", settings)
    try:
        client = server.client()
        session, other = client.create_session("s"), client.create_session("other")
        before = session.call("add", {"id": 1, "pad": 10_000})
        other.call("add", {"id": 1})
        disk.fill(server.pid)
        refused = list[StorageUnavailable]()
        for id in range(2, 10):
            try:
                before = session.call("add", {"id": id, "pad": 50_000 + id})
            except StorageUnavailable as error:
                refused.append(error)
        assert len(refused) >= 7
        assert all(error.retryable and str(tmp_path) not in error.message for error in refused)
        health = client.call("sidecar.health")
        assert health["status"] == "degraded"
        assert "the session store takes no changes" in health["reasons"][0]
        for number in range(3):
            with pytest.raises(StorageUnavailable):
                session.update({"set": "x" * 50_000})
            with pytest.raises(StorageUnavailable):
                client.create_session(f"new {number}", state={"x": "x" * 50_000})
        assert session.call("look") == before  # reads go on
        assert session.state()["log"] == before["log"]
        disk.clear(server.pid)

        def added() -> dict[str, Any] | None:
            try:
                answer: dict[str, Any] = session.call("add", {"id": 10, "pad": 50_000})
            except StorageUnavailable:
                return None
            return answer

        after = until(added, "it goes on by itself")
        assert after["log"] == [*before["log"], 10]
        assert other.call("add", {"id": 2})["log"] == [1, 2]
        os.kill(server.pid, signal.SIGKILL)
        server.kill()
        server = Server("sidecar", settings)
        client = server.client()
        assert client.session("s").call("look") == after
        assert client.session("other").call("look")["log"] == [1, 2]
        assert client.call("sidecar.health")["status"] == "healthy"
        assert {one["session"] for one in client.call("session.list")["sessions"]} == {"s", "other"}
    finally:
        server.kill()


def test_started_without_space(tmp_path: Path) -> None:
    """Sessions can be read, nothing is taken, and it goes on when there is space."""
    with small_disk(tmp_path / "disk") as disk:
        settings = merged(tables(tmp_path), {"sessions": {"path": str(disk.folder / "store")}})
        with Server("sidecar", settings) as server:
            before = server.client().create_session("s").call("add", {"id": 1})
        disk.fill(0)
        with Server("sidecar", settings) as server:
            session = server.client().session("s")
            assert session.call("look") == before
            with pytest.raises(StorageUnavailable):
                session.call("add", {"id": 2, "pad": 50_000})
            disk.clear(0)

            def added() -> bool:
                try:
                    session.call("add", {"id": 3})
                except StorageUnavailable:
                    return False
                return True

            until(added, "it goes on by itself")
            assert session.call("look")["log"] == [1, 3]


@contextmanager
def failing_syncs(pid: int) -> Iterator[None]:
    """While it lasts no sync of the process succeeds."""
    command = ["strace", "-f", "-p", str(pid), "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"]
    try:
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("there is no strace here to make syncs fail; internal/store has the same with a file of its own")
    assert tracer.stderr is not None
    try:
        if "attached" not in (said := tracer.stderr.readline()):
            pytest.skip(f"strace may not look at the sidecar here: {said.strip()}")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)


def test_syncs_that_fail(tmp_path: Path) -> None:
    """What may not be on disk is not answered as done, nor seen later; in another file it goes on."""
    with Server("sidecar", tables(tmp_path)) as server:
        client = server.client()
        session = client.create_session("s")
        before = session.call("add", {"id": 1})
        with failing_syncs(server.pid):
            for id in range(2, 6):
                with pytest.raises(StorageUnavailable):
                    session.call("add", {"id": id})
                with pytest.raises(StorageUnavailable):
                    client.create_session(f"new {id}")
            assert session.call("look") == before

        def added() -> dict[str, Any] | None:
            try:
                answer: dict[str, Any] = session.call("add", {"id": 6})
            except StorageUnavailable:
                return None
            return answer

        assert until(added, "it goes on by itself")["log"] == [1, 6]
    with Server("sidecar", tables(tmp_path)) as server:
        client = server.client()
        assert client.session("s").call("look")["log"] == [1, 6]
        assert [one["session"] for one in client.call("session.list")["sessions"]] == ["s"]


def flip(folder: Path, text: bytes) -> None:
    """Change one bit of the first record that holds the text."""
    for path in sorted(folder.glob("*.journal")):
        data = bytearray(path.read_bytes())
        if (at := data.find(text)) >= 0:
            data[at + len(text) // 2] ^= 1
            path.write_bytes(data)
            return
    raise AssertionError(f"no file of {folder} holds {text!r}")


def test_damage_in_the_middle(tmp_path: Path) -> None:
    """One session is lost, and says so; the others live; ended, it is forgotten."""
    with Server("sidecar", tables(tmp_path)) as server:
        client = server.client()
        for name in ("one", "two", "three"):
            session = client.create_session(name)
            session.update({"mark": f"mark of {name}"})
            session.call("add", {"id": 1})
    flip(tmp_path / "store", b"mark of two")
    with Server("sidecar", tables(tmp_path), wait=False) as server:
        client = server.client()
        for name in ("one", "three"):
            assert client.session(name).call("add", {"id": 2})["log"] == [1, 2]
        lost = client.session("two")
        for ask in (lambda: lost.call("look"), lambda: lost.update({"a": 1}), lost.reset):
            with pytest.raises(SessionLost) as caught:
                ask()
            assert "record" in caught.value.details["reason"]
        until(lambda: client.call("sidecar.stats")["healthy_workers"] == 2, "the workers are ready")
        health = client.call("sidecar.health")
        assert health["status"] == "degraded"
        assert len(health["reasons"]) == 1
        assert "damaged" in health["reasons"][0]
        assert "damaged" in server.log
        lost.end()
        client.create_session("two").call("add", {"id": 7})
    with Server("sidecar", tables(tmp_path)) as server:  # which waits for good health
        client = server.client()
        assert client.session("two").call("look")["log"] == [7]
        assert client.session("one").call("look")["log"] == [1, 2]


def test_a_second_sidecar_on_the_folder(tmp_path: Path) -> None:
    with Server("sidecar", tables(tmp_path)) as server:
        session = server.client().create_session("s")
        session.call("add", {"id": 1})
        (tmp_path / "second").mkdir()
        second = merged(tables(tmp_path), {"listen": {"socket": str(tmp_path / "second" / "s")}})
        config = configuration.write(tmp_path / "second", second)
        done = subprocess.run(
            [SIDECAR, "serve", "--config", str(config)], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 1
        said = done.stderr.strip().splitlines()[-1]
        assert "sessions.path" in said
        assert f"{tmp_path / 'store'} is in use by another process" in said
        assert not (tmp_path / "second" / "s").exists()
        assert session.call("add", {"id": 2})["log"] == [1, 2]


def test_another_key(tmp_path: Path) -> None:
    """Secrets that cannot be opened are named as lost; with the right key they are there again."""
    right, wrong = key_file(tmp_path / "right"), key_file(tmp_path / "wrong")
    with Server("sidecar", tables(tmp_path, key_file=right)) as server:
        before = server.client().create_session("s").call("add", {"id": 41, "secret": True})
        assert before["secret"] == 41
    with Server("sidecar", tables(tmp_path, key_file=wrong)) as server:
        session = server.client().session("s")
        seen = session.call("look")
        assert (seen["secret"], seen["lost"], seen["log"]) == (0, ["last"], [41])
        assert session.info()["lost"] == ["dspex.secret.last"]
    with Server("sidecar", tables(tmp_path, key_file=right)) as server:
        assert server.client().session("s").call("look") == before


@pytest.mark.parametrize("text", ["", "short", "!" * 44, base64.b64encode(bytes(31)).decode()])
def test_a_key_file_without_a_key(tmp_path: Path, text: str) -> None:
    """The sidecar does not start, says what is wrong, and shows nothing of the file."""
    (tmp_path / "key").write_text(text)
    config = configuration.write(tmp_path, tables(tmp_path, key_file=str(tmp_path / "key")))
    done = subprocess.run(
        [SIDECAR, "serve", "--config", str(config)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode != 0
    assert "sessions.key_file" in done.stderr
    assert "openssl rand -base64 32" in done.stderr
    assert len(text) < 10 or text not in done.stderr
