"""Limits of models, as the provider sees them: across all workers, whatever becomes of those."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from dspex.errors import DeadlineExceeded, DspexError, LMError, WorkerLost
from e2e.faults.test_metrics import metrics
from e2e.support.machine import until
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Reply, Seen, json_answer

KILLS = int(os.environ.get("DSPEX_TEST_KILLS", "6"))


@contextmanager
def limited(lm: OpenAIServer, size: int = 2, others: dict[str, Any] | None = None, **model: Any) -> Iterator[Server]:
    main = {"model": "openai/m", "api_base": lm.base, "api_key": "env:K", "adapter": "json", "default": True, **model}
    tables = {
        "pools": {"default": {"app": "programs:app", "size": size, "concurrency": 8}},
        "models": {"main": main, **(others or {})},
    }
    with Server("sidecar", tables, environment={"K": "a-key"}) as server:
        yield server


def answer(seen: Seen) -> Reply:
    return Reply(json_answer(b="yes"), pause=random.uniform(0.002, 0.02))


@pytest.mark.timeout(300)
def test_a_limit_holds_across_workers_that_are_killed() -> None:
    with OpenAIServer(answer=answer) as lm, limited(lm, size=8, concurrency=3) as server:
        client = server.client()
        session = client.create_session()
        program = session.create_program("p", "a -> b")
        stop = threading.Event()
        answered, lost = [0] * 16, [0] * 16

        def work(number: int) -> None:
            mine = client.create_session()
            mine.create_program("p", "a -> b")
            while not stop.is_set():
                try:
                    assert mine.program("p")(a="x")["b"] == "yes"
                    answered[number] += 1
                except WorkerLost:
                    lost[number] += 1

        with ThreadPoolExecutor(16) as pool:
            working = [pool.submit(work, number) for number in range(16)]
            try:
                for _ in range(KILLS):
                    before = sum(answered)
                    until(lambda seen=before: sum(answered) > seen + 20, "calls are answered")  # type: ignore[misc]
                    ready = [one["pid"] for one in client.call("sidecar.workers")["workers"] if one["state"] == "ready"]
                    if ready:
                        os.kill(random.choice(ready), signal.SIGKILL)
            finally:
                stop.set()
            for one in working:
                one.result(30)
        assert lm.most == 3
        assert min(answered) > 0
        until(lambda: metrics(server)['dspex_lm_in_use{model="main"}'] == 0, "all permits are given back")
        assert program(a="x")["b"] == "yes"


def test_a_limit_holds_for_runs_too_and_one_that_is_killed_gives_back() -> None:
    with OpenAIServer(answer=answer) as lm, limited(lm, concurrency=2) as server:
        session = server.client().create_session()
        program = session.create_program("p", "a -> b")
        rows = [{"a": str(number), "b": "yes"} for number in range(8)]
        run = {"program": "p", "devset": rows, "metric": "exact"}
        with ThreadPoolExecutor(9) as pool:
            going = pool.submit(lambda: list(session.stream("evaluate_program", run)))
            others = [pool.submit(program, a="x") for _ in range(8)]
            assert all(one.result(30)["b"] == "yes" for one in others)
            assert going.result(30)
            assert (lm.most, len(lm.requests)) == (2, 16)
            lm.script += [Reply(hang_after=0), Reply(hang_after=0)]
            hung = pool.submit(lambda: list(session.stream("evaluate_program", run)))
            assert lm.wait_for(lambda seen: seen.in_flight == 2 and not seen.script)
            until(lambda: metrics(server)['dspex_lm_queued{model="main"}'] == 6, "the rest waits")
            workers = server.client().call("sidecar.workers")["workers"]
            runners = [one["pid"] for one in workers if one["pool"] == "runs"]
            assert len(runners) == 1
            os.kill(runners[0], signal.SIGKILL)
            with pytest.raises(WorkerLost):
                hung.result(30)
        assert program(a="x")["b"] == "yes"
        seen = metrics(server)
        assert (seen['dspex_lm_in_use{model="main"}'], seen['dspex_lm_queued{model="main"}']) == (0, 0)


def test_sessions_take_turns() -> None:
    with OpenAIServer(answer=answer) as lm, limited(lm, concurrency=1) as server:
        client = server.client()
        greedy, modest = client.create_session(), client.create_session()
        for session in (greedy, modest):
            session.create_program("p", "a -> b")
        gate = threading.Event()
        lm.answer = lambda seen: Reply(json_answer(b="yes"), pause=0.0 if gate.is_set() else 0.3)
        with ThreadPoolExecutor(8) as pool:
            many = [pool.submit(greedy.program("p"), a=f"greedy {number}") for number in range(6)]
            until(lambda: metrics(server).get('dspex_lm_queued{model="main"}') == 5, "they wait")
            one = pool.submit(modest.program("p"), a="modest")
            until(lambda: metrics(server).get('dspex_lm_queued{model="main"}') == 6, "it waits, too")
            gate.set()
            for done in (*many, one):
                assert done.result(20)["b"] == "yes"
        order = ["modest" in seen.prompt for seen in lm.requests]
        assert order.index(True) <= 3, order
        waited = one.result().meta["usage"]["lm_wait_us"]
        assert 0 < waited < max(done.result().meta["usage"].get("lm_wait_us", 0) for done in many)


def test_waiting_ends_with_the_deadline_and_with_the_client() -> None:
    with OpenAIServer(answer=answer) as lm, limited(lm, concurrency=1) as server:
        lm.script.append(Reply(hang_after=0))
        client = server.client()
        session = client.create_session()
        program = session.create_program("p", "a -> b")
        with ThreadPoolExecutor(2) as pool:
            hung = pool.submit(lambda: program.run({"a": "x"}, timeout=20))
            assert lm.wait_for(lambda seen: seen.in_flight == 1)
            with pytest.raises(DeadlineExceeded, match="turn at model 'main'") as caught:
                program.run({"a": "y"}, timeout=0.5)
            assert (caught.value.details["model"], caught.value.details["waiting_for"]) == ("main", "model")
            leaving = server.client()
            waiting = pool.submit(leaving.session(session.id).program("p"), a="z")
            until(lambda: metrics(server).get('dspex_lm_queued{model="main"}') == 1, "it waits")
            leaving.close()
            until(lambda: metrics(server).get('dspex_lm_queued{model="main"}') == 0, "its place is free")
            with pytest.raises(DspexError):
                waiting.result(20)
            for one in client.call("sidecar.workers")["workers"]:
                if one["in_flight"]:
                    os.kill(one["pid"], signal.SIGKILL)
            hung.result(20)  # it is run again, where the worker was killed
        assert lm.most == 1
        assert program(a="x")["b"] == "yes"


def test_limits_that_change_while_requests_wait() -> None:
    with OpenAIServer(answer=answer) as lm, limited(lm, concurrency=1) as server:
        lm.script += [Reply(hang_after=0), Reply(json_answer(b="second"))]
        client = server.client()
        program = client.create_session().create_program("p", "a -> b")
        with ThreadPoolExecutor(2) as pool:
            hung = pool.submit(lambda: program.run({"a": "x"}, timeout=20))
            assert lm.wait_for(lambda seen: seen.in_flight == 1)
            waiting = pool.submit(lambda: program.run({"a": "y"}, timeout=20))
            until(lambda: metrics(server).get('dspex_lm_queued{model="main"}') == 1, "it waits")
            text = server.config.read_text()
            server.config.write_text(text.replace("concurrency = 1\n", "concurrency = 2\n"))
            assert client.call("admin.reload", {"wait": True})["status"] == "in_force"
            assert waiting.result(20)["b"] == "second"
            server.config.write_text(text.replace("concurrency = 1\n", "concurrency = 0\n"))
            client.call("admin.reload", {"wait": True})
            assert program(a="z")["b"] == "yes"
            assert 'dspex_lm_in_use{model="main"}' not in metrics(server)
            for one in client.call("sidecar.workers")["workers"]:
                if one["in_flight"]:
                    os.kill(one["pid"], signal.SIGKILL)
            assert hung.result(20)["b"] == "yes"  # it is run again


def test_requests_per_minute() -> None:
    with OpenAIServer(answer=answer) as lm, limited(lm, requests_per_minute=5) as server:
        session = server.client().create_session()
        program = session.create_program("p", "a -> b")
        for number in range(5):
            assert program(a=str(number))["b"] == "yes"
        with pytest.raises(DeadlineExceeded, match="requests_per_minute"):
            program.run({"a": "x"}, timeout=0.3)
        assert len(lm.requests) == 5
        assert metrics(server)['dspex_lm_wait_seconds_count{model="main"}'] == 5


def test_a_provider_that_wants_to_be_left_alone_is_by_all_workers() -> None:
    with OpenAIServer(answer=answer) as lm, limited(lm, size=2, concurrency=4, requests_per_minute=1000) as server:
        client = server.client()
        sessions = [client.create_session() for _ in range(4)]
        for session in sessions:
            session.create_program("p", "a -> b")
            session.program("p")(a="x")
        workers = {session.program("p")(a="x").meta["worker"] for session in sessions}
        assert len(workers) == 2
        lm.script.append(Reply(status=429, message="slow down", headers={"Retry-After": "1"}))
        began = time.monotonic()
        with pytest.raises(LMError) as caught:
            sessions[0].program("p")(a="x")
        assert caught.value.details["status"] == 429
        with pytest.raises(LMError, match="left alone") as told:  # at once: waiting would be in vain
            sessions[1].program("p").run({"a": "x"}, timeout=0.5)
        assert told.value.retryable
        assert 0 < told.value.details["retry_after_ms"] <= 1000
        assert time.monotonic() - began < 0.9
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda session: session.program("p")(a="x"), sessions))
        assert time.monotonic() - began >= 1.0
        assert {one.meta["worker"] for one in got} == workers
        assert min(one.meta["usage"]["lm_wait_us"] for one in got) > 100_000


OVERLOADED = {
    "rate": Reply(status=429, message="slow", headers={"Retry-After": "30"}),
    "server": Reply(status=500, message="oops"),
    "unavailable": Reply(status=503, message="later"),
    "billing": Reply(status=402, message="no credit"),
    "cut": Reply(cut_after=0),
    "hang": Reply(hang_after=0),
}
REFUSED = {
    "auth": (Reply(status=401, message="wrong key"), "LMAuthError"),
    "invalid": (Reply(status=400, message="what"), "LMInvalidRequestError"),
    "missing": (Reply(status=404, message="no such model"), "LMInvalidRequestError"),
}


def test_fallbacks() -> None:
    with (
        OpenAIServer(answer=answer) as lm,
        OpenAIServer(answer=lambda seen: json_answer(b="second")) as second,
        OpenAIServer(answer=lambda seen: json_answer(b="third")) as third,
    ):
        other = {"model": "openai/o", "api_key": "env:K", "adapter": "json"}
        others = {"second": {**other, "api_base": second.base}, "third": {**other, "api_base": third.base}}
        with limited(lm, others=others, fallbacks=["second", "third"], timeout="300ms") as server:
            session = server.client().create_session()
            program = session.create_program("p", "a -> b")
            for kind, reply in OVERLOADED.items():
                lm.script.append(reply)
                outputs = program(a=kind)
                assert outputs["b"] == "second", kind
                assert outputs.meta["usage"]["models"] == {"second": 1}
                assert outputs.meta["usage"]["lm_calls"] == 2
            lm.script.append(OVERLOADED["server"])
            second.script.append(OVERLOADED["rate"])
            assert program(a="x")["b"] == "third"
            for server_of_lm in (lm, second, third):
                server_of_lm.script.append(OVERLOADED["server"])
            with pytest.raises(LMError) as caught:
                program(a="x")
            tried = [(one["model"], one["status"]) for one in caught.value.details["tried"]]
            assert tried == [("main", 500), ("second", 500), ("third", 500)]
            assert caught.value.details["model"] == "third"
            before = len(second.requests)
            for kind, (reply, type_of) in REFUSED.items():
                lm.script.append(reply)
                with pytest.raises(LMError) as told:
                    program(a=kind)
                assert (told.value.details["type"], told.value.details["model"]) == (type_of, "main")
            assert len(second.requests) == before


def test_what_a_session_a_program_and_a_model_took() -> None:
    with OpenAIServer(answer=answer) as lm, limited(lm, input_price=1.0, output_price=2.0, cache=True) as server:
        client = server.client()
        session, other = client.create_session(), client.create_session()
        session.create_program("p", "a -> b")
        for _ in range(3):
            session.program("p")(a="x")  # two of them are kept answers
        lm.script += [Reply(json_answer(first="1")), Reply(json_answer(second=["2"]))]
        client.program("twice")(text="x")
        lm.script.append(Reply(status=500))
        with pytest.raises(LMError):
            session.program("p")(a="y")
        stats = until(
            lambda: found if (found := client.call("sidecar.stats")["lm"])["requests"] == 4 else None, "all are told"
        )
        assert (stats["tokens"], stats["cost"]) == (36, pytest.approx(3 * 17e-6))
        assert stats["models"] == {"main": {"requests": 4, "tokens": 36, "cost": pytest.approx(3 * 17e-6)}}
        assert stats["programs"] == {
            "session": {"requests": 1, "tokens": 12, "cost": pytest.approx(17e-6)},
            "twice": {"requests": 2, "tokens": 24, "cost": pytest.approx(34e-6)},
        }
        used = client.call("session.get", {"session": session.id})["lm"]
        assert (used["requests"], used["prompt_tokens"], used["completion_tokens"]) == (2, 7, 5)
        assert (used["cache_hits"], used["cost"]) == (2, pytest.approx(17e-6))
        assert used["took_us"] > 0
        assert client.call("session.get", {"session": other.id})["lm"] is None
        assert metrics(server)['dspex_lm_cache_hits_total{model="main"}'] == 2


def test_a_stream_that_has_begun_is_not_begun_again_elsewhere() -> None:
    with (
        OpenAIServer(answer=answer) as lm,
        OpenAIServer(answer=lambda seen: json_answer(b="other")) as other,
    ):
        others = {"other": {"model": "openai/o", "api_base": other.base, "api_key": "env:K", "adapter": "json"}}
        with limited(lm, others=others, fallbacks=["other"], num_retries=1) as server:
            program = server.client().create_session().create_program("p", "a -> b")
            lm.script.append(Reply(json_answer(b="words " * 20), cut_after=10))
            with pytest.raises(DspexError) as caught:
                list(program.stream(a="x"))
            assert caught.value.code == "lm_error"
            assert other.requests == []
            lm.script.append(Reply(json_answer(b="words"), cut_after=0))
            lm.script.append(Reply(status=500))
            stream = program.stream(a="x")
            assert "".join(item["text"] for item in stream if item["type"] == "delta") == "other"


def test_what_models_did_is_counted_by_name() -> None:
    broken = False

    def either(seen: Seen) -> Reply:
        return Reply(json_answer(b="yes"), status=400 if broken else 200)

    with OpenAIServer(answer=either) as lm, limited(lm, size=1) as server:
        client = server.client()
        session = client.create_session()
        program = session.create_program("p", "a -> b")
        assert program(a="x")["b"] == "yes"
        before = client.call("sidecar.stats")
        broken = True
        with pytest.raises(LMError):
            program(a="y")
        until(lambda: metrics(server).get('dspex_lm_requests_total{model="main",result="error"}', 0) >= 1, "it is told")
        seen = metrics(server)
        assert seen['dspex_lm_requests_total{model="main",result="ok"}'] == 1
        assert seen['dspex_lm_request_seconds_count{model="main"}'] >= 1
        assert seen['dspex_lm_tokens_total{model="main",kind="prompt"}'] > 0
        assert seen['dspex_lm_tokens_total{model="main",kind="completion"}'] > 0
        after = client.call("sidecar.stats")
        assert after["total_errors"] == before["total_errors"] + 1
        assert after["total_commands"] > before["total_commands"]
        assert seen['dspex_errors_total{pool="default"}'] == after["total_errors"]
