"""The blocks of docs/clients/python.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from dspex import wire
from scripted import Peer, serving

PAGE = Path(__file__).parents[3] / "docs" / "clients" / "python.md"

RESULTS: dict[str, Any] = {
    "sidecar.stats": {"active_sessions": 0},
    "session.create": {"session": "s1"},
    "session.end": {"session": "s1"},
    "session.reset": {"session": "s1"},
    "session.update": {"session": "s1", "version": 2},
    "session.get": {"session": "s1", "state": {"seen": 1}},
    "configure_lm": {"model": "local"},
    "create_program": {"program": "qa"},
    "execute_program": {"answer": "a process beside another"},
}


def sidecar(peer: Peer) -> None:
    """Answers all that the page calls."""
    peer.greet()
    while (message := peer.read()) is not None:
        if not isinstance(message, wire.Request):
            continue
        method, params = message.method, message.params
        if method == "slow":
            code = "deadline_exceeded" if "timeout_ms" in message.meta else "cancelled"
            if code == "cancelled":
                assert peer.read() == wire.Cancel(message.id, None)
            peer.fail(message, code)
            continue
        if method == "order":
            peer.ask(1, "price", message, params)
            nested = peer.read()
            peer.answer(nested, nested.params["value"])
            peer.answer(message, peer.answered(1))
            continue
        if method == "count":
            peer.send(*[wire.encode_item(message.id, n) for n in range(params["n"])])
        elif "stream" in message.meta:
            peer.send(wire.encode_item(message.id, {"type": "delta", "field": "answer", "text": "a process"}))
        result = params["value"] if method == "echo" else RESULTS.get(method)
        peer.answer(message, result, worker="w1", run_us=7, usage={"lm_calls": 1})


def test_the_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    with serving(*[sidecar] * 4) as path:
        monkeypatch.setenv("DSPEX_SOCKET", path)
        space: dict[str, Any] = {"__name__": "page"}
        for block in blocks:
            exec(compile(block, str(PAGE), "exec", dont_inherit=True), space)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == ["1", "{'active_sessions': 0}", "1 w1 7"]
    assert "a process beside another {'lm_calls': 1}" in printed
    assert "cancelled" in printed
    assert printed[printed.index("cancelled") + 1] == "3"
    assert "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" in printed
    fake = printed.index("['sun', 'rain']")
    assert printed[fake - 1 : fake + 4] == [
        "3",
        "['sun', 'rain']",
        "Is it? Yes.",
        "['add', 'forecast', 'execute_program']",
        "{}",
    ]
