"""ReAct programs with tools that the client runs, over both servers, with an LM behind a real HTTP server."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dspex import Asked, CancelToken, Client, Program, Session
from dspex.errors import (
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    InvalidParams,
    InvalidSignature,
    PermissionDenied,
    UnknownMethod,
)
from e2e.support.configuration import Tables
from e2e.support.machine import WAIT, until
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Seen, json_answer

LEVELS = 3
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Tells the weather.", "schema": SCHEMA}


def answer(seen: Seen) -> str:
    """Use the tool that the question names, finish, and give what it told as the answer."""
    told = re.findall(r"\[\[ ## observation_0 ## \]\]\n(.*?)\n\n", seen.prompt, re.DOTALL)
    if "next_tool_name" not in seen.prompt:
        return json_answer(reasoning="so", answer=told[-1])
    if told:
        return json_answer(next_thought="done", next_tool_name="finish", next_tool_args={})
    question = json.loads(re.findall(r"\[\[ ## question ## \]\]\n(.*?)\n", seen.prompt)[-1])
    return json_answer(next_thought="ask", next_tool_name=question["tool"], next_tool_args=question["arguments"])


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def shared(request: pytest.FixtureRequest, lm: OpenAIServer) -> Iterator[Server]:
    model = {"model": "openai/m", "api_key": "env:LM_KEY", "api_base": lm.base, "adapter": "json", "default": True}
    tables: Tables = {"pools": {"default": {"app": "programs:app", "size": 1}}, "models": {"main": model}}
    with Server(request.param, tables, environment={"LM_KEY": "k"}) as server:
        yield server


@pytest.fixture
def session(server: Server) -> Session:
    return server.client().create_session()


def agent(session: Session, *tools: dict[str, Any]) -> Program:
    return session.create_program(None, "question -> answer", module="react", tools=tools or [WEATHER])


def question(tool: str, **arguments: Any) -> str:
    return json.dumps({"tool": tool, "arguments": arguments})


def test_a_tool_of_the_clients(session: Session, lm: OpenAIServer) -> None:
    def weather(params: dict[str, Any], asked: Asked) -> Any:
        assert (asked.session, asked.method) == (session.id, "weather")
        return {"sky": "clear", **params}

    session.offer("weather", weather)
    program = agent(session)
    outputs = program(question=question("weather", city="Oslo", days=2))
    assert json.loads(outputs.answer) == {"sky": "clear", "city": "Oslo", "days": 2}
    assert outputs.trajectory["tool_name_0"] == "weather"
    assert outputs.trajectory["observation_0"] == {"sky": "clear", "city": "Oslo", "days": 2}
    assert outputs.meta["usage"]["lm_calls"] == 3
    assert set(outputs) == set(program.info()["outputs"]["properties"])
    first = lm.requests[-3].prompt
    assert "Tells the weather. Arguments that may be left out: days." in first
    assert "'minimum': 1" in first


def test_as_a_stream(session: Session) -> None:
    session.offer("weather", lambda _, __: b"1234")
    stream = agent(session).stream(question=question("weather", city="Oslo"))
    told = [item["message"] for item in stream if item["type"] == "status"]
    assert "tool weather started" in told
    assert "tool ended" in told
    assert stream.result.answer == "(4 bytes)"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "'city' is a required property"),
        ({"city": 1}, "1 is not of type 'string'"),
        ({"city": "Oslo", "days": 0}, "0 is less than the minimum of 1"),
        ({"city": "Oslo", "more": 1}, "Additional properties are not allowed ('more' was unexpected)"),
        ({"city": "nowhere"}, "no such city"),
        ({"city": "secret"}, "not you"),
    ],
)
def test_the_lm_is_told_of_what_a_tool_fails_of(session: Session, arguments: dict[str, Any], told: str) -> None:
    def weather(params: dict[str, Any], _: Asked) -> Any:
        if params["city"] == "secret":
            raise PermissionDenied("not you")
        raise LookupError("no such city")

    session.offer("weather", weather)
    outputs = agent(session)(question=question("weather", **arguments))
    assert outputs.answer == f"Execution error in weather: {told}"


def test_a_program_with_a_tool_of_the_clients_is_evaluated(session: Session) -> None:
    session.offer("weather", lambda params, _: f"clear in {params['city']}")
    program = agent(session)
    rows = [{"question": question("weather", city=city), "answer": f"clear in {city}"} for city in ("Oslo", "Bergen")]
    given = {"program": program.id, "devset": [*rows, {**rows[0], "answer": "rain"}], "metric": "exact"}
    stream = session.stream("evaluate_program", given, timeout=30)
    list(stream)
    assert [row["score"] for row in stream.result["rows"]] == [1, 1, 0]
    assert stream.result["errors"]["count"] == 0


def test_a_tool_that_the_client_does_not_have_ends_the_call(session: Session) -> None:
    with pytest.raises(UnknownMethod, match="this client offers no method 'weather'"):
        agent(session)(question=question("weather", city="Oslo"))


def test_a_schema_is_never_fetched_and_cannot_hold_up_the_worker(session: Session, lm: OpenAIServer) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": f"{lm.base}/schema.json"}}}
    slow = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    circle = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}
    doubled: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    doubled = {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**doubled, "d40": {}}}
    again = {**slow, "$schema": "https://json-schema.org/draft/2020-12/schema"}
    again["properties"] = {"a": {"type": "string", "pattern": "^(a+)+$"}, "b": {"$ref": "#"}}
    schemas = (schema, slow, circle, doubled, again)
    program = agent(session, *({"name": f"t{n}", "schema": one} for n, one in enumerate(schemas)))
    for name in ("t0", "t1", "t2", "t3", "t4"):
        session.offer(name, lambda _, __: "used")
    assert "the tool's schema cannot be used" in program(question=question("t0", a="x")).answer
    assert {seen.path for seen in lm.requests} == {"/v1/chat/completions"}
    assert program(question=question("t1", a="a" * 40 + "!")).answer == "used"
    assert "the tool's schema cannot be used: RecursionError" in program(question=question("t2", a="x")).answer
    assert "the tool's schema cannot be used: RecursionError" in program(question=question("t3", a=1)).answer
    assert program(question=question("t4", b={"a": "a" * 40 + "!"})).answer == "used"


@pytest.mark.parametrize(
    ("tools", "path"),
    [
        (None, "tools"),
        ([], "tools"),
        ([WEATHER] * 65, "tools"),
        ([WEATHER, WEATHER], "tools[1].name"),
        ([{"name": "finish"}], "tools[0].name"),
        ([{"name": ""}], "tools[0]"),
        ([{"name": "a", "url": "b"}], "tools[0]"),
        ([{"name": "a", "description": 1}], "tools[0]"),
        ([{"name": "a", "schema": {"type": "string"}}], "tools[0]"),
        ([{"name": "a", "schema": {"type": "object", "properties": {"a": {"type": "text"}}}}], "tools[0]"),
        ([{"name": "a", "schema": {"properties": {"a": {"patternProperties": {"(a+)+": {}}}}}}], "tools[0]"),
        ([{"name": "a", "schema": {"unevaluatedProperties": False}}], "tools[0]"),
        ([{"name": "a", "schema": {"properties": {"a": {"$schema": "x", "pattern": "^(a+)+$"}}}}], "tools[0]"),
        ([{"name": "a", "schema": {"description": "x" * 20_000}}], "tools[0]"),
    ],
)
def test_tools_that_cannot_be(session: Session, tools: Any, path: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        session.create_program("p", "question -> answer", module="react", tools=tools)
    assert refused.value.details["errors"][0]["path"] == path


def test_what_tools_are_not_for(session: Session) -> None:
    with pytest.raises(InvalidParams, match="are for the module 'react'"):
        session.create_program("p", "question -> answer", tools=[WEATHER])
    for signature in ("trajectory -> answer", "max_iters -> answer", "question -> reasoning"):
        with pytest.raises(InvalidSignature, match="a name that react uses itself"):
            session.create_program("p", signature, module="react", tools=[WEATHER])


class Held:
    """A tool that goes on until its call has ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.on_begin: Callable[[], None] | None = None

    def __call__(self, _: Any, asked: Asked) -> None:
        if self.on_begin is not None:
            self.on_begin()
        deadline = time.monotonic() + WAIT
        while not asked.cancelled and time.monotonic() < deadline:
            time.sleep(0.002)
        if asked.cancelled:
            self.ended.set()


