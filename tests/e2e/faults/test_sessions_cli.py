"""`dspex-sidecar sessions`: what is exported, ended and imported again, moved, reset, shown; files that are none."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from dspex.errors import SessionNotFound
from e2e.support.configuration import SIDECAR
from e2e.support.machine import until
from e2e.support.servers import Server

TABLES = {"pools": {"default": {"app": "kept:app"}}}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with Server("sidecar", TABLES) as one, Server("sidecar", TABLES) as other:
        yield one, other


@pytest.fixture
def server(servers: tuple[Server, Server]) -> Iterator[Server]:
    yield servers[0]
    for one in servers:
        client = one.client()
        for left in client.call("session.list", {"all": True})["sessions"]:
            client.call("session.end", {"session": left["session"], "owner": left["owner"]})
        one.disconnect()


def run(server: Server, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SIDECAR, "sessions", *arguments, "--socket", server.path],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def done(server: Server, *arguments: str) -> str:
    """The output of a command that has to succeed."""
    ran = run(server, *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def refused(server: Server, *arguments: str) -> str:
    """The line that a command says which has to fail; an error of the protocol has its details below."""
    ran = run(server, *arguments)
    assert (ran.returncode, ran.stdout) == (1, ""), ran
    line, *details = ran.stderr.splitlines()
    assert all(one.startswith("  ") for one in details), ran
    return line


def filled(server: Server, id: str, size: int = 0) -> dict[str, Any]:
    """Make a session of `size` bytes, in values of a MiB; what it answers."""
    client = server.client()
    session = client.create_session(id, state={f"more {n}": os.urandom(1 << 20) for n in range(size >> 20)})
    session.update({"set": 7})
    session.call("add", {"id": 1, "pad": 1000})
    answer: dict[str, Any] = session.call("add", {"id": 2})
    return answer


@pytest.mark.parametrize("size", [0, 10 << 20], ids=["a page", "several pages"])
def test_export_end_import(servers: tuple[Server, Server], server: Server, tmp_path: Path, size: int) -> None:
    """It goes on where it was: here, beside itself, and in another sidecar. Its start hooks do not run again."""
    file = str(tmp_path / "s.session")
    before = filled(server, "s", size)
    state = server.client().session("s").state()
    assert done(server, "export", "s", "--output", file) == f"exported s to {file}\n"
    assert os.stat(file).st_mode & 0o777 == 0o600
    assert os.stat(file).st_size > size
    assert done(server, "import", file, "--as", "beside") == "imported beside\n"
    assert "session_exists" in refused(server, "import", file)
    assert done(server, "end", "s") == "ended s\n"
    with pytest.raises(SessionNotFound):
        server.client().session("s").call("look")
    for where, name in ((server, "s"), (server, "beside"), (servers[1], "s")):
        if (where, name) != (server, "beside"):
            assert done(where, "import", file) == f"imported {name}\n"
        session = where.client().session(name)
        assert session.state() == state
        assert session.call("look") == before
        assert session.call("add", {"id": 3})["log"] == [1, 2, 3]


def test_export_through_a_pipe(servers: tuple[Server, Server], server: Server) -> None:
    before = filled(server, "s")
    command = [str(SIDECAR), "sessions", "export", "s", "--output", "-", "--socket", server.path]
    exported = subprocess.run(command, capture_output=True, timeout=30, check=True).stdout
    command = [str(SIDECAR), "sessions", "import", "-", "--json", "--socket", servers[1].path]
    imported = subprocess.run(command, input=exported, capture_output=True, timeout=30, check=True).stdout
    assert json.loads(imported) == {"session": "s"}
    assert servers[1].client().session("s").call("look") == before


def test_secrets_stay_where_they_are(servers: tuple[Server, Server], server: Server, tmp_path: Path) -> None:
    file = tmp_path / "s.session"
    session = server.client().create_session("s")
    assert session.call("add", {"id": 77, "secret": True})["secret"] == 77
    done(server, "export", "s", "-o", str(file))
    done(servers[1], "import", str(file))
    seen = servers[1].client().session("s").call("look")
    assert (seen["secret"], seen["lost"]) == (0, ["last"])
    (line,) = (line for line in done(servers[1], "show", "s").splitlines() if "secret" in line)
    assert line.split() == ["lost", "secrets", '["dspex.secret.last"]']


def test_files_that_are_none(server: Server, tmp_path: Path) -> None:
    """Each is one clear line and exit code 1; no session is left of it."""
    filled(server, "s", 9 << 20)
    file = tmp_path / "s.session"
    done(server, "export", "s", "-o", str(file))
    done(server, "end", "s")
    good = file.read_bytes()
    head = len(b"dspex-session 1\n")
    first = head + 4 + int.from_bytes(good[head : head + 4], "big")  # where the second page begins

    def import_of(data: bytes) -> str:
        file.write_bytes(data)
        return refused(server, "import", str(file))

    def page(**changed: Any) -> bytes:
        export = {"format": 1, "session": "s", "version": 1, "labels": {}, "ttl_ms": None, "max_age_ms": None}
        packed: bytes = msgpack.packb({**export, "started": True, "state": {}, "lost": [], **changed})
        return good[:head] + len(packed).to_bytes(4, "big") + packed + bytes(4)

    for data in (b"", good[:1], b"\0" * 100, b"PK\x03\x04" + good, good.replace(b"session 1", b"session 2", 1)):
        assert "no file of sessions export, or of another version" in import_of(data)
    for end in (head, head + 3, head + 4, head + 50, first - 1, first, first + 2, first + 4, len(good) - 4, -1):
        assert "the file is cut off" in import_of(good[:end]), end
    assert "the file is cut off" in import_of(good[:head] + b"\xff\xff\xff\xff" + good[head + 4 :])
    for data in (
        good[: head + 4] + bytes(first - head - 4) + good[first:],
        good[: first + 4] + bytes(len(good) - first - 8) + good[-4:],
        good[:head] + bytes(4),
    ):
        assert "the file is damaged" in import_of(data)
    for changed, said in (
        ({"format": 2}, "format 2"),
        ({"state": []}, "state"),
        ({"session": "a\nb"}, "session id"),
        ({"ttl_ms": -1}, "ttl_ms"),
        ({"labels": {"": "x"}}, "label"),
        ({"lost": [""]}, "lost"),
        ({"nonsense": 1}, "invalid_params"),
    ):
        assert said in import_of(page(**changed)), changed
    assert server.client().call("session.list")["sessions"] == []
    assert "no such file" in refused(server, "import", str(tmp_path / "none"))


def test_where_an_export_cannot_go(server: Server, tmp_path: Path) -> None:
    filled(server, "s")
    assert "no such file or directory" in refused(server, "export", "s", "-o", str(tmp_path / "none" / "x"))
    assert "session_not_found" in refused(server, "export", "nobody", "-o", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    kept = tmp_path / "kept"
    kept.write_text("of somebody")
    assert "session_not_found" in refused(server, "export", "nobody", "-o", str(kept))
    assert kept.read_text() == "of somebody"


def test_move(server: Server) -> None:
    before = filled(server, "s")
    session = server.client().session("s")
    workers = [one["worker"] for one in server.client().call("sidecar.workers")["workers"]]
    at = session.info()["worker"]
    (other,) = set(workers) - {at}
    assert done(server, "move", "s") == "moved s\n"
    assert session.client.request("look", session="s").meta["worker"] == other
    assert done(server, "move", "s", "--to", at) == "moved s\n"
    reply = session.client.request("look", session="s")
    assert (reply.meta["worker"], reply.result) == (at, before)
    assert "worker_99" in refused(server, "move", "s", "--to", "worker_99")
    assert "session_not_found" in refused(server, "move", "nobody")


def test_reset(server: Server) -> None:
    filled(server, "s")
    assert done(server, "reset", "s") == "reset s\n"
    session = server.client().session("s")
    assert session.state() == {}
    assert session.call("add", {"id": 5})["log"] == [5]  # the start hooks ran again
    assert "session_not_found" in refused(server, "reset", "nobody")


def test_show(server: Server) -> None:
    filled(server, "s")
    shown = json.loads(done(server, "show", "s", "--json"))
    assert (shown["state"]["log"], shown["state"]["set"], shown["labels"]) == ([1, 2], 7, {})
    assert base64.b64decode(shown["state"]["pad"]["$bytes"]) == b"\1" * 1000


def test_a_session_with_a_token(servers: tuple[Server, Server], server: Server, tmp_path: Path) -> None:
    """It is there for the holder of its token; an administrator sees it, and its state when asked."""
    made = json.loads(done(server, "create", "s", "--with-token", "--state", '{"word": "swordfish"}', "--json"))
    token = made["token"]
    filled(server, "s")  # the uid's own of the same id
    assert "swordfish" in done(server, "show", "s", "--token", token)
    assert "swordfish" not in done(server, "show", "s")
    listed = json.loads(done(server, "list", "--all", "--json"))["sessions"]
    (owner,) = [one["owner"] for one in listed if one["owner"].startswith("token:")]
    assert token not in json.dumps(listed)
    hidden = done(server, "show", "s", "--owner", owner)
    assert "swordfish" not in hidden
    assert "not shown: see --reveal" in hidden
    assert "swordfish" in done(server, "show", "s", "--owner", owner, "--reveal")
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    assert "session_not_found" in refused(server, "end", "s", "--token", wrong)
    file = str(tmp_path / "s.session")
    done(server, "export", "s", "--token", token, "-o", file)
    done(server, "end", "s", "--token", token)
    assert "session_not_found" in refused(server, "show", "s", "--token", token)
    assert server.client().session("s").call("look")["log"] == [1, 2]
    done(server, "import", file, "--token", token)
    assert server.client().session("s", token=token).state() == {"word": "swordfish"}


def test_an_export_is_of_one_version(server: Server, tmp_path: Path) -> None:
    """A worker's death between its pages changes nothing."""
    before = filled(server, "s", 9 << 20)
    client = server.client()
    page = client.call("session.export", {"session": "s"})
    killed = {one["pid"] for one in client.call("sidecar.workers")["workers"]}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    rest = {"session": "s", "after": page["next"], "version": page["export"]["version"]}
    assert client.call("session.export", rest)["export"]["state"]
    until(
        lambda: not killed & {one["pid"] for one in client.call("sidecar.workers")["workers"]}, "their deaths are known"
    )
    client.session("s").call("add", {"id": 3})
    assert before["log"] == [1, 2]
    ran = run(server, "export", "s", "-o", str(tmp_path / "x"))
    assert ran.returncode == 0
    with pytest.raises(Exception, match="begin again"):
        client.call("session.export", rest)
