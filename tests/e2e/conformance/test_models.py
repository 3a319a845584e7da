"""Models over both servers: what a provider does wrong, adapters, parameters, whose settings go where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from dspex import Session
from dspex.errors import InvalidParams, LMError
from e2e.support.configuration import Tables
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Reply, Seen, chat_answer, json_answer

KEY = "sk-of-the-operator-1234567890"
TIMEOUT = 0.4  # seconds, of the model that is configured so


def answer(seen: Seen) -> str:
    return json_answer(b="fine")


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def shared(request: pytest.FixtureRequest, lm: OpenAIServer) -> Iterator[Server]:
    base = {"api_key": "env:OPERATOR_KEY", "api_base": lm.base}
    model = {"model": "openai/gpt-4o-mini", **base, "adapter": "json"}
    tuned = {"top_p": 0.5, "temperature": 0.25, "max_tokens": 77, "stop": ["##", "--"], "seed": 42}
    tables: Tables = {
        "pools": {"default": {"app": "programs:app", "size": 1}},
        "models": {
            "main": {**model, "timeout": f"{TIMEOUT * 1000:.0f}ms", "default": True},
            "tuned": {**model, **tuned},
            "thinker": {"model": "openai/o3-mini", **base, "adapter": "json", "reasoning_effort": "low"},
            "xml": {**model, "adapter": "xml"},
            "steps": {**model, "model": "openai/large", "adapter": "two_step", "extraction_model": "reader"},
            "reader": {**model, "model": "openai/small"},
            "own": {**model, "model": "openai/own", "input_price": 2.0, "output_price": 10.0},
            "unpriced": {**model, "model": "openai/unheard-of"},
        },
    }
    with Server(request.param, tables, environment={"OPERATOR_KEY": KEY}) as server:
        yield server


@pytest.fixture
def session(server: Server, lm: OpenAIServer) -> Iterator[Session]:
    lm.requests.clear()
    lm.script.clear()
    with server.client().create_session() as session:
        session.create_program("p", "a -> b")
        yield session


WRONG: dict[str, tuple[Reply, str, int | None, bool]] = {
    "key": (Reply(status=401, message=f"wrong key {KEY}"), "LMAuthError", 401, False),
    "credit": (Reply(status=402, message="pay"), "LMBillingError", 402, False),
    "rate": (Reply(status=429, message="slow", headers={"Retry-After": "7"}), "LMRateLimitError", 429, True),
    "request": (Reply(status=400, message="what"), "LMInvalidRequestError", 400, False),
    "window": (
        Reply(status=400, message="too long", code="context_length_exceeded"),
        "ContextWindowExceededError",
        400,
        False,
    ),
    "missing": (
        Reply(status=404, message="no such model", code="model_not_found"),
        "LMUnsupportedModelError",
        404,
        False,
    ),
    "server": (Reply(status=500, message="oops"), "LMServerError", 500, True),
    "busy": (Reply(status=503, message="later", headers={"Retry-After": "2"}), "LMServerError", 503, True),
    "hang": (Reply(hang_after=0), "LMTransportError", None, True),
    "cut": (Reply(cut_after=0), "LMTransportError", None, True),
    "form": (Reply("not what was asked"), "AdapterParseError", None, False),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", WRONG)
def test_what_a_provider_does_wrong(
    server: Server, session: Session, lm: OpenAIServer, kind: str, streamed: bool
) -> None:
    reply, expected, status, retryable = WRONG[kind]
    lm.script.append(reply)
    program = session.program("p")
    with pytest.raises(LMError) as caught:
        list(program.stream(a="x")) if streamed else program(a="x")
    error = caught.value
    assert (error.details["type"], error.details.get("status"), error.retryable) == (expected, status, retryable)
    assert error.details["model"] == "main"
    after = reply.headers.get("Retry-After")
    assert error.details.get("retry_after_ms") == (None if after is None else int(after) * 1000)
    assert error.meta["usage"]["lm_calls"] == len(lm.requests) == 1
    assert KEY not in str(error.to_wire()) + server.log
    assert program(a="x")["b"] == "fine"


@pytest.mark.parametrize(
    "raw", ["this is no JSON", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": 5}}]}']
)
def test_an_answer_that_is_none(session: Session, lm: OpenAIServer, raw: str) -> None:
    lm.script.append(Reply(raw=raw))
    with pytest.raises(LMError) as caught:
        session.program("p")(a="x")
    assert caught.value.details["model"] == "main"
    assert session.program("p")(a="x")["b"] == "fine"


def test_a_stream_that_is_cut(session: Session, lm: OpenAIServer) -> None:
    for fault in (Reply(cut_after=5), Reply(hang_after=5)):
        lm.script.append(replace(fault, text=json_answer(b="one two three four five six seven eight")))
        stream = session.program("p").stream(a="x")
        with pytest.raises(LMError) as caught:
            list(stream)
        assert caught.value.details["type"] == "LMTransportError"
        assert len(lm.requests) == 1
        assert session.program("p")(a="x")["b"] == "fine"
        lm.requests.clear()


def test_parameters(session: Session, lm: OpenAIServer) -> None:
    session.configure_lm("tuned")
    session.program("p")(a="x")
    body = lm.requests[-1].body
    sent = {name: body[name] for name in ("top_p", "temperature", "max_completion_tokens", "stop", "seed")}
    assert sent == {"top_p": 0.5, "temperature": 0.25, "max_completion_tokens": 77, "stop": ["##", "--"], "seed": 42}
    session.configure_lm("thinker")
    session.program("p")(a="x")
    assert lm.requests[-1].body["reasoning_effort"] == "low"
    mine = {"model": "openai/gpt-4o-mini", "api_key": "mine", "api_base": lm.base, "adapter": "json"}
    session.configure_lm(settings={**mine, "top_p": 0.75, "stop": ["!"], "seed": 7})
    session.program("p")(a="x")
    body = lm.requests[-1].body
    assert (body["top_p"], body["stop"], body["seed"], lm.requests[-1].key) == (0.75, ["!"], 7, "mine")


@pytest.mark.parametrize("streamed", [False, True])
def test_xml(session: Session, lm: OpenAIServer, streamed: bool) -> None:
    session.configure_lm("xml")
    program = session.create_program("q", "a -> b, c: list[str]")
    text = "a < b &\nc" * 5
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    lm.script.append(Reply(f'<b>\n{escaped}\n</b>\n\n<c>\n["one", "two"]\n</c>'))
    if not streamed:
        assert dict(program(a="x")) == {"b": text, "c": ["one", "two"]}
        return
    stream = program.stream(a="x")
    items = [item for item in stream if item["type"] == "delta"]
    assert "".join(item["text"] for item in items if item["field"] == "b") == text
    assert json.loads("".join(item["text"] for item in items if item["field"] == "c")) == ["one", "two"]
    assert dict(stream.result) == {"b": text, "c": ["one", "two"]}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_two_steps(session: Session, lm: OpenAIServer, streamed: bool, own: bool) -> None:
    if own:
        mine = {"model": "openai/large", "api_key": "mine", "api_base": lm.base, "adapter": "two_step"}
        session.configure_lm(settings={**mine, "extraction_model": "reader"})
    else:
        session.configure_lm("steps")
    lm.script += [Reply("Well, I think that it is seven."), Reply(chat_answer(b="seven"))]
    program = session.program("p")
    if streamed:
        stream = program.stream(a="x")
        text = "".join(item["text"] for item in stream if item["type"] == "delta")
        assert text == stream.result["b"] == "seven"
    else:
        outputs = program(a="x")
        assert outputs["b"] == "seven"
        assert outputs.meta["usage"]["models"] == {"openai/large" if own else "steps": 1, "reader": 1}
    asked = [(seen.body["model"], seen.key) for seen in lm.requests]
    assert asked == [("large", "mine" if own else KEY), ("small", KEY)]
    assert "I think that it is seven" in lm.requests[1].prompt


def test_costs(session: Session) -> None:
    program = session.program("p")
    usage = program(a="x").meta["usage"]
    assert usage["cost"] == pytest.approx(4.05e-6)  # as DSPy knows it
    assert usage["models"] == {"main": 1}
    session.configure_lm("own")
    assert program(a="x").meta["usage"]["cost"] == pytest.approx((7 * 2 + 5 * 10) / 1e6)
    stream = program.stream(a="x")
    assert list(stream) is not None
    assert stream.meta["usage"]["cost"] == pytest.approx((7 * 2 + 5 * 10) / 1e6)
    session.configure_lm("unpriced")
    assert "cost" not in program(a="x").meta["usage"]


def test_all_that_is_wrong_with_settings_is_told_at_once(session: Session, lm: OpenAIServer) -> None:
    wrong: dict[str, Any] = {
        "model": "bedrock/x",
        "api_base": "file:///etc/passwd",
        "temperature": 9,
        "top_p": 2,
        "max_tokens": 0,
        "stop": [],
        "seed": "x",
        "reasoning_effort": "much",
        "adapter": "baml",
        "extra_headers": {"a": "b"},
        "timeout": 5,
    }
    with pytest.raises(InvalidParams) as caught:
        session.configure_lm(settings=wrong)
    assert {one["path"] for one in caught.value.details["errors"]} == {f"settings.{key}" for key in wrong}
    assert session.program("p")(a="x")["b"] == "fine"
    assert lm.requests[-1].key == KEY


def test_a_clients_address_never_gets_the_operators_key(server: Server, session: Session, lm: OpenAIServer) -> None:
    with OpenAIServer(answer=answer) as theirs:
        for settings in (
            {"model": "openai/gpt-4o-mini", "api_base": theirs.base},
            {"model": "openai/gpt-4o-mini", "api_base": theirs.base, "api_key": "mine"},
            {"model": "hosted_vllm/x", "api_base": theirs.base},
            {"model": "groq/x", "api_base": theirs.base},
            {"model": "openrouter/x", "api_base": theirs.base},
        ):
            session.configure_lm(settings={**settings, "adapter": "json"})
            with suppress(LMError):
                session.program("p")(a="x")
        assert theirs.requests
        assert {seen.key for seen in theirs.requests} <= {"none", "mine", ""}
        assert all(KEY not in str(seen.headers) + str(seen.body) for seen in theirs.requests)
        for inputs in ({"a": "x", "config": {"api_base": theirs.base}}, {"a": "x", "lm": "y"}):
            with pytest.raises(InvalidParams):
                session.program("p").run(inputs)
    session.configure_lm("main")
    assert session.program("p")(a="x")["b"] == "fine"
    assert lm.requests[-1].key == KEY
    assert KEY not in server.log


def test_a_trace_over_the_wire(session: Session) -> None:
    reply = session.request("execute_program", {"program": "p", "inputs": {"a": "secret"}, "trace": True})
    told = reply.meta["app"]["trace"]
    assert {event["kind"] for event in told} == {"module", "adapter", "lm"}
    assert "secret" not in str(told)
    params = {"program": "p", "inputs": {"a": "secret"}, "trace": "full"}
    stream = session.stream("execute_program", params)
    events = [item for item in stream if item["type"] == "trace"]
    assert any(event["kind"] == "lm" and event["event"] == "end" and "fine" in str(event) for event in events)
    assert KEY not in str(events)