def none_in_flight(server: Server) -> None:
    other = server.client()
    until(lambda: not other.call("sidecar.calls")["calls"], "the call has ended in the worker, too")


def test_a_deadline_ends_the_tool_and_the_program(server: Server, session: Session) -> None:
    held = Held()
    session.offer("weather", held)
    with pytest.raises(DeadlineExceeded):
        agent(session).run({"question": question("weather", city="Oslo")}, timeout=0.5)
    assert held.ended.wait(WAIT)
    none_in_flight(server)


def test_a_cancel_ends_the_tool_and_the_program(server: Server, session: Session) -> None:
    held, token = Held(), CancelToken()
    session.offer("weather", held)
    program = agent(session)
    held.on_begin = token.cancel
    with pytest.raises(Cancelled):
        program.run({"question": question("weather", city="Oslo")}, cancel=token)
    assert held.ended.wait(WAIT)
    none_in_flight(server)


def test_a_client_that_leaves_ends_the_program(server: Server) -> None:
    client = Client(server.path)
    session, held = client.create_session(), Held()
    session.offer("weather", held)
    program = agent(session)
    held.on_begin = client.close
    with pytest.raises(ConnectionLost):
        program(question=question("weather", city="Oslo"))
    assert held.ended.wait(WAIT)
    none_in_flight(server)


@pytest.mark.parametrize("at", [None, *range(LEVELS)])
def test_programs_whose_tools_run_programs_with_a_cancel_at_each_level(server: Server, at: int | None) -> None:
    client, token, ended = server.client(), CancelToken(), []
    sessions = [client.create_session() for _ in range(LEVELS)]
    programs = [agent(session, {"name": "deeper"}) for session in sessions]

    def run(caller: Any, level: int) -> str:
        program = caller.session(sessions[level].id).program(programs[level].id)
        cancel = {"cancel": token} if level == at else {}
        try:
            return str(program.run({"question": question("deeper", level=level + 1)}, **cancel).answer)
        except Cancelled:
            if level != at:
                raise
            return "cancelled here"

    def deeper(params: dict[str, Any], asked: Asked) -> str:
        level = params["level"]
        try:
            if level < LEVELS:
                return f"{level}: {run(asked.client, level)}"
            if at is None:
                return "bottom"
            token.cancel()
            until(lambda: asked.cancelled, "the cancel comes to the last level")
            return "nobody hears this"
        finally:
            if asked.cancelled:
                ended.append(level)

    client.offer("deeper", deeper)
    bottom = "bottom" if at is None else "cancelled here"
    depth = LEVELS - 1 if at is None else at
    assert run(client, 0) == "".join(f"{level}: " for level in range(1, depth + 1)) + bottom
    if at is not None:
        until(lambda: len(ended) == LEVELS - at, "all below it have ended")
        assert sorted(ended) == list(range(at + 1, LEVELS + 1))
    none_in_flight(server)
