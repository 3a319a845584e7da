"""The README's application and the blocks of docs/clients/python.md run together: real worker, real DSPy, a fake LM."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from runtime.harness import HERE, Process
from support.openai_server import OpenAIServer, json_answer

REPOSITORY = HERE.parents[2]

SLOW = """

@app.method
async def slow():
    import asyncio

    await asyncio.sleep(600)
"""


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / page).read_text(), re.DOTALL | re.MULTILINE)


def test_what_the_pages_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dspy")
    (application,) = blocks("README.md")
    (tmp_path / "documented.py").write_text(application + SLOW)
    with OpenAIServer(answer=lambda seen: json_answer(answer="a process beside another")) as server:
        (tmp_path / "dspex.toml").write_text(
            '[pools.default]\napp = "documented:app"\n\n[models.local]\nmodel = "openai/m"\napi_key = "env:FAKE_KEY"\n'
            f'api_base = "{server.base}"\nadapter = "json"\n'
        )
        socket = str(tmp_path / "s")
        arguments = ("-m", "dspex_worker", "--config", str(tmp_path / "dspex.toml"), "--socket", socket)
        process = Process(*arguments, cwd=tmp_path, FAKE_KEY="unique-fake-key")
        try:
            process.line("serving")
            monkeypatch.setenv("DSPEX_SOCKET", socket)
            space: dict[str, Any] = {"__name__": "page"}
            for block in blocks("docs/clients/python.md"):
                exec(compile(block, "docs/clients/python.md", "exec", dont_inherit=True), space)
        finally:
            process.kill()
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "1"
    assert lines[1].startswith("{'active_sessions': 0, 'pool_size': 1")
    assert lines[2].startswith("1 worker_1 ")
    assert "a process beside another {'lm_calls': 1, 'prompt_tokens': 7" in printed
    assert "{'language': 'en'}" not in lines
    assert "{'seen': 1}" in lines
    assert "cancelled" in lines
    assert "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" in lines
    assert {seen.key for seen in server.requests} == {"unique-fake-key"}
    assert "unique-fake-key" not in printed + process.output
