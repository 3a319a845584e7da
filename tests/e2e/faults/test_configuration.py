"""A wrong configuration names file, line, key and what is allowed, and ends with exit code 2."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from e2e.support.configuration import SIDECAR

WRONG = [
    ('[listen]\nsocket = "s"\nmax_frame = "lots"\n', 3, "listen.max_frame", "16MiB"),
    ("[pools.default]\nsize = 0\n", 2, "pools.default.size", "cpu"),
    ('[pools.default]\n\napp = "no colon"\n', 3, "pools.default.app", "module:attribute"),
    ("[pools.default]\nsizes = 2\n", 2, "pools.default.sizes", "size"),
    ('[sessions]\nttl = "soon"\n', 2, "sessions.ttl", "5s"),
    ('[sessions]\npinning = "loose"\n', 2, "sessions.pinning", "strict"),
    ("[pools.other]\nsize = 2\n", 1, "pools.other", "default"),
    ('[models.a]\nmodel = "openai/x"\napi_key = "sk-plain-text"\n', 3, "models.a.api_key", "env:NAME"),
    ('[models.a]\nadapter = "json"\n', 1, "models.a", "openai/gpt-4o-mini"),
    ("[nonsense]\na = 1\n", 1, "nonsense", "listen"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SIDECAR, *arguments], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize(("text", "line", "key", "allowed"), WRONG, ids=[key for _, _, key, _ in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, command: str, text: str, line: int, key: str, allowed: str) -> None:
    path = tmp_path / "dspex.toml"
    path.write_text(text)
    done = run(command, "--config", str(path))
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert f"{path}:{line}" in said
    assert key in said
    assert allowed in said
    assert "sk-plain-text" not in said


def test_all_that_is_wrong_at_once_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "dspex.toml"
    path.write_text('[listen]\nmode = 5\n[sessions]\nttl = -1\n[log]\nlevel = "loud"\n')
    done = run("check", "--config", str(path), "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert found["valid"] is False
    assert {(one["line"], one["key"]) for one in found["errors"]} == {
        (2, "listen.mode"),
        (4, "sessions.ttl"),
        (6, "log.level"),
    }


@pytest.mark.parametrize("text", ["[listen\n", "a = \n", "[listen]\nsocket = 's'\nsocket = 't'\n", "\xff\n"])
def test_what_is_no_toml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dspex.toml"
    path.write_bytes(text.encode("latin-1"))
    done = run("serve", "--config", str(path))
    assert done.returncode == 2
    assert f"{path}:" in done.stderr


def test_a_file_or_profile_that_is_not_there(tmp_path: Path) -> None:
    done = run("serve", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert "none.toml" in done.stderr
    path = tmp_path / "dspex.toml"
    path.write_text("[pools.default]\nsize = 1\n")
    done = run("serve", "--config", str(path), "--profile", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
