"""LMs: whose settings and keys go where, what errors become, retries, usage, and what is left afterwards."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspex.errors import Cancelled, DeadlineExceeded, InvalidParams, LMError, ProgramError
from dspex_worker import App
from dspex_worker.dspy_app.call_limits import CallLimits
from dspex_worker.dspy_app.counts import LmCounts
from dspex_worker.dspy_app.models import LmCache, make_lm
from dspex_worker.dspy_app.settings import CLIENT_PROVIDERS, LmSettings, Models
from dspex_worker.dspy_app.usage import CallUsage
from dspy.clients.base_lm import GLOBAL_HISTORY
from dspy.utils.exceptions import LMError as LmFailure
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, Reply, Seen, json_answer

Scenario = Callable[[Driver, OpenAIServer], Awaitable[None]]
ASK: dict[str, Any] = {"program": "p", "inputs": {"a": "x"}}


def run(scenario: Scenario, *script: Reply, app: App | None = None, tracebacks: bool = False, **settings: Any) -> None:
    async def go() -> None:
        with OpenAIServer(*script, answer=lambda seen: json_answer(b="yes")) as server:
            model = {"model": "openai/m", "api_key": "operator-key", "api_base": server.base, "adapter": "json"}
            async with driving(app or App(), {"main": model | settings}, tracebacks=tracebacks) as driver:
                await driver.call("create_program", "s", id="p", signature="a -> b")
                await scenario(driver, server)

    asyncio.run(go())


def test_sessions_keep_their_settings_apart() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with OpenAIServer(answer=lambda seen: json_answer(b="other")) as other:
            mine = {"model": "openai/mine", "api_key": "client-key", "api_base": other.base, "adapter": "json"}
            assert await driver.call("configure_lm", "t", settings=mine) == {"model": "openai/mine"}
            await driver.call("create_program", "t", id="p", signature="a -> b")
            calls = [driver.call("execute_program", name, **ASK) for name in ("s", "t") * 20]
            answers = [answer["b"] for answer in await asyncio.gather(*calls)]
            assert answers == ["yes", "other"] * 20
            assert {seen.key for seen in server.requests} == {"operator-key"}
            assert {(seen.key, seen.body["model"]) for seen in other.requests} == {("client-key", "mine")}
            entries = driver.session("t").entries
            assert [key for key, value in entries.items() if b"client-key" in value] == ["dspex.secret.lm"]
            driver.restored("t")
            assert (await driver.call("execute_program", "t", **ASK))["b"] == "other"

    run(scenario)


def test_a_program_may_have_its_own_settings() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        settings = {"model": "openai/special", "api_key": "k2", "api_base": server.base, "adapter": "json"}
        got = await driver.call("configure_lm", "s", settings=settings, program="p")
        assert got == {"model": "openai/special", "program": "p"}
        await driver.call("create_program", "s", id="q", signature="a -> b")
        await driver.call("execute_program", "s", **ASK)
        await driver.call("execute_program", "s", program="q", inputs={"a": "x"})
        assert [seen.body["model"] for seen in server.requests] == ["special", "m"]
        await driver.call("configure_lm", "s", model="main", program="p")
        await driver.call("execute_program", "s", **ASK)
        assert server.requests[-1].key == "operator-key"
        assert not any("secret" in key for key in driver.session("s").entries)

    run(scenario)


def test_a_key_that_a_restart_took_is_told() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        settings = {"model": "openai/special", "api_key": "k2", "api_base": server.base, "adapter": "json"}

        async def lost(key: str, **of: Any) -> None:
            await driver.call("configure_lm", "s", settings=settings, **of)
            driver.restored("s")
            copy = driver.session("s")
            del copy.entries[key]
            copy.lost = {key}

        async def fails() -> None:
            for execute in (driver.call, driver.stream):
                with pytest.raises(LMError, match="call configure_lm again") as caught:
                    await execute("execute_program", "s", **ASK)
                assert caught.value.details == {
                    "type": "SecretLost",
                    "reason": "secret_lost",
                    "model": "openai/special",
                }
                assert not caught.value.retryable

        await lost("dspex.secret.lm")
        await fails()
        assert not server.requests
        assert (await driver.call("get_program_info", "s", program="p"))["model"] is None
        await driver.call("configure_lm", "s", settings=settings)  # given again
        await driver.call("execute_program", "s", **ASK)
        assert server.requests[-1].key == "k2"
        await lost("dspex.secret.lm.p", program="p")
        await fails()
        await driver.call("configure_lm", "s", model="main", program="p")  # the operator's in its place
        assert not driver.session("s").lost
        await driver.call("execute_program", "s", **ASK)
        assert server.requests[-1].key == "operator-key"
        await lost("dspex.secret.lm.p", program="p")
        keyless = {"model": "openai/special", "api_base": server.base, "adapter": "json"}
        await driver.call("configure_lm", "s", settings=keyless, program="p")
        await driver.call("execute_program", "s", **ASK)
        assert server.requests[-1].key == "none"
        await lost("dspex.secret.lm.p", program="p")
        await driver.call("reset_state", "s")
        assert not driver.session("s").lost

    run(scenario)


def test_the_operators_key_goes_to_no_address_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "operator-environment-key")

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with OpenAIServer(answer=lambda seen: json_answer(b="evil")) as evil:
            await driver.call(
                "configure_lm", "s", settings={"model": "openai/m", "api_base": evil.base, "adapter": "json"}
            )
            await driver.call("execute_program", "s", **ASK)
            assert [seen.key for seen in evil.requests] == ["none"]
            assert "operator" not in str(evil.requests)
        with pytest.raises(InvalidParams, match="operator's key is not used"):
            await driver.call("configure_lm", "s", settings={"model": "openai/m"})

    run(scenario)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "m"},
        {"model": f"openai/{'m' * 257}", "api_key": "k"},
        {"model": "claude-code/x", "api_key": "k"},
        {"model": "bedrock/x", "api_key": "k"},
        {"model": "openai/m", "api_key": "with space"},
        {"model": "openai/m", "api_key": "k\r\nX: y"},
        {"model": "openai/m", "api_base": "file:///etc/passwd"},
        {"model": "openai/m", "api_base": "http://user:pw@host/"},
        {"model": "openai/m", "api_key": "k", "temperature": "hot"},
        {"model": "openai/m", "api_key": "k", "max_tokens": True},
        {"model": "openai/m", "api_key": "k", "adapter": "baml"},
        {"model": "openai/m", "api_key": "k", "adapter": "two_step"},
        {"model": "openai/m", "api_key": "k", "adapter": "two_step", "extraction_model": "unheard of"},
        {"model": "openai/m", "api_key": "k", "top_p": 1.5},
        {"model": "openai/m", "api_key": "k", "stop": []},
        {"model": "openai/m", "api_key": "k", "stop": "x"},
        {"model": "openai/m", "api_key": "k", "seed": -1},
        {"model": "openai/m", "api_key": "k", "reasoning_effort": "much"},
        {"model": "openai/m", "api_key": "k", "cache": True},
        {"model": "openai/m", "api_key": "k", "fallbacks": ["main"]},
        {"model": "openai/m", "api_key": "k", "extra_headers": {}},
        {},
    ],
)
def test_settings_of_clients_are_checked(settings: dict[str, Any]) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(InvalidParams):
            await driver.call("configure_lm", "s", settings=settings)
        with pytest.raises(InvalidParams):
            await driver.call("configure_lm", "s", model="unknown")
        with pytest.raises(InvalidParams):
            await driver.call("configure_lm", "s")

    run(scenario)


def test_the_operators_settings_change_while_calls_run() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        assert (await driver.call("execute_program", "s", **ASK))["b"] == "yes"
        with OpenAIServer(answer=lambda seen: json_answer(b="other")) as other:
            model = {"model": "openai/n", "api_key": "next-key", "api_base": other.base, "adapter": "json"}
            driver.app.use_models({"main": model})
            assert (await driver.call("execute_program", "s", **ASK))["b"] == "other"
            driver.app.use_models({})
            with pytest.raises(InvalidParams, match="no model is configured"):
                await driver.call("execute_program", "s", **ASK)
            assert [(seen.key, seen.body["model"]) for seen in other.requests] == [("next-key", "n")]
        assert [seen.key for seen in server.requests] == ["operator-key"]

    run(scenario)


def test_without_a_model_the_error_says_what_to_do() -> None:
    async def go() -> None:
        async with driving(App()) as driver:
            await driver.call("create_program", "s", id="p", signature="a -> b")
            with pytest.raises(InvalidParams, match=r"\[models.NAME\].*configure_lm"):
                await driver.call("execute_program", "s", **ASK)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("reply", "kind", "status", "retryable"),
    [
        (Reply(status=401, message="bad key operator-key"), "LMAuthError", 401, False),
        (Reply(status=429, message="slow", headers={"Retry-After": "7"}), "LMRateLimitError", 429, True),
        (Reply(status=500, message="oops"), "LMServerError", 500, True),
        (Reply(status=400, message="what"), "LMInvalidRequestError", 400, False),
        (Reply("not what was asked"), "AdapterParseError", None, False),
        (Reply(cut_after=0), "LMTransportError", None, True),
        (Reply(raw="<html>"), "LMProviderError", 200, False),
        (Reply(raw="[]"), "LMUnexpectedError", None, False),
    ],
)
def test_errors_of_the_provider(reply: Reply, kind: str, status: int | None, retryable: bool) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(LMError) as caught:
            await driver.call("execute_program", "s", **ASK)
        error = caught.value
        assert (error.details["type"], error.details.get("status"), error.retryable) == (kind, status, retryable)
        assert error.details["model"] == "main"
        assert error.details.get("retry_after_ms") == (7000 if status == 429 else None)
        assert "operator-key" not in str(error.to_wire())
        assert len(server.requests) == 1
        assert (await driver.call("execute_program", "s", **ASK))["b"] == "yes"

    run(scenario, reply)


def test_a_key_that_a_provider_repeats_gets_out_by_no_error() -> None:
    """Programs pass on what they caught, in errors of their own."""
    app = App()

    @app.program("careless")
    class Careless(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.Predict("a -> b")

        async def aforward(self, a: str) -> Any:
            try:
                return await self.inner.acall(a=a)
            except Exception as error:
                raise RuntimeError(f"it failed: {error}") from error

    @app.program("threaded")
    class Threaded(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.Predict("a -> b")

        def forward(self, a: str) -> Any:
            try:
                return self.inner(a=a)
            except LmFailure as error:
                raise ValueError(repr(error), vars(error)) from None

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        for program in ("careless", "threaded"):
            server.script.append(Reply(status=401, message="the key operator-key is wrong"))
            with pytest.raises(ProgramError, match="is wrong") as caught:
                await driver.call("execute_program", program=program, inputs={"a": "x"})
            assert "operator-key" not in str(caught.value.to_wire())
            assert "Traceback" in caught.value.details["traceback"]

    run(scenario, app=app, tracebacks=True)


def test_a_client_that_gives_no_key_is_told_all_that_the_provider_says() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("configure_lm", "s", settings={"model": "openai/m", "api_base": server.base})
        server.script.append(Reply(status=400, message="none of the models is loaded"))
        with pytest.raises(LMError, match="none of the models"):
            await driver.call("execute_program", "s", **ASK)

    run(scenario)


def test_a_retry_time_beyond_all_measure_can_be_told() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(LMError) as caught:
            await driver.call("execute_program", "s", **ASK)
        assert 0 < caught.value.details["retry_after_ms"] < 2**53

    run(scenario, Reply(status=429, headers={"Retry-After": "1e30"}))


def test_interleaved_sessions_each_with_an_lm_of_its_own() -> None:
    sessions = [f"s{number}" for number in range(10)]

    def answer(seen: Seen) -> Reply:
        number = int(seen.key.removeprefix("key-"))
        return Reply(json_answer(b=f"{seen.key} {seen.body['model']}"), usage=(number, 1), pause=0.001 * (number % 3))

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.answer = answer
        for number, session in enumerate(sessions):
            mine = {"model": f"openai/m{number}", "api_key": f"key-{number}", "api_base": server.base}
            await driver.call("configure_lm", session, settings=mine | {"adapter": "json", "temperature": number / 10})
            await driver.call("create_program", session, id="p", signature="a -> b")
        answers = await asyncio.gather(*(driver.call("execute_program", s, **ASK) for s in sessions * 20))
        for turn, got in enumerate(answers):
            number = turn % 10
            assert got == {"b": f"key-{number} m{number}"}
            assert (got.usage["lm_calls"], got.usage["prompt_tokens"], got.usage["total_tokens"]) == (
                1,
                number,
                number + 1,
            )
        assert {(seen.key, seen.body["temperature"]) for seen in server.requests} == {
            (f"key-{number}", number / 10) for number in range(10)
        }
        for session in sessions:
            shown = await driver.call("get_session_state", session)
            info = await driver.call("get_program_info", session, program="p")
            assert "key-" not in f"{shown} {info} {await driver.call('list_programs', session)}"

    run(scenario)


def test_retries_stay_within_the_deadline() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        got = await driver.call("execute_program", "s", **ASK)
        assert (got["b"], got.usage["lm_calls"], len(server.requests)) == ("yes", 2, 2)
        server.script.append(Reply(status=429, message="slow", headers={"Retry-After": "30"}))
        with pytest.raises(LMError) as caught:  # waiting 30 s would only end in deadline_exceeded
            await driver.call("execute_program", "s", timeout=5.0, **ASK)
        assert caught.value.details["retry_after_ms"] == 30_000
        assert len(server.requests) == 3
        server.script.append(Reply(status=429, message="slow", headers={"Retry-After": "86400"}))
        with pytest.raises(LMError):  # without a deadline, too
            await driver.call("execute_program", "s", **ASK)
        assert len(server.requests) == 4

    run(scenario, Reply(status=429, message="slow", headers={"Retry-After": "0"}), num_retries=2)


def test_a_provider_that_says_nothing_is_given_up_after_the_models_timeout() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        with pytest.raises(LMError) as caught:
            await driver.call("execute_program", "s", **ASK)
        assert caught.value.retryable
        assert caught.value.details["type"] in ("LMTransportError", "LMTimeoutError")
        assert await asyncio.to_thread(server.wait_for, lambda s: s.disconnects == 1)

    run(scenario, Reply(hang_after=0), timeout=0.2)


def test_clients_providers_go_dspys_own_way() -> None:
    for provider in CLIENT_PROVIDERS:  # not through LiteLLM, which looks for keys and addresses itself
        settings = Models({}).from_client({"model": f"{provider}/some-model"}, "key")
        assert make_lm(settings).engine == "lm15"
        assert "temperature" in make_lm(settings).supported_params


def test_cancelling_ends_the_request() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        call, answer = driver.begin("execute_program", "s", **ASK)
        assert await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == 1)
        driver.runtime.cancel(call, DeadlineExceeded("too late"))
        with pytest.raises(DeadlineExceeded):
            await answer
        assert await asyncio.to_thread(server.wait_for, lambda s: s.disconnects == 1)

    run(scenario, Reply(hang_after=0))


def test_a_permit_is_given_back_when_the_connection_is_closed() -> None:
    """Else the provider has one request more than it takes."""

    class Noting:
        def __init__(self, port: int) -> None:
            self.address = f":{port:04X}"
            self.open: list[int] = []
            self.released = asyncio.Event()

        async def acquire(self, model: str, share: str, *, no_pause: bool, left: float | None) -> int:
            return 1

        def release(self, permit: int, tokens: int = 0, pause: float | None = None) -> None:
            peers = [line.split()[2:4] for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
            self.open.append(sum(peer.endswith(self.address) and state == "01" for peer, state in peers))
            self.released.set()

    async def go() -> None:
        with OpenAIServer(answer=lambda seen: Reply(hang_after=0)) as server:
            permits = Noting(server.port)
            settings = LmSettings("m", "openai/m", api_key="k", api_base=server.base, limited=True)
            limits = CallLimits(None, CallUsage(LmCounts(App().metrics)), permits=permits)
            lm = make_lm(settings)
            asking = asyncio.ensure_future(lm.for_call(limits).acall("hello"))
            assert await asyncio.to_thread(server.wait_for, lambda s: s.in_flight == 1)
            asking.cancel()
            await asyncio.wait([asking])
            await asyncio.wait_for(permits.released.wait(), 10)
            assert permits.open == [0]
            await lm.aclose()

    asyncio.run(go())


def test_cancelling_a_module_on_a_thread_ends_its_request() -> None:
    app = App()

    @app.program("slow")
    class Slow(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.Predict("a -> b")

        def forward(self, a: str) -> Any:
            return self.inner(a=a)

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        call, answer = driver.begin("execute_program", program="slow", inputs={"a": "x"})
        assert await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == 1)
        driver.runtime.cancel(call, DeadlineExceeded("too late"))
        with pytest.raises(DeadlineExceeded):
            await answer
        assert await asyncio.to_thread(server.wait_for, lambda s: s.disconnects == 1)
        assert (await driver.call("execute_program", program="slow", inputs={"a": "x"}))["b"] == "yes"

    run(scenario, Reply(hang_after=0), app=app)


class Twice(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("a -> b")

    def forward(self, a: str) -> dspy.Prediction:
        return self.ask(a=self.ask(a=a).b)


class TwiceAsync(Twice):
    async def aforward(self, a: str) -> dspy.Prediction:
        return await self.ask.acall(a=(await self.ask.acall(a=a)).b)


@pytest.mark.parametrize("module", [Twice, TwiceAsync])
@pytest.mark.parametrize("streamed", [False, True])
def test_usage_of_what_was_cancelled(module: type[dspy.Module], streamed: bool) -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        params: dict[str, Any] = {"program": "twice", "inputs": {"a": "x"}}
        call, finished = driver.begin("execute_program", streamed=streamed, **params)
        assert await asyncio.to_thread(server.wait_for, lambda seen: len(seen.requests) == 2)
        driver.cancel(call)
        with pytest.raises(Cancelled):
            await finished
        expected = {"lm_calls": 2, "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        assert (call.meta() or {})["usage"].items() >= expected.items()

    app = App()
    app.program("twice")(module)
    run(scenario, Reply(json_answer(b="first")), Reply(hang_after=0), app=app)


def test_usage_and_cost() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        got = await driver.call("execute_program", "s", **ASK)
        assert 0 < got.usage.pop("lm_us") < 10_000_000
        counted = {"lm_calls": 1, "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        assert got.usage == {**counted, "models": {"main": 1}}
        known = {"model": "openai/gpt-4o-mini", "api_key": "k", "api_base": server.base, "adapter": "json"}
        await driver.call("configure_lm", "s", settings=known)
        got = await driver.call("execute_program", "s", **ASK)
        assert got.usage["cost"] == pytest.approx(4.05e-6)

    run(scenario)


def test_the_schema_is_sent_where_the_model_takes_it() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        await driver.call("execute_program", "s", **ASK)
        sent = server.requests[0].body["response_format"]["json_schema"]
        assert sent["strict"] is True
        assert sent["schema"]["required"] == ["b"]

    run(scenario, response_schema=True)


def test_nothing_grows_over_2000_calls() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        async def calls(count: int) -> None:
            for _ in range(count // 20):
                await asyncio.gather(*(driver.call("execute_program", "s", **ASK) for _ in range(20)))
            server.requests.clear()

        await calls(300)
        gc.collect()
        before = len(gc.get_objects())
        await calls(1700)
        gc.collect()
        grown = len(gc.get_objects()) - before
        assert GLOBAL_HISTORY == []
        assert dspy.settings.trace == []
        assert grown < 500  # objects; what DSPy keeps of a call by default are some 50

    run(scenario)


def test_lms_are_closed_when_they_are_dropped() -> None:
    async def go() -> None:
        with OpenAIServer(answer=lambda seen: "hello") as server:
            cache = LmCache(size=1)
            for number in range(3):
                settings = LmSettings("n", f"openai/m{number}", "k", server.base)
                async with cache.use(settings) as lm, cache.use(settings) as again:
                    assert lm is again
                    assert await lm.acall("hi") == ["hello"]
            assert len(cache) == 1
            assert await asyncio.to_thread(server.wait_for, lambda s: s.connections == 1)
            await cache.close()
            assert await asyncio.to_thread(server.wait_for, lambda s: s.connections == 0)

    asyncio.run(go())


def test_requests_are_counted_by_model() -> None:
    app = App()

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script += [Reply(status=500, message="oops"), Reply(json_answer(b="yes"), usage=(30, 4))]
        await driver.call("execute_program", "s", **ASK)
        mine = {"model": "openai/some-name", "api_key": "k", "api_base": server.base, "adapter": "json"}
        await driver.call("configure_lm", "s", settings=mine)
        await driver.call("execute_program", "s", **ASK)

    run(scenario, app=app, num_retries=1)
    counted = {report["name"]: report["series"] for report in app.metrics.take()}
    requests = {tuple(one["values"]): one["value"] for one in counted["dspex_lm_requests_total"]}
    assert requests == {("main", "error"): 1, ("main", "ok"): 1, ("client", "ok"): 1}
    tokens = {tuple(one["values"]): one["value"] for one in counted["dspex_lm_tokens_total"]}
    assert (tokens["main", "prompt"], tokens["main", "completion"]) == (30, 4)
    seconds = {one["values"][0]: sum(one["counts"]) for one in counted["dspex_lm_request_seconds"]}
    assert seconds == {"main": 2, "client": 1}
