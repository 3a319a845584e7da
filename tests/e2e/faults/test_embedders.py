"""Embedders over the real HTTP path: by name, in batches, within limits; what their errors become."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from dspex.errors import DeadlineExceeded, DspexError, InvalidParams, LMError, ProgramError
from e2e.faults.test_metrics import metrics
from e2e.support.machine import until
from e2e.support.servers import Server
from support.openai_server import OpenAIServer, Reply

KEY = "sk-embed-1234567890"


@contextmanager
def embedding(lm: OpenAIServer, app: str = "programs:app", **settings: Any) -> Iterator[Server]:
    main = {"model": "openai/e", "api_key": "env:K", "api_base": lm.base, "batch_size": 3, "default": True, **settings}
    tables = {
        "pools": {"default": {"app": app, "size": 2, "concurrency": 8}},
        "embedders": {"main": main, "other": {**main, "default": False, "dimensions": 5}},
    }
    with Server("sidecar", tables, environment={"K": KEY}) as server:
        yield server


def served(seen: Any) -> Reply:
    return Reply()


def test_clients_get_vectors() -> None:
    with OpenAIServer(answer=served) as lm, embedding(lm) as server:
        client = server.client()
        reply = client.request("embed", {"texts": ["ab", "bcc", "e", "aa aa"]})
        assert reply.result["embedder"] == "main"
        assert reply.result["vectors"] == [[1, 1, 0, 0, 0], [0, 1, 2, 0, 0], [0, 0, 0, 0, 1], [4, 0, 0, 0, 0]]
        assert [len(seen.body["input"]) for seen in lm.requests] == [3, 1]
        assert {(seen.path, seen.key, seen.body["model"]) for seen in lm.requests} == {("/v1/embeddings", KEY, "e")}
        usage = reply.meta["usage"]
        assert (usage["embed_requests"], usage["embed_tokens"]) == (2, 5)
        client.call("embed", {"texts": ["a"], "embedder": "other"})
        assert lm.requests[-1].body["dimensions"] == 5
        wrongs: list[dict[str, Any]] = [
            {"texts": []},
            {"texts": [1]},
            {"texts": "a"},
            {"texts": ["a"] * 3000},
            {"texts": ["a" * 5_000_000]},
            {"texts": ["a"], "embedder": "none"},
        ]
        for wrong in wrongs:
            with pytest.raises(InvalidParams):
                client.call("embed", wrong)
        until(lambda: metrics(server).get('dspex_lm_embed_texts_total{embedder="main"}') == 4, "texts are counted")


def test_programs_retrieve() -> None:
    with OpenAIServer(answer=served) as lm, embedding(lm, "retrieving:app") as server:
        client = server.client()
        program = client.program("look_up")
        assert program(text="bb")["found"] == ["bbbb"]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda text: program(text=text)["found"], ["aa", "b", "cc", "abcd"] * 5))
        assert found == [["aaaa"], ["bbbb"], ["cccc"], ["abcd"]] * 5
        assert client.call("vector", {"text": "abc"}) == [1, 1, 1, 0, 0]
        with pytest.raises(ProgramError, match="use `await"):
            client.call("blocking", {"text": "abc"})
        assert {seen.key for seen in lm.requests} == {KEY}


WRONG: list[tuple[Reply, str, int | None, bool]] = [
    (Reply(status=401, message=f"wrong key {KEY}"), "LMAuthError", 401, False),
    (Reply(status=402, message="pay"), "LMBillingError", 402, False),
    (Reply(status=429, message="slow", headers={"Retry-After": "7"}), "LMRateLimitError", 429, True),
    (Reply(status=400, message="what"), "LMInvalidRequestError", 400, False),
    (Reply(status=500, message="oops"), "LMServerError", 500, True),
    (Reply(pause=5.0), "LMTimeoutError", None, True),
]


def test_errors() -> None:
    with OpenAIServer(answer=served) as lm, embedding(lm, num_retries=0, timeout="400ms") as server:
        client = server.client()
        for reply, kind, status, retryable in WRONG:
            lm.script.append(reply)
            with pytest.raises(LMError) as caught:
                client.call("embed", {"texts": ["a"]})
            error = caught.value
            assert (error.details["type"], error.details.get("status"), error.retryable) == (kind, status, retryable)
            assert error.details["embedder"] == "main"
            assert error.details.get("retry_after_ms") == (7000 if status == 429 else None)
            assert KEY not in str(error.to_wire()) + server.log
            assert client.call("embed", {"texts": ["a"]})["vectors"] == [[1, 0, 0, 0, 0]]


def test_retries_and_limits() -> None:
    with OpenAIServer(answer=lambda seen: Reply(pause=0.02)) as lm, embedding(lm, concurrency=2) as server:
        client = server.client()
        lm.script += [Reply(status=429, headers={"Retry-After": "0"}), Reply(status=500)]
        assert client.call("embed", {"texts": ["a"]})["vectors"] == [[1, 0, 0, 0, 0]]
        assert len(lm.requests) == 3
        with ThreadPoolExecutor(12) as pool:
            done = [pool.submit(client.call, "embed", {"texts": ["a"] * 5}) for _ in range(12)]
            assert all(len(one.result(20)["vectors"]) == 5 for one in done)
        assert lm.most == 2
        assert 'dspex_lm_in_use{model="embedder:main"}' in metrics(server)
        lm.script += [Reply(pause=20.0), Reply(pause=20.0)]
        with ThreadPoolExecutor(2) as pool:
            hung = [pool.submit(client.call, "embed", {"texts": ["a"]}, timeout=2.0) for _ in range(2)]
            assert lm.wait_for(lambda seen: seen.in_flight == 2)
            with pytest.raises(DeadlineExceeded, match="turn at model 'embedder:main'"):
                client.call("embed", {"texts": ["a"]}, timeout=0.3)
            for one in hung:
                with pytest.raises((DeadlineExceeded, LMError)):
                    one.result(20)
        assert client.call("embed", {"texts": ["a"]})["vectors"] == [[1, 0, 0, 0, 0]]


def test_what_is_asked_on_a_thread_ends_with_its_call() -> None:
    with OpenAIServer(answer=served) as lm, embedding(lm, "retrieving:app", concurrency=1) as server:
        for method, params in (
            ("execute_program", {"program": "measure", "inputs": {"text": "aa"}}),
            ("on_a_thread", {"text": "aa"}),
        ):
            lm.script.append(Reply(hang_after=0))
            left = lm.disconnects
            leaving = server.client()
            with ThreadPoolExecutor(1) as pool:
                hung = pool.submit(leaving.call, method, params)
                assert lm.wait_for(lambda seen: seen.in_flight == 1)
                leaving.close()
                assert lm.wait_for(lambda seen, left=left: seen.disconnects == left + 1)  # type: ignore[misc]
                with pytest.raises(DspexError):
                    hung.result(20)
            until(lambda: metrics(server)['dspex_lm_in_use{model="embedder:main"}'] == 0, "the permit is back")
            assert server.client().program("measure")(text="bb")["vector"] == [0, 2, 0, 0, 0]
        assert "worker lost" not in server.log


def test_a_pause_is_told_as_the_embedders() -> None:
    with OpenAIServer(answer=served) as lm, embedding(lm, concurrency=1, num_retries=0) as server:
        client = server.client()
        lm.script.append(Reply(status=429, headers={"Retry-After": "20"}))
        for kind in ("LMRateLimitError", "ModelPaused"):
            with pytest.raises(LMError) as caught:
                client.call("embed", {"texts": ["a"]}, timeout=5.0)
            told = caught.value.details
            assert (told["type"], told["embedder"], caught.value.retryable) == (kind, "main", True)
            assert 15_000 < told["retry_after_ms"] <= 20_000


def test_retry_times_that_are_none() -> None:
    with OpenAIServer(answer=served) as lm, embedding(lm, num_retries=0) as server:
        client = server.client()
        for after in ("inf", "nan", "-1", "1e300", "soon"):
            lm.script.append(Reply(status=429, headers={"Retry-After": after}))
            with pytest.raises(LMError) as caught:
                client.call("embed", {"texts": ["a"]})
            assert (caught.value.details["type"], caught.value.details.get("retry_after_ms")) == (
                "LMRateLimitError",
                None,
            )
