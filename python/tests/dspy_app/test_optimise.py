"""Programs are evaluated and optimised: each of DSPy's optimisers, against a model that learns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from dspex.errors import BudgetExceeded, Cancelled, InvalidParams, LMError
from dspex_worker import App
from support.driver import Answer, Driver, driving
from support.learning import ROWS, WORD, Learner
from support.openai_server import OpenAIServer, Reply

Scenario = Callable[[Driver, OpenAIServer], Awaitable[None]]

OPTIMISERS: dict[str, dict[str, Any]] = {
    "labeled": {"k": 4},
    "BootstrapFewShot": {"max_bootstrapped_demos": 2, "max_labeled_demos": 2},
    "random_search": {"num_candidates": 1, "max_labeled_demos": 2},
    "KNNFewShot": {"k": 2},
    "COPRO": {"breadth": 2, "depth": 1},
    "MIPROv2": {"num_candidates": 2, "num_trials": 2},
    "GEPA": {"max_metric_calls": 30},
    "SIMBA": {"bsize": 4, "num_candidates": 3, "max_steps": 2},
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::optuna.exceptions.ExperimentalWarning")


def run(scenario: Scenario, app: App | None = None, **settings: Any) -> None:
    async def go() -> None:
        with OpenAIServer(answer=Learner()) as server:
            model = {"model": "openai/m", "api_key": "kkkk", "api_base": server.base, "adapter": "json", **settings}
            models = {"main": {**model, "default": True}, "other": {**model, "model": "openai/other"}}
            embedders = {"near": {"model": "openai/e", "api_base": server.base}}
            async with driving(app or App(), models, embedders=embedders) as driver:
                await driver.call("create_program", "s", id="p", signature="text -> answer")
                await scenario(driver, server)

    asyncio.run(go())


async def evaluate(driver: Driver, **params: Any) -> Answer:
    given = {"program": "p", "devset": ROWS, "metric": "exact", **params}
    return await driver.stream("evaluate_program", "s", **given)


async def optimise(driver: Driver, optimizer: str = "labeled", **params: Any) -> Answer:
    given = {"program": "p", "trainset": ROWS, "metric": "exact", "optimizer": optimizer, **params}
    return await driver.stream("optimize_program", "s", **given)


def paths(error: InvalidParams) -> list[str]:
    return [problem["path"] for problem in error.details["errors"]]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_raises_the_score_on_rows_that_it_has_not_seen(name: str) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        result = await optimise(driver, name, parameters=OPTIMISERS[name])
        assert (result["baseline"], result["score"], result["improved"]) == (0.0, 1.0, True)
        assert (result["version"], result["current"]) == (2, True)
        assert result["data"]["train"]["rows"] == 11
        assert result["data"]["held_out"]["rows"] == 5
        assert result["usage"]["lm_calls"] == result.usage["lm_calls"] == len(server.requests) - embedded(server)
        phases = [item["phase"] for item in result.streamed]
        assert list(dict.fromkeys(phases)) == ["baseline", "optimize", "score"]
        assert {"lm_calls", "tokens", "cost", "elapsed_ms"} <= result.streamed[-1].keys()
        driver.restored("s")
        assert await driver.call("execute_program", "s", program="p", inputs={"text": "QQZZ"}) == {"answer": "qqzz"}
        listed = (await driver.call("list_versions", "s", program="p"))["versions"]
        assert [(one["version"], one["source"], one["current"]) for one in listed] == [
            (2, "optimized", True),
            (1, "created", False),
        ]
        assert listed[0]["meta"]["score"] == 1.0
        assert listed[0]["meta"]["data"] == result["data"]
        data = await driver.call("export_program", "s", program="p")
        await driver.call("import_program", "t", id="q", data=json.loads(json.dumps(dict(data))))
        assert await driver.call("execute_program", "t", program="q", inputs={"text": "QQZZ"}) == {"answer": "qqzz"}

    run(scenario)


def test_simba_tells_what_it_has_scored() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        learner = Learner()
        # Slow enough that items of the time tell of rows that are scored.
        server.answer = lambda seen: Reply(learner(seen), pause=0.05)
        result = await optimise(driver, "SIMBA", parameters=OPTIMISERS["SIMBA"], concurrency=2)
        told = [item for item in result.streamed if item["phase"] == "optimize" and item.get("done")]
        assert told
        assert all(0 <= item["score"] <= 1 for item in told)
        assert [item["done"] for item in told] == sorted(item["done"] for item in told)

    run(scenario)


def embedded(server: OpenAIServer) -> int:
    return sum(seen.path.endswith("/embeddings") for seen in server.requests)


def test_an_evaluation_tells_each_row() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        result = await evaluate(driver, devset=[*ROWS[:3], {"text": "QQE", "answer": "?"}], outputs=True)
        assert result["score"] == 0.25
        assert [row["score"] for row in result["rows"]] == [0, 0, 0, 1]
        assert result["rows"][0]["outputs"] == {"answer": "?"}
        assert "'qqax'" in result["rows"][0]["feedback"]
        assert result["errors"] == {"count": 0, "kinds": []}
        assert (result["version"], result["data"]["rows"]) == (1, 4)
        await optimise(driver)
        assert (await evaluate(driver))["score"] == 1
        assert (await evaluate(driver, version=1))["score"] == 0
        assert "outputs" not in (await evaluate(driver))["rows"][0]

    run(scenario)


def test_rows_that_fail_are_counted_and_named() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script = [Reply("no json"), Reply(status=400, message="refused"), Reply("no json")]
        result = await evaluate(driver, devset=ROWS[:5], concurrency=1)
        assert result["errors"]["count"] == 3
        kinds = {kind["message"][:7]: (kind["code"], kind["count"], kind["rows"]) for kind in result["errors"]["kinds"]}
        assert kinds == {"the ans": ("lm_error", 2, [0, 2]), "refused": ("lm_error", 1, [1])}
        assert result["rows"][1]["error"]["code"] == "lm_error"
        server.script = [Reply(status=401, message="bad key") for _ in range(3)]
        with pytest.raises(LMError, match="3 of the 3 rows so far failed; the last one: bad key") as caught:
            await evaluate(driver, concurrency=1, max_errors=2)
        assert caught.value.details["failed"]["kinds"][0]["rows"] == [0, 1, 2]

    run(scenario)


def test_all_that_is_wrong_is_named_before_anything_is_asked() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        rows = [{"text": 5, "answer": "x"}, {"answer": "x"}, {"text": "QQ", "answer": "x", "more": 1}]
        with pytest.raises(InvalidParams) as caught:
            await optimise(
                driver, "copro", trainset=rows, metric="best", concurrency=0, seed=-1, limits={"tokens": 0, "x": 1},
                parameters={"breadth": 1, "lm": "x", "prompt_model": "none"},
            )  # fmt: skip
        assert set(paths(caught.value)) == {
            "parameters.breadth", "parameters.lm", "metric", "limits.tokens", "limits.x", "concurrency", "seed",
            "trainset[0].text", "trainset[1].text", "trainset[2].more",
        }  # fmt: skip
        for wrong, path in (
            ({"optimizer": "best"}, "optimizer"),
            ({"parameters": {"k": "4"}}, "parameters.k"),
            ({"optimizer": "mipro", "parameters": {"auto": "light", "num_trials": 3}}, "parameters"),
            ({"optimizer": "gepa", "parameters": {"prompt_model": "none"}}, "parameters.prompt_model"),
            ({"optimizer": "knn", "parameters": {"embedder": "none"}}, "parameters.embedder"),
            ({"metric": {"name": "judge"}}, "metric.rubric"),
            ({"metric": {"name": "judge", "rubric": "x", "model": "none"}}, "metric.model"),
            ({"metric": {"name": "exact", "code": "x"}}, "metric.code"),
            ({"metric": {"name": "exact", "field": "reply"}, "trainset": ROWS[:3]}, "metric.field"),
            ({"trainset": [*ROWS, {"text": "QQ"}]}, "trainset[16]"),
            ({"trainset": ROWS[:2]}, "valset"),
            ({"trainset": []}, "trainset"),
            ({"trainset": "none"}, "dataset"),
            ({"holdout": 0.0}, "holdout"),
        ):
            with pytest.raises(InvalidParams) as caught:
                await optimise(driver, **wrong)
            assert paths(caught.value) == [path], wrong
        assert server.requests == []
        with pytest.raises(InvalidParams) as caught:
            await evaluate(driver, devset=[{"text": 5}] * 5000)
        assert len(caught.value.details["errors"]) <= 200

    run(scenario)


@pytest.mark.parametrize(("limit", "most"), [("lm_calls", 10), ("tokens", 100), ("cost", 0.001)])
def test_a_limit_ends_the_run_with_the_best_so_far(limit: str, most: float) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(BudgetExceeded) as caught:
            await evaluate(driver, limits={limit: most}, concurrency=2)
        assert caught.value.details["resource"] == limit
        assert 0 < len(caught.value.details["best"]["rows"]) < 16
        assert len(server.requests) <= 11
        # One may have been cancelled before it was sent.
        assert len(server.requests) <= caught.value.details["usage"]["lm_calls"] <= 11

    run(scenario, input_price=10, output_price=10)


def test_the_best_candidate_comes_with_the_error_and_can_be_used() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(BudgetExceeded) as caught:
            await optimise(driver, "copro", parameters={"breadth": 4, "depth": 5}, limits={"lm_calls": 60})
        best = caught.value.details["best"]
        assert best["score"] == 1.0
        assert len((await driver.call("list_versions", "s", program="p"))["versions"]) == 1
        await driver.call("import_program", "s", id="p", data=best["state"])
        assert (await evaluate(driver))["score"] == 1

    run(scenario)


def test_time_ends_a_run_and_a_cancel_ends_it_at_once() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.answer = lambda _: Reply(hang_after=0)
        with pytest.raises(BudgetExceeded, match=r"its time of 0\.3 s is over") as caught:
            await optimise(driver, "gepa", limits={"seconds": 0.3})
        assert caught.value.details["resource"] == "seconds"
        assert "best" not in caught.value.details
        before = len(server.requests)
        call, answered = driver.begin(
            "evaluate_program", "s", streamed=True, program="p", devset=ROWS, metric="exact", concurrency=4
        )
        assert await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == before + 4)
        driver.cancel(call)
        with pytest.raises(Cancelled):
            await answered
        assert await asyncio.to_thread(server.wait_for, lambda s: s.in_flight == 0)

    run(scenario)


def test_no_row_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    app = App()
    failed: list[str] = []

    @app.metric
    def picky(example: Any, prediction: Any, trace: Any = None) -> bool:
        if trace is not None and not failed:
            failed.append(example.text)
            raise ValueError(f"no demo is made of {example.text}")
        return bool(example.answer == prediction.answer)

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await optimise(driver, "bootstrap", metric="picky", parameters=OPTIMISERS["BootstrapFewShot"])

    run(scenario, app)
    said = "".join(capfd.readouterr())
    assert failed
    assert not [row for row in ROWS if row["text"] in said], said


def test_metrics() -> None:
    app = App()
    seen: list[Any] = []

    @app.metric
    def strict(example: Any, prediction: Any, trace: Any = None) -> dict[str, Any]:
        seen.append(example.kind)
        return {"score": example.answer == prediction.answer, "feedback": "in small letters"}

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        def score(metric: Any, answer: str, gold: Any = "The big cat") -> Any:
            server.answer = lambda _: json.dumps({"answer": answer})
            return evaluate(driver, devset=[{"text": "QQ", "answer": gold}], metric=metric)

        assert (await score("exact", "big  cat!"))["score"] == 1
        assert (await score("exact", "big"))["score"] == 0
        assert (await score("f1", "big dog"))["score"] == 0.5
        assert (await score("contains", "It is a big cat."))["score"] == 1
        assert (await score({"name": "contains", "field": "answer"}, "dog"))["score"] == 0
        server.answer = Learner()
        rows = [{**row, "kind": "k"} for row in ROWS]
        result = await evaluate(driver, devset=rows, metric="strict", outputs=True)
        assert (result["score"], result["rows"][0]["feedback"], seen[0]) == (0, "in small letters", "k")
        before = len(server.requests)
        judge = {"name": "judge", "rubric": "Small letters only.", "model": "other"}
        result = await optimise(driver, metric=judge)
        assert (result["baseline"], result["score"]) == (0.1, 0.9)
        judged = [seen for seen in server.requests[before:] if "Small letters only." in seen.prompt]
        assert {seen.body["model"] for seen in judged} == {"other"}
        assert len(judged) == 10

    run(scenario, app)


def test_a_metric_that_returns_no_number_is_named() -> None:
    app = App()

    @app.metric
    def words(example: Any, prediction: Any) -> Any:
        return "good"

    @app.metric
    def empty(example: Any, prediction: Any) -> Any:
        return {"value": 1}

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for name, told in (("words", "returned str: it must be a number"), ("empty", "returned a map without a score")):
            result = await evaluate(driver, devset=ROWS[:2], metric=name)
            (kind,) = result["errors"]["kinds"]
            assert (kind["message"], kind["count"]) == (f"metric {name!r} {told}", 2)

    run(scenario, app)


def test_datasets_are_kept_in_the_session() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        made = await driver.call("dataset.create", "s", name="train")
        assert (made["rows"], made["scope"]) == (0, "session")
        await driver.call("dataset.append", "s", name="train", rows=ROWS[:8])
        told = await driver.call("dataset.append", "s", name="train", rows=ROWS[8:])
        assert told["rows"] == 16
        driver.restored("s")
        listed = (await driver.call("dataset.list", "s"))["datasets"]
        assert [(one["name"], one["rows"]) for one in listed] == [("train", 16)]
        by_name, by_value = await evaluate(driver, devset="train"), await evaluate(driver)
        assert by_name["data"] == {"name": "train", "rows": 16, "of": 16, "hash": by_value["data"]["hash"]}
        result = await optimise(driver, trainset="train", valset="train", use="never")
        assert (result["version"], result["current"], result["score"]) == (2, False, 1)
        assert (await evaluate(driver))["score"] == 0
        big = [{"text": "x" * 100_000, "answer": "y"}] * 7
        assert (await driver.call("dataset.append", "s", name="train", rows=big))["rows"] == 23
        assert max(len(packed) for packed in driver.session("s").entries.values()) < 300_000
        for params, path in (
            ({"name": "train"}, "name"),
            ({"name": "a.b"}, "name"),
        ):
            with pytest.raises(InvalidParams) as caught:
                await driver.call("dataset.create", "s", **params)
            assert paths(caught.value) == [path]
        with pytest.raises(InvalidParams, match="at most 10000"):
            await driver.call("dataset.append", "s", name="train", rows=[{"a": 1}] * 9990)
        await driver.call("dataset.delete", "s", name="train")
        assert not [key for key in driver.session("s").entries if "train" in key]
        with pytest.raises(InvalidParams, match="there is no dataset 'train'; there are: none"):
            await evaluate(driver, devset="train")

    run(scenario)


def test_versions_are_compared() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await optimise(driver, "gepa", parameters={"max_metric_calls": 30})
        await optimise(driver, "labeled", parameters={"k": 2}, use="always")
        first = await driver.call("diff_versions", "s", program="p", version=1, other=2)
        (predictor,) = first["predictors"]
        assert WORD not in predictor["instructions"]["from"]
        assert WORD in predictor["instructions"]["to"]
        assert (first["from"]["version"], first["to"]["version"], first["changed"]) == (1, 2, [])
        (predictor,) = (await driver.call("diff_versions", "s", program="p", version=2))["predictors"]
        assert len(predictor["demos"]["added"]) == 2
        await optimise(driver, "knn", use="always")
        assert (await driver.call("diff_versions", "s", program="p", version=3))["changed"] == ["nearest"]
        await optimise(driver, "bootstrap", use="always")
        assert (await evaluate(driver))["score"] == 1

    run(scenario)


def test_a_program_of_the_application_gets_a_state() -> None:
    import dspy

    app = App()
    app.program("fixed")(dspy.Predict("text -> answer"))

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        given = {"program": "fixed", "trainset": ROWS, "metric": "exact", "optimizer": "labeled"}
        result = await driver.stream("optimize_program", None, **given)
        assert (result["version"], result["score"]) == (None, 1)
        await driver.call("import_program", "s", id="p", data=result["state"])
        assert (await evaluate(driver))["score"] == 1

    run(scenario, app)


def test_a_program_with_an_aforward_alone_is_evaluated_and_optimised() -> None:
    import dspy

    class Later(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("text -> answer")

        async def aforward(self, text: str) -> dspy.Prediction:
            answer: dspy.Prediction = await self.ask.acall(text=text)
            return answer

    app = App()
    app.program("later", signature="text -> answer")(Later)

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        given = {"program": "later", "metric": "exact"}
        scored = await driver.stream("evaluate_program", None, devset=ROWS, **given)
        assert (scored["score"], scored["errors"]["count"]) == (0, 0)
        for name in ("bootstrap", "gepa"):
            params = OPTIMISERS["GEPA" if name == "gepa" else "BootstrapFewShot"]
            made = await driver.stream(
                "optimize_program", None, trainset=ROWS, optimizer=name, parameters=params, **given
            )
            assert (made["baseline"], made["score"]) == (0, 1)

    run(scenario, app)
