"""Embedders: vectors of texts from an OpenAI-compatible endpoint, for retrieval; ``app.embedder("name")``.

DSPy's own hosted embedders go through LiteLLM, which takes seconds and a hundred megabytes to load, and looks for keys
and addresses in the environment. Here requests carry the configured key to the configured address and no other.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dspex.errors import DeadlineExceeded, InvalidParams
from dspex.errors import LMError as LmCallError

from dspex_worker.calls import CallCancelled, current
from dspex_worker.metrics import Counter, Metrics
from dspex_worker.permits import LONGEST_PAUSE
from dspex_worker.session import copy_of

if TYPE_CHECKING:
    import httpx

    from dspex_worker.calls import Call
    from dspex_worker.worker import Worker

MOST_TEXTS = 2048
MOST_CHARACTERS = 4 << 20  # of all texts of a call

_LONGEST_WAIT = 60.0
_SHOWN = 500
_LIMITS = "embedder:"  # before the name, where the sidecar is asked for a permit

Vectors = list[list[float]]


@dataclass(frozen=True)
class Settings:
    """What the operator configured."""

    name: str
    model: str
    api_base: str
    api_key: str | None = field(default=None, repr=False)
    batch_size: int = 100
    dimensions: int | None = None
    timeout: float = 30.0
    num_retries: int = 2
    limited: bool = False

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any]) -> Settings:
        """The configuration has been checked by the sidecar."""
        return cls(
            name=name,
            model=str(given["model"]).partition("/")[2] or str(given["model"]),
            api_base=str(given.get("api_base") or "https://api.openai.com/v1").rstrip("/"),
            api_key=given.get("api_key") or None,
            batch_size=int(given.get("batch_size") or 100),
            dimensions=given.get("dimensions") or None,
            timeout=float(given.get("timeout") or 30.0),
            num_retries=int(given.get("num_retries", 2)),
            limited=bool(given.get("limited")),
        )


class Embedder:
    """One configured embedder. Call it with texts, or await ``acall``: a vector for each.

    It stands where DSPy takes an embedder: ``dspy.retrievers.Embeddings(corpus=…, embedder=app.embedder("name"))``.
    """

    def __init__(self, embedders: Embedders, name: str | None) -> None:
        self._embedders = embedders
        self._name = name

    def __call__(self, texts: str | Sequence[str]) -> Any:
        """For code on a thread, a program's ``forward`` say. Returns a numpy array, as ``dspy.Embedder`` does."""
        loop = self._embedders.loop
        if asyncio._get_running_loop() is loop:
            raise RuntimeError("this would stop the worker's loop: use `await embedder.acall(…)`")
        import numpy as np

        single = isinstance(texts, str)
        one = [texts] if isinstance(texts, str) else list(texts)
        try:
            vectors = asyncio.run_coroutine_threadsafe(self._embedders.embed_for_thread(self._name, one), loop).result()
        except concurrent.futures.CancelledError:
            raise CallCancelled from None
        found = np.array(vectors, dtype=np.float32)
        return found[0] if single else found

    async def acall(self, texts: str | Sequence[str]) -> Any:
        """For async code. Returns a numpy array."""
        import numpy as np

        one = [texts] if isinstance(texts, str) else list(texts)
        found = np.array(await self._embedders.embed(self._name, one), dtype=np.float32)
        return found[0] if isinstance(texts, str) else found


