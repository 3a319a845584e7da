"""The configuration changes in every way that a file can: the last good one is in force, and no call notices."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dspex import Client
from dspex.errors import ProgramError
from e2e.faults.conftest import Bystander
from e2e.support.machine import until
from e2e.support.servers import Server

SIZE = 2


def text(server: Server, size: int = SIZE, more: str = "") -> str:
    """The server's own configuration with another number of workers, and more in [pools.default]."""
    kept = (server.folder / "kept.toml").read_text()
    return kept.replace(f"size = {SIZE}\n", f"size = {size}\n{more}", 1)


@pytest.fixture(autouse=True)
def restored(server: Server) -> Iterator[None]:
    """After each test the configuration is as before."""
    kept = server.folder / "kept.toml"
    kept.write_text(server.config.read_text())
    yield
    remove(server.config)
    server.config.write_text(kept.read_text())
    with Client(server.path, timeout=30) as client:
        assert client.call("admin.reload", {"wait": True})["status"] == "in_force"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def in_place(path: Path, new: str) -> None:
    path.write_text(new)


def by_rename(path: Path, new: str) -> None:
    beside = path.with_suffix(".swp")
    beside.write_text(new)
    beside.rename(path)


def with_backup(path: Path, new: str) -> None:
    path.rename(f"{path}~")
    path.write_text(new)


def removed_and_made(path: Path, new: str) -> None:
    path.unlink()
    path.write_text(new)


def config_map(path: Path, new: str) -> None:
    """As Kubernetes does: the file is a link to `..data/FILE`, and `..data` a link to a folder, which is swapped."""
    folder = path.parent / f"..{time.time_ns()}"
    folder.mkdir()
    (folder / path.name).write_text(new)
    (path.parent / "..data_tmp").symlink_to(folder.name)
    (path.parent / "..data_tmp").rename(path.parent / "..data")
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(f"..data/{path.name}")


def size(client: Client) -> int:
    return int(client.call("sidecar.stats")["pool_size"])


@pytest.mark.parametrize("change", [in_place, by_rename, with_backup, removed_and_made, config_map])
def test_the_file_is_watched(server: Server, bystander: Bystander, change: Callable[[Path, str], None]) -> None:
    client = server.client()
    for wanted in (3, 1, 4, 2):
        change(server.config, text(server, wanted))
        until(lambda wanted=wanted: size(client) == wanted, f"{wanted} workers")  # type: ignore[misc]
    server.healthy()


def cut(path: Path) -> None:
    path.write_text(path.read_text().rpartition('"')[0])  # in a value: what ends with a line may be valid


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()  # root reads any file


