"""The servers under test as processes: the sidecar with its workers, and stand-alone mode."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from dspex import Client
from e2e.support import configuration, machine
from e2e.support.machine import until
from runtime.harness import TIMEOUT, Connection

Kind = Literal["sidecar", "standalone"]

_BROKEN = ("panic:", "fatal error:", "goroutine ", "DATA RACE")  # in no log, ever


class Server:
    """A server of either kind, in a folder of its own. Use it as a context manager, or ``close`` it.

    ``clients`` makes the clients that tests get: Python's, unless a fixture puts another in place for a test.
    """

    clients: ClassVar[Callable[..., Any]] = Client

    def __init__(
        self,
        kind: Kind,
        tables: configuration.Tables,
        *,
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        arguments: tuple[str, ...] = (),
        wait: bool = True,
    ) -> None:
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix="dspex-"))  # a socket's path is short
        self.config = configuration.write(self.folder, tables)
        listen = tables.get("listen", {})
        self.path = str(self.folder / listen.get("socket", "s"))
        self._log = self.folder / "log"
        self._opened: list[Connection | Client] = []
        self._family: set[machine.Process] = set()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, *self._command(tables), *arguments],
                cwd=self.folder,
                env=_environment(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._listening()
            if wait:
                self.healthy()
        except BaseException:
            self.kill()
            raise

    def _command(self, tables: configuration.Tables) -> list[str]:
        if self.kind == "sidecar":
            return [str(configuration.SIDECAR), "serve", "--config", str(self.config)]
        app = tables.get("pools", {}).get("default", {}).get("app")
        command = [sys.executable, "-m", "dspex_worker", "--config", str(self.config)]
        return [*command, app] if app else command

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """All that was logged so far."""
        return self._log.read_text(errors="replace")

    def logged(self, text: str, count: int = 1) -> None:
        """Wait until a text has been logged so many times."""
        until(lambda: self.log.count(text) >= count, f"{text!r} in the log")

    def raw(self, hello: dict[str, Any] | None = None) -> Connection:
        """A connection of frames that has said hello; with an empty map, one that has not."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect(self.path)
        connection = Connection(sock)
        self._opened.append(connection)
        if hello != {}:
            params = {"protocols": [1], "features": [], "client": {"name": "test", "version": "1"}, **(hello or {})}
            connection.call("hello", None, **params)
        return connection

    def client(self, **options: Any) -> Client:
        client: Client = type(self).clients(self.path, **{"timeout": machine.WAIT, **options})
        self._opened.append(client)
        return client

    def disconnect(self) -> None:
        """Close all connections that were made here."""
        for one in self._opened:
            one.close()
        self._opened.clear()

    def healthy(self) -> None:
        """Wait until all workers are ready."""
        with Client(self.path, timeout=machine.WAIT) as client:
            until(lambda: client.call("sidecar.health")["status"] == "healthy", f"healthy; log: {self.log[-2000:]}")

    def family(self) -> set[machine.Process]:
        """All processes that come from the server; they are remembered."""
        found = machine.family(self.pid)
        self._family |= found
        return found

    def left(self) -> set[machine.Process]:
        """Of all processes that were ever seen, those that have not ended."""
        return {one for one in self._family if one.lives}

    def stop(self, timeout: float = machine.WAIT) -> int:
        """End the server as an operator does; returns its exit code."""
        if self.process.poll() is None:
            self.family()
            self.process.terminate()
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End the server at once, and all that came from it; remove its folder."""
        self.disconnect()
        if self.process.poll() is None:
            self.family()
            self.process.kill()
            self.process.wait()
        for one in self.left():
            try:
                os.kill(one.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop the server, and hold that it ended in an orderly way and left nothing."""
        try:
            self.disconnect()
            code = self.stop()
            log = self.log
            assert code == 0, f"exit code {code}; log: {log[-3000:]}"
            until(lambda: not self.left(), f"no process is left: {self.left()}", 1.0 + machine.WAIT / 10)
            assert not os.path.exists(self.path), "the socket's file is left"
            for broken in _BROKEN:
                assert broken not in log, log
        finally:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def _listening(self) -> None:
        def listens() -> bool:
            assert self.process.poll() is None, f"the server ended: {self.log}"
            with socket.socket(socket.AF_UNIX) as tried:
                try:
                    tried.connect(self.path)
                except OSError:
                    return False
            return True

        until(listens, "the server listens")


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The test's own environment without what would lead a server elsewhere."""
    dropped = ("DSPEX_", "XDG_RUNTIME_DIR", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    # Stand-alone mode finds its application by this; the sidecar gives its workers their own.
    return {**kept, "PYTHONPATH": str(configuration.APPLICATIONS), "PYTHONUNBUFFERED": "1", **extra}