class Embedders:
    """All of a worker's. The connections are made with the first request, and closed with the worker."""

    def __init__(self, metrics: Metrics) -> None:
        def counter(name: str, *labels: str) -> Counter:
            return metrics.named(Counter, name, labels, lambda: Counter(metrics, name, "", labels))

        self._requests = counter("dspex_lm_embed_requests_total", "embedder", "result")
        self._texts = counter("dspex_lm_embed_texts_total", "embedder")
        self._tokens = counter("dspex_lm_embed_tokens_total", "embedder")
        self._worker: Worker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None
        self._settings: dict[str, Settings] = {}
        self._default: str | None = None
        # Where it is set, all vectors are had by it: on a node of a cluster, of the process that has the keys.
        self.elsewhere: Callable[[str | None, list[str]], Awaitable[Vectors]] | None = None

    def use(self, worker: Worker) -> None:
        """Take over a worker's settings for what is asked from now on."""
        self._worker = worker
        self._settings = {name: Settings.read(name, given) for name, given in worker.embedders.items()}
        marked = [name for name, given in worker.embedders.items() if given.get("default")]
        only = list(self._settings) if len(self._settings) == 1 else []
        self._default = next(iter(marked or only), None)

    async def start(self) -> None:
        """Note the worker's loop."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("embedders can be used once a worker serves the app: in its hooks and in calls")
        return self._loop

    def find(self, name: str | None) -> Settings:
        """The settings of that name, or the default's. Raises InvalidParams."""
        if name is None and self._default is not None:
            name = self._default
        if name is not None and name in self._settings:
            return self._settings[name]
        known = ", ".join(sorted(self._settings)) or "none"
        why = "no embedder is the default" if name is None else f"no embedder {name!r} is configured"
        message = f"{why}; configured are: {known}"
        raise InvalidParams(f"embedder: {message}", details={"errors": [{"path": "embedder", "message": message}]})

    async def embed(self, name: str | None, texts: list[str]) -> Vectors:
        """Vectors of texts, in their order.

        Raises:
            DspexError: ``lm_error`` as the provider answers, ``invalid_params`` where there is no such embedder.
        """
        settings = self.find(name)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("an embedder takes texts")
        if self.elsewhere is not None:
            return await self.elsewhere(settings.name, texts)
        found: Vectors = []
        for begin in range(0, len(texts), settings.batch_size):
            found += await self._batch(settings, texts[begin : begin + settings.batch_size])
        self._texts.inc(len(texts), embedder=settings.name)
        return found

    async def embed_for_thread(self, name: str | None, texts: list[str]) -> Vectors:
        """Do the same for a thread that waits for it: it ends with the thread's call."""
        call, task = current.get(None), asyncio.current_task()
        if call is not None and task is not None:
            if call.cancelled_with is not None:
                raise asyncio.CancelledError
            if call.asks is None:
                call.asks = set()
            call.asks.add(task)
            task.add_done_callback(call.asks.discard)
        return await self.embed(name, texts)

    async def _batch(self, settings: Settings, texts: list[str]) -> Vectors:
        call = current.get(None)
        attempt = 0
        while True:
            try:
                return await self._permitted(settings, texts, call)
            except LmCallError as error:
                hint = error.details.get("retry_after_ms")
                wait = min(2.0**attempt, 30.0) if hint is None else hint / 1000
                left = None if call is None else call.time_left()
                late = wait > _LONGEST_WAIT or (left is not None and wait >= left)
                if attempt >= settings.num_retries or not error.retryable or late:
                    raise
                await asyncio.sleep(wait)
            attempt += 1

    async def _permitted(self, settings: Settings, texts: list[str], call: Call | None) -> Vectors:
        permits = self._worker.permits if self._worker is not None and settings.limited else None
        if permits is None:
            return (await self._request(settings, texts, call))[0]
        left = None if call is None else call.time_left()
        try:
            permit = await permits.acquire(_LIMITS + settings.name, _share(call), no_pause=False, left=left)
        except LmCallError as refused:
            raise _error(settings, "ModelPaused", refused.message, True, **refused.details) from None
        tokens, pause = 0, None
        try:
            vectors, tokens = await self._request(settings, texts, call)
        except LmCallError as error:
            pause = error.details.get("retry_after_ms")
            raise
        finally:
            permits.release(permit, tokens, None if pause is None else pause / 1000)
        return vectors

    async def _request(self, settings: Settings, texts: list[str], call: Call | None) -> tuple[Vectors, int]:
        import httpx

        if self._client is None:  # where the environment names a proxy, it is for what is on other machines
            self._client = httpx.AsyncClient(follow_redirects=False)
        body: dict[str, Any] = {"model": settings.model, "input": texts, "encoding_format": "float"}
        if settings.dimensions is not None:
            body["dimensions"] = settings.dimensions
        headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
        left = None if call is None else call.time_left()
        if left is not None and left <= 0:
            raise DeadlineExceeded("the deadline passed before the texts were sent to the embedder")
        result, began = "cancelled", time.monotonic()
        try:
            async with asyncio.timeout(settings.timeout):
                response = await self._client.post(
                    f"{settings.api_base}/embeddings", json=body, headers=headers, timeout=settings.timeout
                )
            vectors, tokens = _read(settings, response, len(texts))
            result = "ok"
        except (httpx.HTTPError, TimeoutError) as error:
            result = "error"
            silent = isinstance(error, (httpx.TimeoutException, TimeoutError))
            kind = "LMTimeoutError" if silent else "LMTransportError"
            told = f"it did not answer within {settings.timeout:g} s" if silent else str(error) or type(error).__name__
            raise _error(settings, kind, told, True) from None
        except LmCallError:
            result = "error"
            raise
        finally:
            self._requests.inc(embedder=settings.name, result=result)
            if call is not None:
                took = round((time.monotonic() - began) * 1e6)
                call.usage["embed_us"] = call.usage.get("embed_us", 0) + took
                call.usage["embed_requests"] = call.usage.get("embed_requests", 0) + 1
        if call is not None and tokens:
            call.usage["embed_tokens"] = call.usage.get("embed_tokens", 0) + tokens
        if tokens:
            self._tokens.inc(tokens, embedder=settings.name)
        return vectors, tokens


