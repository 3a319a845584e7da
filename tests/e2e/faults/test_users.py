"""Who may connect, by uid; what others see of whom."""

from __future__ import annotations

import os
import stat
from typing import Any

from e2e.faults.conftest import BASE
from e2e.support.configuration import merged
from e2e.support.other_user import NOBODY, OtherUser, needs_root
from e2e.support.servers import Server

pytestmark = needs_root


def started(**listen: Any) -> Server:
    server = Server("sidecar", merged(BASE, {"listen": {"mode": "0666", **listen}}))
    server.folder.chmod(0o711)
    return server


def test_one_that_may_not() -> None:
    with started() as server:
        ask = """
            say(code(Client(path).connect))
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            sock.sendall(wire.encode_request(1, "sidecar.stats", None, {}))
            said = b""
            while data := sock.recv(65536):
                said += data
            say(said.decode("latin-1"))
        """
        with OtherUser(server.path, ask) as other:
            assert other.says() == "permission_denied"
            assert "handshake_required" in other.says()
        assert server.client().call("echo", {"value": 1}) == 1


def test_the_sockets_mode_keeps_others_out() -> None:
    with started(mode="0600", allow_uids=[0, NOBODY]) as server:
        assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
        with OtherUser(server.path, "say(code(Client(path).connect))") as other:
            assert other.says() == "connection_lost"


def test_one_that_may_sees_what_is_its_own() -> None:
    with started(allow_uids=[0, NOBODY]) as server:
        client = server.client()
        mine = client.create_session("same name", state={"of": "root"})
        ask = """
            client = Client(path, name="other").connect()
            session = client.session("same name")
            say(code(session.info))
            say(code(session.call, "increment"))
            say(code(session.call, "session.end"))
            say(client.call("session.list"))
            say(code(client.call, "session.list", {"all": True}))
            say([one["name"] for one in client.call("sidecar.clients")["clients"]])
            client.create_session("same name").call("increment")
            say(session.state())
            sys.stdin.readline()
            say(session.state())
        """
        with OtherUser(server.path, ask) as other:
            assert [other.says() for _ in range(3)] == ["session_not_found"] * 3
            assert other.says() == {"sessions": []}
            assert other.says() == "permission_denied"
            assert other.says() == ["other"]
            assert other.says() == {"n": 1}
            assert mine.state() == {"of": "root"}
            listed = client.call("session.list", {"all": True})["sessions"]
            assert {(one["session"], one["owner"]) for one in listed} == {
                ("same name", "uid:0"),
                ("same name", f"uid:{NOBODY}"),
            }
            mine.end()
            other.hear()
            assert other.says() == {"n": 1}
