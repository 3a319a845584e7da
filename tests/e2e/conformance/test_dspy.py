"""The DSPy application over both servers, with an LM behind a real HTTP server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dspex import Session
from dspex.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidParams,
    InvalidSignature,
    LMError,
    NotSerializable,
    ProgramError,
    ProgramExists,
    ProgramNotFound,
)
from e2e.support.configuration import Tables
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Reply, Seen, json_answer

KEY = "sk-of-the-operator-1234567890"
ANSWERS: dict[str, Any] = {
    "topic": "billing",
    "urgent": True,
    "score": 0.5,
    "names": ["Ada", "Grace"],
    "year": None,
    "counts": {"a": 1},
    "answer": "yes",
    "b": "b of the first",
    "first": "one",
    "second": ["two", "three"],
}
TRIAGE: dict[str, Any] = {
    "name": "Triage",
    "description": "Sort a customer's message.",
    "inputs": [{"name": "message", "type": "str", "description": "what they wrote"}, {"name": "limit", "type": "int"}],
    "outputs": [
        {"name": "topic", "type": 'Literal["billing", "delivery"]'},
        {"name": "urgent", "type": "bool"},
        {"name": "score", "type": "float"},
        {"name": "names", "type": "list[str]"},
        {"name": "year", "type": "int | None"},
        {"name": "counts", "type": "dict[str, int]"},
    ],
}


def answer(seen: Seen) -> str:
    """Values for whichever of the outputs the prompt asks for."""
    asked = seen.prompt
    return json_answer(**{name: value for name, value in ANSWERS.items() if re.search(rf"\b{name}\b", asked)})


@pytest.fixture(scope="module")
def lm() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as server:
        yield server


@pytest.fixture(scope="module", params=["sidecar", "standalone"])
def shared(request: pytest.FixtureRequest, lm: OpenAIServer) -> Iterator[Server]:
    model = {"model": "openai/m", "api_key": "env:OPERATOR_KEY", "api_base": lm.base, "adapter": "json"}
    tables: Tables = {
        "pools": {"default": {"app": "programs:app", "size": 1}},
        "models": {"main": {**model, "default": True}, "other": {**model, "model": "openai/other"}},
    }
    with Server(request.param, tables, environment={"OPERATOR_KEY": KEY}) as server:
        yield server


@pytest.fixture
def session(server: Server, lm: OpenAIServer) -> Iterator[Session]:
    lm.requests.clear()
    lm.script.clear()
    with server.client().create_session() as session:
        yield session


def test_a_program_from_fields(session: Session) -> None:
    triage = session.create_program("triage", TRIAGE)
    outputs = triage(message="I was charged twice", limit=3)
    assert outputs.topic == "billing"
    assert dict(outputs) == {name: ANSWERS[name] for name in ("topic", "urgent", "score", "names", "year", "counts")}
    assert [type(outputs[name]) for name in ("urgent", "score", "names")] == [bool, float, list]
    info = triage.info()
    assert (info["program"], info["scope"], info["module"], info["model"]) == ("triage", "session", "predict", "main")
    assert info["inputs"]["required"] == ["message", "limit"]
    assert info["inputs"]["properties"]["limit"]["type"] == "integer"
    assert info["outputs"]["properties"]["topic"]["enum"] == ["billing", "delivery"]
    assert "Sort a customer's message." in str(info)


@pytest.mark.parametrize("module", [None, "predict", "chain_of_thought"])
def test_a_program_from_text(session: Session, lm: OpenAIServer, module: str | None) -> None:
    if module == "chain_of_thought":
        lm.script.append(Reply(json_answer(reasoning="because", answer="yes", score=0.5)))
    program = session.create_program(
        "qa", "question, context: list[str] -> answer: str, score: float", module=module, instructions="Be brief."
    )
    outputs = program(question="?", context=["a", "b"])
    assert (outputs.answer, outputs.score) == ("yes", 0.5)
    assert "Be brief." in lm.requests[-1].prompt
    if module == "chain_of_thought":
        assert outputs["reasoning"] == "because"


def test_usage_and_worker_in_meta(session: Session) -> None:
    outputs = session.create_program("qa", "question -> answer")(question="?")
    assert outputs.meta["worker"].startswith("worker_")
    usage = outputs.meta["usage"]
    assert (usage["lm_calls"], usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        1,
        7,
        5,
        12,
    )
    twice = session.program("twice")(text="x")
    assert (twice["first"], twice["second"]) == ("one", ["two", "three"])
    assert twice.meta["usage"]["lm_calls"] == 2
    assert session.request("list_programs").meta.get("usage") is None


def test_an_id_is_made_where_none_is_given(session: Session) -> None:
    first, second = (session.create_program(None, "a -> b") for _ in range(2))
    assert first.id != second.id
    assert first(a="x")["b"] == "b of the first"


def test_programs_are_listed_replaced_and_deleted(session: Session) -> None:
    session.create_program("p", "a -> b")
    with pytest.raises(ProgramExists) as caught:
        session.create_program("p", "a -> answer")
    assert not caught.value.retryable
    with pytest.raises(ProgramExists):
        session.create_program("twice", "a -> b", replace=True)  # the application's
    replaced = session.create_program("p", "a -> answer", replace=True)
    assert dict(replaced(a="x")) == {"answer": "yes"}
    listed = {one["program"]: one["scope"] for one in session.programs()}
    assert listed == {"p": "session", "twice": "application", "crashing": "application", "unpackable": "application"}
    replaced.delete()
    for use in (replaced.info, replaced.delete, lambda: replaced(a="x")):
        with pytest.raises(ProgramNotFound):
            use()
    with pytest.raises(InvalidParams):
        session.program("twice").delete()


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "question",
        "-> answer",
        "question ->",
        "a -> b: os.PathLike",
        "a -> b: __import__('os').system('true')",
        "a, a -> b",
        "a -> a",
        "config -> b",
        "_a -> b",
        5,
        {"inputs": [], "outputs": [{"name": "b"}]},
        {"inputs": [{"name": "a"}], "outputs": [{"name": "b", "type": "Nothing"}]},
        {"inputs": [{"name": "a b"}], "outputs": [{"name": "b"}]},
        {"inputs": [{"name": "a"}], "outputs": [{"name": "b"}], "code": "x"},
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(session: Session, signature: Any) -> None:
    with pytest.raises((InvalidSignature, InvalidParams)) as caught:
        session.create_program("p", signature)
    assert caught.value.code == "invalid_signature"
    assert caught.value.details["errors"][0]["path"]
    assert caught.value.details["errors"][0]["message"]
    assert "p" not in [one["program"] for one in session.programs()]


def test_a_module_that_is_not_there(session: Session) -> None:
    for module in ("nothing", "os.system", "dspy.Predict"):
        with pytest.raises(InvalidParams):
            session.create_program("p", "a -> b", module=module)


def test_inputs_are_checked_before_any_lm_is_called(session: Session, lm: OpenAIServer) -> None:
    program = session.create_program("triage", TRIAGE)
    with pytest.raises(InvalidParams) as caught:
        program(limit="3", extra=1)
    assert {problem["path"] for problem in caught.value.details["errors"]} == {
        "inputs.message",
        "inputs.limit",
        "inputs.extra",
    }
    for inputs in ({"message": 5, "limit": 1}, {"message": "x", "limit": True}, {"message": "x", "limit": 1.5}, {}):
        with pytest.raises(InvalidParams):
            program.run(inputs)
    assert lm.requests == []


def test_without_a_session(server: Server, lm: OpenAIServer) -> None:
    lm.requests.clear()
    client = server.client()
    assert client.program("twice")(text="x")["first"] == "one"
    assert client.program("twice").info()["scope"] == "application"
    for method, params in (
        ("create_program", {"signature": "a -> b"}),
        ("configure_lm", {"model": "main"}),
        ("delete_program", {"program": "p"}),
        ("reset_state", {}),
        ("get_session_state", {}),
        ("update_session_state", {"set": {"a": 1}}),
    ):
        with pytest.raises(InvalidParams, match="session"):
            client.call(method, params)


def test_configure_lm(session: Session, lm: OpenAIServer) -> None:
    program, special = session.create_program("p", "a -> b"), session.create_program("q", "a -> b")
    assert session.configure_lm("other") == {"model": "other"}
    assert session.configure_lm("main", program="q") == {"model": "main", "program": "q"}
    program(a="x")
    special(a="x")
    assert [seen.body["model"] for seen in lm.requests] == ["other", "m"]
    assert {seen.key for seen in lm.requests} == {KEY}
    assert (program.info()["model"], special.info()["model"]) == ("other", "main")
    for wrong in ({"model": "unheard of"}, {"settings": {"model": "openai/m"}}, {"settings": {"model": "bad"}}, {}):
        with pytest.raises(InvalidParams):
            session.configure_lm(**wrong)
    with pytest.raises(ProgramNotFound):
        session.configure_lm("main", program="none")


def test_the_settings_of_a_session_are_its_own(server: Server, session: Session, lm: OpenAIServer) -> None:
    client = server.client()
    with OpenAIServer(answer=lambda seen: json_answer(b=f"for {seen.key}")) as theirs:
        sessions = [client.create_session() for _ in range(4)]
        for number, one in enumerate(sessions):
            one.create_program("p", "a -> b")
            if number % 2:
                settings = {"model": "openai/x", "api_key": f"key-{number}", "api_base": theirs.base, "adapter": "json"}
                assert one.configure_lm(settings=settings) == {"model": "openai/x"}

        def work(number: int) -> str:
            text: str = sessions[number % 4].program("p")(a="x")["b"]
            return text

        with ThreadPoolExecutor(16) as pool:
            got = list(pool.map(work, range(80)))
        assert got == ["b of the first", "for key-1", "b of the first", "for key-3"] * 20
        assert {seen.key for seen in lm.requests} == {KEY}
        assert {seen.key for seen in theirs.requests} == {"key-1", "key-3"}
        for one in sessions:
            shown = str(one.info()) + str(one.call("get_session_state")) + str(one.program("p").info())
            assert "key-" not in shown
            assert KEY not in shown
            one.end()
    assert "key-1" not in server.log
    assert KEY not in server.log


def test_state(session: Session) -> None:
    session.create_program("p", "a -> b")
    session.configure_lm("other")
    assert session.state() == {}  # programs and settings are not shown
    assert session.call("update_session_state", {"set": {"a": 1, "b": 2}, "delete": ["c"]}) == {"keys": ["a", "b"]}
    session.call("note", {"key": "c", "value": [3]})
    assert session.call("get_session_state") == {"state": {"a": 1, "b": 2, "c": [3]}}
    assert session.state() == {"a": 1, "b": 2, "c": [3]}
    for key in ("dspex.programs", "", "k" * 257):
        with pytest.raises(InvalidParams):
            session.call("update_session_state", {"set": {key: 1}})
    assert session.call("reset_state")["deleted"] >= 5
    assert session.state() == {}
    assert [one["scope"] for one in session.programs()] == ["application"] * 3
    again = session.create_program("p", "a -> b")
    assert again.info()["model"] == "main"


@pytest.mark.parametrize(
    ("reply", "status", "retryable"),
    [
        (Reply(status=401, message=f"wrong key {KEY}"), 401, False),
        (Reply(status=429, message="slow down", headers={"Retry-After": "7"}), 429, True),
        (Reply(status=500, message="oops"), 500, True),
        (Reply(status=400, message="what"), 400, False),
        (Reply("no JSON at all"), None, False),
        (Reply(cut_after=0), None, True),
    ],
)
def test_errors_of_the_lm(
    server: Server, session: Session, lm: OpenAIServer, reply: Reply, status: int | None, retryable: bool
) -> None:
    program = session.create_program("p", "a -> b")
    lm.script.append(reply)
    with pytest.raises(LMError) as caught:
        program(a="x")
    error = caught.value
    assert (error.details.get("status"), error.retryable, error.details["model"]) == (status, retryable, "main")
    assert error.details.get("retry_after_ms") == (7000 if status == 429 else None)
    assert error.details["type"]
    assert KEY not in str(error.to_wire())
    assert KEY not in server.log
    assert len(lm.requests) == 1
    assert program(a="x")["b"] == "b of the first"


def test_what_a_failed_call_took(session: Session, lm: OpenAIServer) -> None:
    session.create_program("p", "a -> b")
    tokens = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    none = dict.fromkeys(tokens, 0)
    bad = Reply("no JSON at all")
    for name, inputs, script, expected in (
        ("twice", {"text": "x"}, [Reply(json_answer(first="one")), Reply(status=400)], {"lm_calls": 2, **tokens}),
        ("p", {"a": "x"}, [Reply(status=400)], {"lm_calls": 1, **none}),
        ("p", {"a": "x"}, [bad], {"lm_calls": 1, **tokens}),
    ):
        for streamed in (False, True):
            lm.script.extend(script)
            program = session.program(name)
            with pytest.raises(LMError) as caught:
                list(program.run_stream(inputs)) if streamed else program.run(inputs)
            usage = caught.value.meta["usage"]
            assert {key: usage.get(key) for key in expected} == expected, (name, streamed)
            assert caught.value.meta["worker"].startswith("worker_")


def test_programs_that_fail(session: Session) -> None:
    with pytest.raises(ProgramError, match="cannot do x") as caught:
        session.program("crashing")(a="x")
    assert caught.value.details["type"] == "ValueError"
    with pytest.raises(NotSerializable) as unpackable:
        session.program("unpackable")(a="x")
    assert "deep" in unpackable.value.details["path"]
    with pytest.raises(ProgramNotFound):
        session.program("nothing")(a="x")


def test_a_streamed_execution(session: Session, lm: OpenAIServer) -> None:
    program = session.create_program("p", "a -> b")
    story = "Once upon a time. " * 30
    lm.script.append(Reply(json_answer(b=story)))
    stream = program.stream(a="x")
    items = list(stream)
    assert "".join(item["text"] for item in items if item["type"] == "delta" and item["field"] == "b") == story
    assert len(items) > 20
    assert dict(stream.result) == {"b": story}
    assert stream.meta["usage"]["lm_calls"] == 1
    lm.script.append(Reply(json_answer(b=story)))
    assert [item["type"] for item in program.run_stream({"a": "x"}, credit=1)].count("delta") > 20
    with pytest.raises(InvalidParams):
        list(program.stream(wrong=1))
    lm.script.append(Reply(status=429, message="slow"))
    with pytest.raises(LMError):
        list(program.stream(a="x"))


def test_leaving_a_streamed_execution_ends_the_lms_request(session: Session, lm: OpenAIServer) -> None:
    program = session.create_program("p", "a -> b")
    before = lm.disconnects
    lm.script.append(Reply(json_answer(b="words " * 100), hang_after=10))
    with program.stream(a="x") as stream:
        next(stream)
    assert lm.wait_for(lambda server: server.disconnects == before + 1)
    with pytest.raises(Cancelled):
        _ = stream.result
    assert program(a="x")["b"] == "b of the first"


def test_a_deadline_ends_the_lms_request(session: Session, lm: OpenAIServer) -> None:
    program = session.create_program("p", "a -> b")
    before = lm.disconnects
    for count, (name, inputs) in enumerate((("p", {"a": "x"}), ("twice", {"text": "x"})), 1):
        lm.script.append(Reply(hang_after=0))
        with pytest.raises((DeadlineExceeded, LMError)):
            session.program(name).run(inputs, timeout=0.5)
        assert lm.wait_for(lambda server, seen=before + count: server.disconnects == seen)  # type: ignore[misc]
    assert program(a="x")["b"] == "b of the first"


def test_many_executions_at_once(session: Session, lm: OpenAIServer) -> None:
    """A session's executions only read, so they run beside each other."""
    program = session.create_program("p", "a -> b")
    lm.script.extend(Reply(json_answer(b="slow"), pause=0.5) for _ in range(10))
    with ThreadPoolExecutor(10) as pool:
        got = [done.result(20) for done in [pool.submit(program, a=str(number)) for number in range(10)]]
    assert {outputs["b"] for outputs in got} == {"slow"}
    assert max(outputs.meta["queue_us"] for outputs in got) < 2_000_000