_KINDS = {401: "LMAuthError", 403: "LMAuthError", 402: "LMBillingError", 429: "LMRateLimitError"}


def _read(settings: Settings, response: httpx.Response, count: int) -> tuple[Vectors, int]:
    """Vectors and tokens of an answer. Raises LMError."""
    status = response.status_code
    if status != 200:
        kind = _KINDS.get(status, "LMServerError" if status >= 500 else "LMInvalidRequestError")
        details: dict[str, Any] = {"status": status}
        if (after := _seconds(response.headers.get("retry-after"))) is not None:
            details["retry_after_ms"] = round(after * 1000)
        raise _error(settings, kind, _message(response), status == 429 or status >= 500, **details)
    try:
        body = response.json()
        rows = sorted(body["data"], key=lambda row: row["index"])
        vectors = [[float(value) for value in row["embedding"]] for row in rows]
        tokens = (body.get("usage") or {}).get("total_tokens")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _error(settings, "LMServerError", f"its answer cannot be read: {error!r}", True, status=200) from None
    if len(vectors) != count or len({len(vector) for vector in vectors}) > 1:
        told = f"it answered {len(vectors)} vectors for {count} texts, or vectors of different lengths"
        raise _error(settings, "LMServerError", told, False, status=200)
    return vectors, tokens if isinstance(tokens, int) and tokens > 0 else 0


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return response.text[:_SHOWN] or response.reason_phrase


def _seconds(header: str | None) -> float | None:
    try:
        seconds = -1.0 if header is None else float(header)
    except ValueError:
        return None  # a date, which no provider of these sends
    return seconds if 0 <= seconds <= LONGEST_PAUSE else None


def _error(settings: Settings, kind: str, message: str, retryable: bool, **details: Any) -> LmCallError:
    if settings.api_key:
        message = message.replace(settings.api_key, "***")
    told = {"type": kind, "embedder": settings.name, **details}
    return LmCallError(f"embedder {settings.name!r}: {message[:_SHOWN]}", retryable=retryable, details=told)


def _share(call: Call | None) -> str:
    if call is None:
        return "background"
    return f"call {call.id}" if call.session is None else f"session {copy_of(call.session).key}"


def embed_method(embedders: Embedders) -> Callable[..., Any]:
    """The method ``embed``."""

    async def embed(texts: list[str], embedder: str | None = None) -> dict[str, Any]:
        """Turn texts into vectors, one for each, by a configured embedder, or the default one."""
        settings = embedders.find(embedder)
        if not 1 <= len(texts) <= MOST_TEXTS or sum(map(len, texts)) > MOST_CHARACTERS:
            message = f"are to be 1 to {MOST_TEXTS}, of {MOST_CHARACTERS} characters together"
            raise InvalidParams(f"texts {message}", details={"errors": [{"path": "texts", "message": message}]})
        vectors = await embedders.embed(settings.name, texts)
        return {"embedder": settings.name, "vectors": vectors}

    return embed
