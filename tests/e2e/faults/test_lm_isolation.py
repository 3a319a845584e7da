"""What DSPy keeps for a whole process is not shared by sessions here."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from dspex.errors import DspexError
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Reply, Seen, json_answer

KEY = "sk-of-the-operator-1234567890"


def answer(seen: Seen) -> Reply:
    return Reply(json_answer(b=f"for {seen.key}"), pause=0.002)


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


@pytest.fixture(scope="module")
def prices() -> Iterator[OpenAIServer]:
    """Where DSPy would look for its list of prices."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def isolated(lm: OpenAIServer, prices: OpenAIServer) -> Iterator[Server]:
    model = {"model": "openai/gpt-4o-mini", "api_key": "env:OPERATOR_KEY", "api_base": lm.base, "adapter": "json"}
    env = {"LITELLM_MODEL_COST_MAP_URL": prices.base}
    tables: dict[str, Any] = {
        # One process: what one call leaves behind would be there for the next.
        "pools": {"default": {"app": "isolated:app", "size": 1, "concurrency": 32, "env": env}},
        "models": {"main": model},
    }
    with Server("sidecar", tables, environment={"OPERATOR_KEY": KEY}) as server:
        yield server


@pytest.mark.parametrize("program", ["plain", "threaded", "asyncified", "parallel"])
def test_each_session_asks_with_its_own_key(isolated: Server, lm: OpenAIServer, program: str) -> None:
    client = isolated.client()
    sessions = [client.create_session() for _ in range(6)]
    for number, session in enumerate(sessions[1:], 1):
        settings = {"model": "openai/m", "api_key": f"key-{number}", "api_base": lm.base, "adapter": "json"}
        session.configure_lm(settings=settings)
    with ThreadPoolExecutor(12) as pool:
        numbers = list(range(6)) * 6
        got = list(pool.map(lambda number: sessions[number].program(program)(a="the same")["b"], numbers))
    assert got == [f"for key-{number}" if number else f"for {KEY}" for number in numbers]


@pytest.mark.parametrize("program", ["meddling", "meddling_thread"])
@pytest.mark.parametrize("how", ["configure", "context", "module", "demos"])
def test_what_a_program_changes_for_all_is_gone_with_its_call(
    isolated: Server, lm: OpenAIServer, program: str, how: str
) -> None:
    client = isolated.client()
    with suppress(DspexError):  # DSPy refuses some of it
        client.program(program)(how=how)
    lm.requests.clear()
    for name in ("plain", "threaded", "asyncified"):
        assert client.program(name)(a="x")["b"] == f"for {KEY}"
    assert "planted" not in str([seen.body for seen in lm.requests])
    assert all("JSON object" in seen.prompt for seen in lm.requests)


def test_nothing_is_kept_of_calls(isolated: Server) -> None:
    client = isolated.client()
    before = client.call("kept")
    for number in range(40):
        client.program("plain")(a=str(number))
        client.program("threaded")(a=str(number))
        client.request("execute_program", {"program": "plain", "inputs": {"a": "x"}, "trace": True})
    assert client.call("kept") == before
    assert (before["history"], before["trace"], before["cache"]) == (0, 0, 0)


def test_prices_are_not_fetched(isolated: Server, prices: OpenAIServer) -> None:
    outputs = isolated.client().program("plain")(a="x")
    assert outputs.meta["usage"]["cost"] > 0
    assert prices.requests == []