def wrong(path: Path) -> None:
    path.write_text("[pools.default]\nsizes = 3\n")


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "removed": (lambda path: path.unlink(), "no such file"),
    "half written": (cut, "TOML"),
    "emptied": (lambda path: os.truncate(path, 0), "is empty"),
    "invalid": (wrong, "sizes"),
    "no text": (no_text, "TOML"),
    "unreadable": (unreadable, "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_last_good_one_stays_in_force(server: Server, bystander: Bystander, kind: str) -> None:
    client = server.client()
    spoil, says = BAD[kind]
    before, said = client.call("sidecar.stats"), len(server.log)
    spoil(server.config)
    health = until(lambda: (found := client.call("sidecar.health"))["status"] == "degraded" and found, "degraded")
    assert any("last good one" in reason and says in reason for reason in health["reasons"]), health
    assert size(client) == SIZE
    until(lambda: "not reloaded" in server.log[said:], "a line in the log")
    remove(server.config)
    server.config.write_text(text(server))
    server.healthy()
    after = client.call("sidecar.stats")
    # A file that is removed and written anew may be seen between the two.
    failures = after["reload_failures"] - before["reload_failures"]
    assert 1 <= failures <= 2
    assert server.log[said:].count("not reloaded") == failures
    assert after["generation"] == before["generation"]


def test_a_hundred_writes_a_second(server: Server, bystander: Bystander) -> None:
    """Whatever is written in between, half of it wrong: the last state wins."""
    client = server.client()
    began, said = time.monotonic(), len(server.log)
    for number in range(200):
        server.config.write_text(text(server, number % 3 + 1) if number % 2 else "[pools.")
        time.sleep(max(0.0, began + number / 100 - time.monotonic()))  # the pace is the test's subject
    server.config.write_text(text(server, 4))
    until(lambda: size(client) == 4, "the last state")
    server.healthy()
    assert server.log[said:].count("reloaded") < 40  # not one for each


# Generations.


def renew(client: Client) -> dict[str, Any]:
    result: dict[str, Any] = client.call("admin.reload", {"wait": True, "renew": True})
    return result


def test_a_new_generation_takes_over(server: Server, bystander: Bystander) -> None:
    """What runs finishes where it is; sessions go on, with their state; nothing of the old one is left."""
    client = server.client()
    with client.create_session("goes on") as session, ThreadPoolExecutor(2) as threads:
        assert session.call("increment") == 1
        old = {one["pid"] for one in client.call("sidecar.workers")["workers"]}
        runs = threads.submit(client.call, "sleep", {"seconds": 1.5})
        turn = threads.submit(session.call, "increment", {"seconds": 1.5})
        until(lambda: client.call("sidecar.stats")["in_flight"] == 2, "they run")
        server.config.write_text(text(server, more="concurrency = 7\n"))
        result = client.call("admin.reload", {"wait": True})
        assert [(one["key"], one["in_force"]) for one in result["changes"]] == [("pools.default.concurrency", True)]
        assert client.call("pid") not in old
        assert not runs.done()
        assert runs.result(30) in old
        assert turn.result(30) == 2
        assert session.call("increment") == 3
        until(lambda: not old & {one.pid for one in server.family()}, "the old workers have gone")
        assert {one["slots"] for one in client.call("sidecar.workers")["workers"]} == {7}


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_a_generation_that_cannot_import_is_taken_back(server: Server, bystander: Bystander, start: str) -> None:
    client = server.client()
    pids = {one["pid"] for one in client.call("sidecar.workers")["workers"]}
    kept = text(server).replace('app = "faulty:app"', 'app = "nowhere:app"')
    server.config.write_text(
        kept + "\n[profile.x.pools.default]\nsize = 2\n"
        if start == "zygote"
        else kept.replace(f"size = {SIZE}\n", f'size = {SIZE}\nstart = "spawn"\n', 1)
    )
    result = client.call("admin.reload", {"wait": True})
    assert result["status"] == "failed"
    assert "No module named 'nowhere'" in result["reason"]
    health = client.call("sidecar.health")
    assert health["status"] == "degraded"
    assert any("No module named 'nowhere'" in reason for reason in health["reasons"])
    assert {one["pid"] for one in client.call("sidecar.workers")["workers"]} == pids
    server.config.write_text(text(server))
    server.healthy()


def test_twenty_generations_leave_nothing(server: Server, bystander: Bystander) -> None:
    client = server.client()
    first = client.call("sidecar.stats")["generation"]
    for number in range(20):
        assert renew(client)["generation"] == first + number + 1
    # What they leave, if anything, the fixture finds.


def test_what_needs_a_restart_says_so(server: Server) -> None:
    client = server.client()
    server.config.write_text(text(server, 3).replace("[pools.default]", '[log]\nformat = "text"\n[pools.default]', 1))
    until(lambda: size(client) == 3, "the rest is in force")
    server.logged("started again")
    assert server.log.rstrip().splitlines()[-1].startswith("{")


def test_dev_mode() -> None:
    """Code counts when it is written; what cannot be imported leaves what there was in service."""
    with Server("sidecar", {"pools": {"default": {"app": "mine:app"}}}, arguments=("--dev",), wait=False) as server:
        client = server.client()
        until(lambda: client.call("sidecar.health")["status"] == "unhealthy", "there is no application")
        lines = "from dspex_worker import App\napp = App(use_dspy=False)\n@app.method\ndef f():\n    return {}\n"
        mine = server.folder / "mine.py"

        def answers(wanted: int) -> None:
            until(lambda: client.call("f") == wanted, f"the answer {wanted}")

        mine.write_text(lines.format(1))
        server.healthy()
        for wanted in (1, 2, 3, 4):  # faster than files' times tell apart
            mine.write_text(lines.format(wanted))
            answers(wanted)
        mine.write_text("import nowhere\n")
        until(lambda: client.call("sidecar.health")["status"] == "degraded", "degraded")
        answers(4)
        mine.write_text(lines.format("1 / 0"))
        server.healthy()
        with pytest.raises(ProgramError) as caught:
            client.call("f")
        assert "mine.py" in caught.value.details["traceback"]
        assert "level=INFO" in server.log
