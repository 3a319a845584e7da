"""LMs: made from settings, asked for a call with retries, fallbacks and permits, kept while they are used."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import dspy
from dspex.errors import DeadlineExceeded, DspexError
from dspex.errors import LMError as LmCallError
from dspy.clients._deprecation import adapter_message_call
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMBillingError,
    LMRateLimitError,
    is_retryable_lm_error,
)

from dspex_worker.dspy_app.adapters import ChatAdapter, JSONAdapter, TwoStepAdapter, XMLAdapter
from dspex_worker.dspy_app.call_limits import CallLimits
from dspex_worker.dspy_app.history import exchange
from dspex_worker.dspy_app.kept_answers import KeptAnswers, Key, key_of
from dspex_worker.dspy_app.lm_errors import PAUSED
from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.dspy_app.usage import Request

# Seconds before a further attempt: a caller who is told to wait for longer knows better what to do.
_LONGEST_WAIT = 60.0
_KEPT = 32  # LMs that no call uses at the moment and that keep their connections


class CallLM(dspy.LM):
    """A ``dspy.LM`` that counts for a call, retries within its time, and asks others where it cannot answer.

    DSPy's own retries sleep as long as the provider says, past the call's deadline: they are off.
    """

    limits: CallLimits | None = None
    settings: LmSettings | None = None  # what it was made from; None: not by ``make_lm``
    others: tuple[CallLM, ...] = ()  # those of the settings' fallbacks
    answers: KeptAnswers | None = None

    @property
    def _takes_schema(self) -> bool:
        return self.settings is not None and self.settings.response_schema

    @property
    def supports_response_schema(self) -> bool:
        return self._takes_schema or bool(super().supports_response_schema)

    @property
    def supported_params(self) -> set[str]:
        supported: set[str] = super().supported_params
        return supported | {"response_format"} if self._takes_schema else supported

    def for_call(self, limits: CallLimits, others: tuple[CallLM, ...] = ()) -> CallLM:
        """A copy for one call; it shares the connections."""
        copied: CallLM = self.copy()
        copied.limits, copied.others = limits, others
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> CallLM:
        """Optimisers copy modules that have an LM."""
        copied: CallLM = self.copy()
        memo[id(self)] = copied
        return copied

    def update_history(self, entry: dict[str, Any]) -> None:
        """DSPy tells here what a request took and cost; it keeps nothing."""
        if self.limits is not None:
            self.limits.usage.add_answer(entry)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """From a thread the request is made on the loop: cancelling the call ends it there, and its connection."""
        limits = self.limits
        if limits is None:
            return super().__call__(*args, **kwargs)
        if not limits.on_the_loop():
            return limits.request(self.acall(*args, **kwargs))
        if self.settings is not None and self.settings.limited:
            raise RuntimeError(
                f"model {self.name!r} has limits, and waiting for them would stop the worker's loop: an async module"
                " asks with `await predictor.acall(…)`"
            )
        request = self._request()
        try:
            with limits.usage.request(request), dspy.context(disable_history=False, send_stream=None):
                return super().__call__(*args, **kwargs)
        except Exception as error:
            self._failed(request, error, kwargs)
            raise
        finally:
            self._remember(request, None, kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        if self.limits is None:
            return await super().acall(*args, **kwargs)
        if (key := self._key(args, kwargs)) is None or self.answers is None:
            return (await self._ask(args, kwargs))[0]
        if dspy.settings.send_stream is None and (kept := self.answers.get(key)) is not None:
            self.limits.usage.hit(self._label)
            return kept
        outputs, answered = await self._ask(args, kwargs)
        if answered is self:
            self.answers.put(key, outputs)
        return outputs

    async def _ask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, CallLM]:
        """Ask this model, and the others in order while they cannot answer; return the answer, and whose it is."""
        sent = _sent()
        for place, lm in enumerate((self, *self.others)):
            last = place == len(self.others)
            asked = lm if lm is self else lm.for_call(self._limits)
            fitting = kwargs if lm is self else asked._fitting(kwargs)
            try:
                # The adapter said that these messages are its own, of the first model.
                with nullcontext() if lm is self else adapter_message_call(asked, fitting.get("messages")):
                    return await asked._attempts(args, fitting, last), asked
            except Exception as error:
                if last or _sent() != sent or not _another_may_answer(error) or not self._has_time():
                    raise
        raise AssertionError("there is a last one")

    async def _attempts(self, args: tuple[Any, ...], kwargs: dict[str, Any], last: bool) -> Any:
        attempt = 0
        while True:
            sent = _sent()
            permit = await self._permit(last)
            request = self._request()
            pause, closing = None, True
            try:
                with self._limits.usage.request(request), dspy.context(disable_history=False):  # for update_history
                    answer = await super().acall(*args, **kwargs)
                closing = False
                self._remember(request, None, kwargs)
                return answer
            except Exception as error:
                self._failed(request, error, kwargs)
                pause, closing = getattr(error, "retry_after", None), getattr(error, "status", None) is None
                wait = self._wait(error, attempt, sent)
                if wait is None:
                    raise
            finally:
                if permit is not None and self._limits.permits is not None:
                    release = partial(self._limits.permits.release, permit, request.tokens, pause)
                    if (
                        closing
                    ):  # asyncio closes the connection in the loop's next turn: the provider counts it until then
                        asyncio.get_running_loop().call_soon(release)
                    else:
                        release()
            await asyncio.sleep(wait)
            attempt += 1

    async def _permit(self, last: bool) -> int | None:
        """Wait until the model's limits let a request through; None where it has none."""
        limits, settings = self._limits, self.settings
        if settings is None or not settings.limited or limits.permits is None:
            return None
        began = time.monotonic()
        try:
            return await limits.permits.acquire(settings.name, limits.share, no_pause=not last, left=limits.left())
        except LmCallError as refused:
            limits.usage.failed.append({"model": settings.name, "type": PAUSED})
            details = {"type": PAUSED, "model": settings.name, **refused.details}
            raise LmCallError(refused.message, retryable=True, details=details) from None
        finally:
            limits.usage.wait(time.monotonic() - began)

    def _request(self) -> Request:
        return Request(self.name, self._label, None if self.settings is None else self.settings.prices)

    def _failed(self, request: Request, error: Exception, kwargs: dict[str, Any]) -> None:
        _blot_out(None if self.settings is None else self.settings.secret, error)
        failure = {"model": self.name, "type": type(error).__name__}
        if (status := getattr(error, "status", None)) is not None:
            failure["status"] = status
        self._limits.usage.failed.append(failure)
        if (broken := getattr(dspy.settings.send_stream, "broken", None)) is not None:
            caller = dspy.settings.caller_predict
            broken(None if caller is None else id(caller))
        self._remember(request, error, kwargs)

    def _remember(self, request: Request, error: Exception | None, kwargs: dict[str, Any]) -> None:
        """Keep the exchange for ``inspect_history``, where that is wanted."""
        history = self._limits.history
        if history is not None and (error is not None or request.entry is not None):
            usage = self._limits.usage
            history.add(exchange(self.name, usage.program_id, request.began, request.entry, error, kwargs))
            request.entry = None

    @property
    def _limits(self) -> CallLimits:
        assert self.limits is not None
        return self.limits

    @property
    def name(self) -> str:
        """The configured name, or the model string of a client's own settings."""
        return self.model if self.settings is None else self.settings.name

    @property
    def _label(self) -> str:
        return self.model if self.settings is None else self.settings.label

    def _has_time(self) -> bool:
        left = self._limits.left()
        return left is None or left > 0

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """What this request's answer is kept as; None where it is not."""
        if self.settings is None or not self.settings.cache or self.limits is None:
            return None
        own = {name: value for name, value in self.kwargs.items() if name not in ("api_key", "api_base", "timeout")}
        return key_of(self.settings, self.limits.session, args, {**own, **kwargs})

    def _fitting(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a request as this model takes them; they were made for another."""
        if "response_format" not in kwargs or self.supports_response_schema:
            return kwargs
        rest = {name: value for name, value in kwargs.items() if name != "response_format"}
        return (
            rest | {"response_format": {"type": "json_object"}} if "response_format" in self.supported_params else rest
        )

    def _wait(self, error: Exception, attempt: int, sent: int) -> float | None:
        """Seconds until the next attempt; None where there is to be none."""
        limits = self._limits
        retries = 0 if self.settings is None else self.settings.num_retries
        if attempt >= retries or not is_retryable_lm_error(error):
            return None
        if _sent() != sent:
            return None  # a second attempt would repeat what the stream already showed
        hint = getattr(error, "retry_after", None)
        wait = float(hint) if hint is not None else float(min(2**attempt, 30))
        left = limits.left()
        return wait if wait <= _LONGEST_WAIT and (left is None or wait < left) else None


def _sent() -> int:
    """How many pieces of answers the call's stream has shown."""
    sent: int = getattr(dspy.settings.send_stream, "sent", 0)
    return sent


def _another_may_answer(error: Exception) -> bool:
    """Whether the failure is of this model, or of its provider, now; not of the request or of the configuration."""
    if isinstance(error, DspexError):
        return isinstance(error, LmCallError) and not isinstance(error, DeadlineExceeded)
    kinds = (LMRateLimitError, LMBillingError, ContextWindowExceededError)
    return isinstance(error, kinds) or is_retryable_lm_error(error)


def make_lm(settings: LmSettings) -> CallLM:
    """The LM of some settings; it opens nothing before its first request."""
    options: dict[str, Any] = {
        "api_key": settings.api_key,
        "api_base": settings.api_base,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
        "stop": list(settings.stop) or None,
        "seed": settings.seed,
        "reasoning_effort": settings.reasoning_effort,
        "timeout": settings.timeout,
    }
    given = {name: value for name, value in options.items() if value is not None}
    # A client's settings never take the way through LiteLLM, which reads addresses and keys from the environment.
    engine = "lm15" if settings.from_client else "auto"
    lm = CallLM(settings.model, cache=False, num_retries=0, engine=engine, **given)
    lm.settings = settings
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


def make_adapter(settings: LmSettings, extraction: CallLM | None) -> dspy.Adapter:
    """An adapter that asks the LM once: the chat adapter's second try, in JSON, would double a bad answer's cost."""
    if settings.adapter == "json":
        return JSONAdapter()
    if settings.adapter == "xml":
        return XMLAdapter(use_json_adapter_fallback=False)
    if settings.adapter == "two_step":
        return TwoStepAdapter(extraction)
    return ChatAdapter(use_json_adapter_fallback=False)


@dataclass
class _Kept:
    lm: CallLM
    users: int = 0


class LmCache:
    """LMs by settings. One that is used is never closed; of the others the last used are kept."""

    def __init__(self, size: int = _KEPT) -> None:
        self._size = size
        self.answers = KeptAnswers()
        self._kept: OrderedDict[LmSettings, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @asynccontextmanager
    async def use(self, settings: LmSettings) -> AsyncIterator[CallLM]:
        """The LM of these settings, for as long as the context lasts."""
        kept = self._kept.get(settings)
        if kept is None:
            kept = self._kept[settings] = _Kept(make_lm(settings))
            kept.lm.answers = self.answers if settings.cache else None
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
