"""What a worker sets up for DSPy in its process."""

from __future__ import annotations

import dspy
import pytest
from dspex_worker.dspy_app.warm import keep_to_this_process
from support.openai_server import OpenAIServer

NOWHERE = "http://127.0.0.1:9"  # the port of a service that nobody runs


@pytest.mark.parametrize("excepted", ["", "example.com, 10.0.0.1", "*"])
def test_requests_to_this_machine_never_go_to_a_proxy(excepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, excepted)
    keep_to_this_process()
    with OpenAIServer(answer=lambda request: "a direct answer") as server:
        lm = dspy.LM("openai/m", api_key="k", api_base=server.base, cache=False, num_retries=0, engine="lm15")
        assert lm("a question") == ["a direct answer"]
        lm.close()
