"""Programs as data and their versions; many inputs at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspex.errors import InvalidParams, InvalidSignature, ProgramExists, ProgramNotFound
from dspex_worker import App
from dspex_worker.dspy_app.application import ApplicationPrograms
from dspex_worker.dspy_app.records import Record
from dspex_worker.dspy_app.shared_programs import SharedPrograms
from support.driver import WAIT, Driver, driving
from support.openai_server import OpenAIServer, Reply, Seen, json_answer

Scenario = Callable[[Driver, OpenAIServer], Awaitable[None]]


def run(scenario: Scenario, app: App | None = None) -> None:
    def answer(seen: Seen) -> str:
        return json_answer(answer=seen.prompt.rpartition("QQ")[2][:1], reasoning="since")

    async def go() -> None:
        with OpenAIServer(answer=answer) as server:
            models = {"main": {"model": "openai/m", "api_key": "kkkk", "api_base": server.base, "adapter": "json"}}
            async with driving(app or App(), models) as driver:
                await scenario(driver, server)

    asyncio.run(go())


def paths(error: InvalidParams) -> list[str]:
    return [problem["path"] for problem in error.details["errors"]]


def test_a_program_goes_out_and_comes_in_again() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call(
            "create_program", "s", id="p", signature="q: str, n: int -> answer", module="chain_of_thought",
            instructions="Be brief.", demos=[{"q": "demo-4711", "n": 1, "answer": "a"}], memory={"turns": 3},
        )  # fmt: skip
        await driver.call("configure_lm", "s", settings={"model": "openai/x", "api_key": "sk-of-the-client"})
        data = dict(await driver.call("export_program", "s", program="p"))
        assert "sk-of-the-client" not in str(data)
        assert json.loads(json.dumps(data)) == data
        assert (data["format"], data["model"], data["source"]) == ("dspex.program/1", "openai/x", "created")
        about = {"format", "version", "source", "created", "meta", "model"}
        assert set(data) - about == {"signature", "module", "instructions", "memory", "state"}
        made = await driver.call("import_program", "t", id="q", data=data)
        assert (made["version"], made["signature"], made["ignored"]) == (1, "q, n: int -> reasoning, answer", [])
        driver.restored("t")
        await driver.call("execute_program", "t", program="q", inputs={"q": "QQ1", "n": 1})
        assert "demo-4711" in server.requests[0].prompt
        assert "Be brief." in server.requests[0].prompt
        again = await driver.call("export_program", "t", program="q")
        same = ("signature", "module", "instructions", "memory", "state")
        assert {key: again[key] for key in same} == {key: data[key] for key in same}
        assert again["source"] == "imported"
        with pytest.raises(ProgramExists):
            await driver.call("import_program", "t", id="q", data=data)
        assert (await driver.call("import_program", "t", id="q", data=data, replace=True))["version"] == 2

    run(scenario)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"code": "import os"}, "data.code"),
        ({"format": "pickle"}, "data.format"),
        ({"state": {"self": {"lm": {"api_base": "http://x"}}}}, "data.state"),
        ({"state": {"other": {"demos": []}}}, "state.other"),
        ({"state": {"self": {"demos": [{"z": 1}]}}}, "state.self.demos[0].z"),
        ({"state": "x"}, "data.state"),
        ({"meta": "x" * 20_000}, "data.meta"),
        ({"module": 5}, "data.module"),
        ({"module": "os.system"}, "module"),
        ({"instructions": "x" * 20_000}, "data.instructions"),
        ({"tools": ["price"]}, "tools"),
        ({"parameters": {"n": 1}}, "parameters.n"),
        ({"memory": {"turns": -1}}, "memory.turns"),
    ],
)
def test_what_comes_in_is_checked(change: dict[str, Any], path: str) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        data = {"format": "dspex.program/1", "signature": "q -> answer", "module": "predict"}
        with pytest.raises(InvalidParams) as caught:
            await driver.call("import_program", "s", id="p", data=data | change)
        assert paths(caught.value) == [path]
        signatures: list[Any] = ["q ->", None, {"inputs": []}]
        for signature in signatures:
            with pytest.raises(InvalidSignature):
                await driver.call("import_program", "s", id="p", data=data | {"signature": signature})
        assert not driver.session("s").entries

    run(scenario)


def test_what_dspy_itself_saved_comes_in(tmp_path: Path) -> None:
    def saved(module: dspy.Module, instructions: str) -> dict[str, Any]:
        for _, predictor in module.named_predictors():
            predictor.demos = [dspy.Example(q="demo-4711", answer="a", augmented=True)]
            predictor.signature = predictor.signature.with_instructions(instructions)
        module.set_lm(dspy.LM("openai/x", api_key="sk-saved", api_base="http://elsewhere"))
        module.save(tmp_path / "state.json")
        read: dict[str, Any] = json.loads((tmp_path / "state.json").read_text())
        return read

    one, chain = saved(dspy.Predict("q -> answer"), "One."), saved(dspy.ChainOfThought("q -> answer"), "Chain.")

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="q -> answer", instructions="Mine.")
        made = await driver.call("import_program", "s", id="p", data=one)
        assert (made["version"], made["ignored"]) == (2, ["self.lm"])
        await driver.call("import_program", "s", id="c", data=chain, signature="q -> answer", module="chain_of_thought")
        for program, told in (("p", "One."), ("c", "Chain.")):
            await driver.call("execute_program", "s", program=program, inputs={"q": "QQ1"})
            assert told in server.requests[-1].prompt
            assert "demo-4711" in server.requests[-1].prompt
            assert server.requests[-1].key == "kkkk"
        assert "sk-saved" not in str(driver.session("s").entries)
        for data, path in (
            (one | {"signature": {"instructions": "x", "fields": [{"prefix": "Other:"}]}}, "data.self.signature"),
            (chain, "data.predict"),
            ({"self": {**one, "code": "x"}}, "data.self"),
            (one | {"demos": [{"z": 1}]}, "state.self.demos[0].z"),
        ):
            with pytest.raises(InvalidParams) as caught:
                await driver.call("import_program", "s", id="p", data=data)
            assert paths(caught.value) == [path]
        with pytest.raises(ProgramNotFound):
            await driver.call("import_program", "s", id="none", data=one)
        assert (await driver.call("get_program_info", "s", program="p"))["version"] == 2

    run(scenario)


def test_versions_are_kept_and_used_again() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for number in range(1, 15):
            signature, instructions = "q -> answer", f"Instructions number {number}."
            await driver.call(
                "create_program", "s", id="p", signature=signature, instructions=instructions, replace=True
            )
        await driver.call("create_program", "s", id="p.q", signature="q -> answer")
        listed = (await driver.call("list_versions", "s", program="p"))["versions"]
        assert [one["version"] for one in listed] == list(range(14, 4, -1))
        assert [one["version"] for one in listed if one["current"]] == [14]
        assert {one["source"] for one in listed} == {"replaced"}
        assert listed[0]["created"].tzinfo is not None
        used = await driver.call("use_version", "s", program="p", version=5)
        assert used == {"program": "p", "version": 5, "scope": "session"}
        driver.restored("s")
        await driver.call("execute_program", "s", program="p", inputs={"q": "QQ1"})
        assert "Instructions number 5." in server.requests[0].prompt
        assert (await driver.call("get_program_info", "s", program="p"))["version"] == 5
        assert "number 14" in (await driver.call("export_program", "s", program="p", version=14))["instructions"]
        await driver.call("create_program", "s", id="p", signature="q -> answer", replace=True)
        listed = (await driver.call("list_versions", "s", program="p"))["versions"]
        assert [one["version"] for one in listed] == list(range(15, 5, -1))
        for version in (5, 99, -1):
            with pytest.raises(InvalidParams, match="versions are: 6, 7"):
                await driver.call("use_version", "s", program="p", version=version)
        assert len((await driver.call("list_versions", "s", program="p.q"))["versions"]) == 1
        await driver.call("delete_program", "s", program="p")
        assert not [key for key in driver.session("s").entries if key.endswith(".p")]
        with pytest.raises(ProgramNotFound):
            await driver.call("list_versions", "s", program="p")

    run(scenario)


def test_what_has_no_versions_is_said() -> None:
    app = App()
    app.program("own")(dspy.Predict("question -> answer"))

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for method, params in (
            ("export_program", {"program": "own"}),
            ("list_versions", {"program": "own"}),
            ("use_version", {"program": "own", "version": 1}),
            ("import_program", {"id": "own", "data": {"demos": [], "signature": {}}}),
        ):
            with pytest.raises(InvalidParams, match="is the application's"):
                await driver.call(method, "s", **params)
        with pytest.raises(InvalidParams) as caught:
            await driver.call("import_program", "s", data={"demos": [], "signature": {}})
        assert paths(caught.value) == ["signature"]

    run(scenario, app)


def test_an_exported_program_is_configured_with_all_that_it_has() -> None:
    demo = {"question": "why", "answer": "demo-4711"}
    data: dict[str, Any] = {
        "format": "dspex.program/1", "signature": "question->answer", "module": "predict", "instructions": "Say QQ7.",
        "state": {"self": {"demos": [demo]}},
    }  # fmt: skip

    def settings(state: object, **more: Any) -> dict[str, Any]:
        given = {"signature": "question -> answer", "module": "predict", "state": json.dumps(state), **more}
        return {"programs": {"own": given}}

    async def go() -> None:
        with OpenAIServer(answer=lambda seen: json_answer(answer=seen.prompt.partition("QQ")[2][:1])) as server:
            models = {"main": {"model": "openai/m", "api_key": "k", "api_base": server.base, "adapter": "json"}}
            async with driving(App(), models, settings=settings(data)) as driver:
                assert (await driver.call("execute_program", program="own", inputs={"question": "?"}))["answer"] == "7"
                assert "demo-4711" in server.requests[0].prompt
            async with driving(App(), models, settings=settings(data, instructions="Say QQ8.")) as driver:
                assert (await driver.call("execute_program", program="own", inputs={"question": "?"}))["answer"] == "8"

    asyncio.run(go())

    async def refused(given: dict[str, Any]) -> None:
        async with driving(App(), settings=given):
            pass

    saved = {"demos": [], "signature": {"instructions": "\ud800"}}
    for wrong, why in (
        (settings({**data, "signature": "question, context -> answer", "state": None}), "of the signature"),
        (settings({**data, "nearest": {"k": 0}}), "nearest"),
        (settings(saved), "no Unicode"),
        (settings(None), "JSON object"),
        (settings(data, demos="null"), "JSON list"),
    ):
        with pytest.raises(ValueError, match=f"programs.own: .*{why}"):
            asyncio.run(refused(wrong))


def test_one_for_all_that_cannot_be_built_says_who_can_help() -> None:
    shared = SharedPrograms(ApplicationPrograms(App()).builder)
    shared.use({"p": {"current": Record("a: Gone -> b", "predict", None, None).to_value(), "earlier": []}})
    with pytest.raises(
        InvalidParams, match=r"'Gone' is not known; .* an administrator chooses another version"
    ) as caught:
        shared.get("p")
    assert "session" not in caught.value.message


def test_many_inputs_at_once() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="q -> answer")
        inputs = [{"q": f"QQ{number}"} for number in range(10)]
        got = await driver.call("execute_batch", "s", program="p", inputs=inputs)
        assert got.value == [{"index": n, "outputs": {"answer": str(n)}} for n in range(10)]
        assert got.usage["lm_calls"] == 10
        streamed = await driver.stream("execute_batch", "s", program="p", inputs=inputs, concurrency=3)
        assert sorted(one["index"] for one in streamed.streamed) == list(range(10))
        assert all(one["outputs"]["answer"] == str(one["index"]) for one in streamed.streamed)
        assert streamed == {"count": 10}
        # All that is wrong with any is told, and nothing is run.
        before = len(server.requests)
        with pytest.raises(InvalidParams) as caught:
            await driver.call("execute_batch", "s", program="p", inputs=[{"q": "x"}, {"q": 5}, {}])
        assert paths(caught.value) == ["inputs[1].q", "inputs[2].q"]
        refused: list[dict[str, Any]] = [{"inputs": []}, {"concurrency": 0}, {"concurrency": 99}]
        for params in refused:
            with pytest.raises(InvalidParams):
                await driver.call("execute_batch", "s", program="p", **{"inputs": inputs, **params})
        assert len(server.requests) == before

    run(scenario)


def test_results_come_as_they_are_done_and_errors_are_results() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="q -> answer")

        def answer(seen: Seen) -> Reply | str:
            if "slow" in seen.prompt:
                return Reply(json_answer(answer="slow"), pause=0.3)
            return Reply(status=429, message="no") if "fail" in seen.prompt else json_answer(answer="fast")

        server.answer = answer
        inputs = [{"q": "slow"}, {"q": "fail"}, {"q": "fast"}]
        got = await driver.stream("execute_batch", "s", program="p", inputs=inputs)
        assert got.streamed[2] == {"index": 0, "outputs": {"answer": "slow"}}
        error = next(one["error"] for one in got.streamed if one["index"] == 1)
        assert (error["code"], error["retryable"], error["details"]["status"]) == ("lm_error", True, 429)

    run(scenario)


def test_a_cancelled_batch_ends_all_of_it() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("create_program", "s", id="p", signature="q -> answer")
        server.answer = lambda _: Reply(hang_after=0)
        call, finished = driver.begin("execute_batch", "s", program="p", inputs=[{"q": "x"}] * 9, concurrency=4)
        assert await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == 4, WAIT)
        driver.cancel(call)
        with pytest.raises(Exception, match="by the test"):
            await finished
        assert await asyncio.to_thread(server.wait_for, lambda s: s.disconnects == 4, WAIT)
        assert len(server.requests) == 4

    run(scenario)
