"""Limits, exchanges and embedders, as both servers have them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dspex.errors import DeadlineExceeded, DspexError, LMError
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Reply, json_answer

KEY = "sk-of-the-operator-1234567890"


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=lambda seen: Reply(json_answer(b="fine"), pause=0.02)) as server:
        yield server


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def shared(request: pytest.FixtureRequest, lm: OpenAIServer) -> Iterator[Server]:
    model = {"model": "openai/m", "api_key": "env:OPERATOR_KEY", "api_base": lm.base, "adapter": "json"}
    tables: dict[str, Any] = {
        "pools": {"default": {"app": "programs:app", "size": 1}},
        "sessions": {"history": "64KiB"},
        "models": {
            "main": {**model, "concurrency": 2, "default": True},
            **{f"slow{n}": {**model, "requests_per_minute": 2} for n in range(2)},
            **{f"short{n}": {**model, "tokens_per_minute": 20} for n in range(2)},
            **{f"paused{n}": {**model, "concurrency": 9} for n in range(2)},
            **{f"backed{n}": {**model, "concurrency": 9, "fallbacks": ["main"]} for n in range(2)},
            **{f"queued{n}": {**model, "concurrency": 1, "fallbacks": ["main"]} for n in range(2)},
            **{f"first{n}": {**model, "concurrency": 1, "fallbacks": [f"second{n}"]} for n in range(2)},
            **{f"second{n}": {**model, "concurrency": 1} for n in range(2)},
            **{f"alone{n}": {**model, "concurrency": 1} for n in range(2)},
        },
        "embedders": {"main": {"model": "openai/e", "api_key": "env:OPERATOR_KEY", "api_base": lm.base}},
    }
    with Server(request.param, tables, environment={"OPERATOR_KEY": KEY}) as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(lm: OpenAIServer) -> None:
    lm.requests.clear()
    lm.script.clear()
    lm.most = 0


def test_concurrency(server: Server, lm: OpenAIServer) -> None:
    session = server.client().create_session()
    program = session.create_program("p", "a -> b")
    with ThreadPoolExecutor(10) as pool:
        got = list(pool.map(lambda number: program(a=str(number)), range(20)))
    assert {outputs["b"] for outputs in got} == {"fine"}
    assert lm.most == 2
    assert max(outputs.meta["usage"].get("lm_wait_us", 0) for outputs in got) > 10_000


@pytest.fixture
def number(request: pytest.FixtureRequest) -> int:
    """Another one for each client: what is used up stays so for a minute."""
    return int("node" in request.node.name)


def test_by_the_minute(server: Server, number: int) -> None:
    session = server.client().create_session()
    program = session.create_program("p", "a -> b")
    for model in (f"slow{number}", f"short{number}"):
        session.configure_lm(model)
        for text in ("1", "2"):
            assert program(a=text)["b"] == "fine"
        with pytest.raises(DeadlineExceeded, match=f"turn at model '{model}'"):
            program.run({"a": "x"}, timeout=0.3)


def test_a_pause(server: Server, lm: OpenAIServer, number: int) -> None:
    session = server.client().create_session()
    program = session.create_program("p", "a -> b")
    for model in (f"paused{number}", f"backed{number}"):
        session.configure_lm(model)
        lm.script.append(Reply(status=429, headers={"Retry-After": "20"}))
        if model.startswith("backed"):
            assert program(a="x").meta["usage"]["models"] == {"main": 1}
            assert program(a="x").meta["usage"]["models"] == {"main": 1}
            assert len(lm.requests) == 3
            continue
        with pytest.raises(LMError) as caught:
            program(a="x")
        assert caught.value.details["status"] == 429
        with pytest.raises(LMError, match="left alone") as told:
            program.run({"a": "x"}, timeout=5.0)
        assert told.value.retryable
        assert 15_000 < told.value.details["retry_after_ms"] <= 20_000
        assert (told.value.details["type"], told.value.details["model"]) == ("ModelPaused", model)
        lm.requests.clear()


def test_a_pause_that_begins_while_others_wait(server: Server, lm: OpenAIServer, number: int) -> None:
    """Who waits is told as who comes later: there is another model, or waiting would be in vain."""
    session = server.client().create_session()
    program = session.create_program("p", "a -> b")
    for model in (f"queued{number}", f"alone{number}"):
        session.configure_lm(model)
        lm.requests.clear()
        lm.script.append(Reply(status=429, headers={"Retry-After": "20"}, pause=0.5))
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(lambda: program.run({"a": "x"}, timeout=9))
            assert lm.wait_for(lambda seen: len(seen.requests) == 1)
            second = pool.submit(lambda: program.run({"a": "y"}, timeout=9))
            if model.startswith("queued"):
                assert [one.result(5).meta["usage"]["models"] for one in (first, second)] == [{"main": 1}] * 2
                continue
            with pytest.raises(LMError) as caught:
                first.result(5)
            assert caught.value.details["status"] == 429
            with pytest.raises(LMError, match="left alone") as told:
                second.result(5)
            assert 15_000 < told.value.details["retry_after_ms"] <= 20_000
            assert len(lm.requests) == 1


def test_paused_models_are_among_those_that_were_tried(server: Server, lm: OpenAIServer, number: int) -> None:
    session = server.client().create_session()
    program = session.create_program("p", "a -> b")
    session.configure_lm(f"first{number}")
    paused = Reply(status=429, headers={"Retry-After": "20"})
    lm.script += [paused, paused]
    for kind in ("LMRateLimitError", "ModelPaused"):
        with pytest.raises(LMError) as caught:
            program.run({"a": "x"}, timeout=5)
        details = caught.value.details
        assert (details["type"], details["model"]) == (kind, f"second{number}")
        tried = [(one["model"], one["type"]) for one in details["tried"]]
        assert tried == [(f"first{number}", kind), (f"second{number}", kind)]
    assert len(lm.requests) == 2


def test_history_is_the_owners(server: Server, lm: OpenAIServer) -> None:
    session, other = server.client().create_session(), server.client().create_session()
    program = session.create_program("p", "a -> b")
    program(a="a question")
    lm.script.append(Reply(status=401, message=f"the key {KEY} is wrong"))
    with pytest.raises(LMError):
        program(a="another")
    shown = session.call("inspect_history", {"n": 5})["entries"]
    assert [one["model"] for one in shown] == ["main", "main"]
    assert "a question" in shown[0]["messages"][-1]["content"]
    assert shown[0]["outputs"] == [json_answer(b="fine")]
    assert shown[1]["error"]["type"] == "LMAuthError"
    assert KEY not in str(shown)
    assert other.call("inspect_history")["entries"] == []
    assert session.state() == {}
    with pytest.raises(DspexError):
        server.client().call("inspect_history")


def test_embed(server: Server) -> None:
    got = server.client().call("embed", {"texts": ["ab", "c"]})
    assert got == {"embedder": "main", "vectors": [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0]]}
