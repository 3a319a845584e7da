"""LMs: made from settings, kept per settings while they are used, closed when they are dropped."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.exceptions import is_retryable_lm_error

from dspex_worker.calls import CallCancelled
from dspex_worker.dspy_app.settings import Adapter, LmSettings
from dspex_worker.dspy_app.usage import CallUsage

# Seconds before a further attempt: a caller who is told to wait for longer knows better what to do.
_LONGEST_WAIT = 60.0
_KEPT = 32  # LMs that no call uses at the moment and that keep their connections


class CallLimits:
    """What one call grants its LM requests, wherever they are made."""

    def __init__(self, ends: float | None, retries: int, usage: CallUsage) -> None:
        self.usage = usage
        self.retries = retries
        self._ends = ends  # ``time.monotonic()`` at which the call's time is up
        self._loop = asyncio.get_running_loop()
        self._guard = threading.Lock()  # guards the two below
        self._requests: set[concurrent.futures.Future[Any]] = set()  # made by threads and not yet answered
        self._stopped = False

    def left(self) -> float | None:
        """Seconds; None without a deadline."""
        return None if self._ends is None else self._ends - time.monotonic()

    def stop(self) -> None:
        """End the requests that threads wait for, and let them make no more."""
        with self._guard:
            self._stopped = True
            requests = list(self._requests)
        for request in requests:
            request.cancel()

    def on_the_loop(self) -> bool:
        """Whether the loop's own thread asks, which cannot wait for the loop."""
        return asyncio._get_running_loop() is self._loop

    def request(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run an LM request on the loop for a thread, which waits for it. Raises CallCancelled after ``stop``."""
        with self._guard:
            if self._stopped:
                work.close()
                raise CallCancelled
            request = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._requests.add(request)
        try:
            return request.result()
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            raise CallCancelled from None
        finally:
            with self._guard:
                self._requests.discard(request)


class CallLM(dspy.LM):
    """A ``dspy.LM`` that counts for a call, retries within its time, and can be told what its model supports.

    DSPy's own retries sleep as long as the provider says, past the call's deadline: they are off.
    """

    limits: CallLimits | None = None
    takes_schema = False
    secret: str | None = None  # the provider's key, which is told to nobody else

    @property
    def supports_response_schema(self) -> bool:
        return self.takes_schema or bool(super().supports_response_schema)

    @property
    def supported_params(self) -> set[str]:
        supported: set[str] = super().supported_params
        return supported | {"response_format"} if self.takes_schema else supported

    def for_call(self, limits: CallLimits) -> CallLM:
        """A copy for one call; it shares the connections."""
        copied: CallLM = self.copy()
        copied.limits = limits
        return copied

    def update_history(self, entry: dict[str, Any]) -> None:
        """DSPy tells here what a request cost; nothing is kept."""
        if self.limits is not None:
            self.limits.usage.add_answer(entry.get("usage") or {}, entry.get("cost"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """From a thread the request is made on the loop: cancelling the call ends it there, and its connection."""
        if self.limits is None:
            return super().__call__(*args, **kwargs)
        if not self.limits.on_the_loop():
            return self.limits.request(self.acall(*args, **kwargs))
        self._begin()
        try:
            with self.limits.usage.request(), dspy.context(disable_history=False, send_stream=None):
                return super().__call__(*args, **kwargs)
        except Exception as error:
            _blot_out(self.secret, error)
            raise

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        attempt = 0
        while True:
            sent = self._begin()
            request = nullcontext() if self.limits is None else self.limits.usage.request()
            try:
                with request, dspy.context(disable_history=False):  # for update_history above alone
                    return await super().acall(*args, **kwargs)
            except Exception as error:
                _blot_out(self.secret, error)
                wait = self._wait(error, attempt, sent)
                if wait is None:
                    raise
                await asyncio.sleep(wait)
            attempt += 1

    def _begin(self) -> int:
        if self.limits is not None:
            self.limits.usage.calls += 1
        return getattr(dspy.settings.send_stream, "sent", 0)

    def _wait(self, error: Exception, attempt: int, sent: int) -> float | None:
        """Seconds until the next attempt; None where there is to be none."""
        limits = self.limits
        if limits is None or attempt >= limits.retries or not is_retryable_lm_error(error):
            return None
        if getattr(dspy.settings.send_stream, "sent", 0) != sent:
            return None  # a second attempt would repeat what the stream already showed
        hint = getattr(error, "retry_after", None)
        wait = float(hint) if hint is not None else float(min(2**attempt, 30))
        left = limits.left()
        return wait if wait <= _LONGEST_WAIT and (left is None or wait < left) else None


def make_lm(settings: LmSettings) -> CallLM:
    """The LM of some settings; it opens nothing before its first request."""
    options: dict[str, Any] = {
        "api_key": settings.api_key,
        "api_base": settings.api_base,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "timeout": settings.timeout,
    }
    given = {name: value for name, value in options.items() if value is not None}
    # A client's settings never take the way through LiteLLM, which reads addresses and keys from the environment.
    engine = "lm15" if settings.from_client else "auto"
    lm = CallLM(settings.model, cache=False, num_retries=0, engine=engine, **given)
    lm.takes_schema = settings.response_schema
    lm.secret = settings.api_key
    return lm


def _blot_out(secret: str | None, error: BaseException) -> None:
    """Remove a key from what an error says: providers repeat a wrong one, and programs pass on what they caught."""
    told: set[int] = set()
    waiting = [error]
    while secret and waiting:
        one = waiting.pop()
        if id(one) in told:
            continue
        told.add(id(one))
        one.args = tuple(arg.replace(secret, "***") if isinstance(arg, str) else arg for arg in one.args)
        for name, value in list(vars(one).items()):
            if isinstance(value, str) and secret in value:
                setattr(one, name, value.replace(secret, "***"))
        waiting += [chained for chained in (one.__cause__, one.__context__) if chained is not None]


def make_adapter(adapter: Adapter) -> dspy.Adapter:
    """An adapter that asks the LM once: the chat adapter's second try, in JSON, would double a bad answer's cost."""
    return dspy.JSONAdapter() if adapter == "json" else dspy.ChatAdapter(use_json_adapter_fallback=False)


@dataclass
class _Kept:
    lm: CallLM
    users: int = 0


class LmCache:
    """LMs by settings. One that is used is never closed; of the others the last used are kept."""

    def __init__(self, size: int = _KEPT) -> None:
        self._size = size
        self._kept: OrderedDict[LmSettings, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @asynccontextmanager
    async def use(self, settings: LmSettings) -> AsyncIterator[CallLM]:
        """The LM of these settings, for as long as the context lasts."""
        kept = self._kept.get(settings)
        if kept is None:
            kept = self._kept[settings] = _Kept(make_lm(settings))
        self._kept.move_to_end(settings)
        kept.users += 1
        try:
            yield kept.lm
        finally:
            kept.users -= 1
            await self._shrink(self._size)

    async def close(self) -> None:
        """Close all that no call uses."""
        await self._shrink(0)

    async def _shrink(self, size: int) -> None:
        idle = [settings for settings, kept in self._kept.items() if not kept.users]
        dropped = [self._kept.pop(settings) for settings in idle[: max(0, len(self._kept) - size)]]
        for kept in dropped:
            await kept.lm.aclose()
