"""Runs Python code as another user, who knows a sidecar's socket and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

NOBODY = 65_534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

_HELP = """
import json, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
from dspex import Client, wire
from dspex.errors import DspexError

def code(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except DspexError as error:
        return error.code

def say(value):
    print(json.dumps(value), flush=True)
"""


class OtherUser:
    """Code that runs as NOBODY, with `path`, `code` and `say` at hand. It says things, as JSON, and hears lines."""

    def __init__(self, path: str, code: str) -> None:
        source = f"path = {path!r}\n{_HELP}\n{textwrap.dedent(code)}"
        self.process = subprocess.Popen(
            ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "--", sys.executable, "-B", "-c", source],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        return json.loads(line)

    def hear(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> OtherUser:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
