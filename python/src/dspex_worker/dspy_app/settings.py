"""LM settings: the operator's ``[models.*]``, and those that a client gives for its session or a program of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from dspex_worker.dspy_app.counts import CLIENT
from dspex_worker.dspy_app.errors import Problem, invalid_param, invalid_params

Adapter = Literal["chat", "json", "xml", "two_step"]
ADAPTERS = ("chat", "json", "xml", "two_step")
EFFORTS = ("none", "minimal", "low", "medium", "high")

# Providers of a client's own settings: those whose requests carry the given key and nothing else. Others would look
# for credentials of the machine (a cloud's metadata service, a login of the operator's) and lend them to the client.
CLIENT_PROVIDERS = (
    "openai",
    "anthropic",
    "gemini",
    "groq",
    "openrouter",
    "deepseek",
    "xai",
    "moonshot",
    "ollama_chat",
    "hosted_vllm",
)
_NO_KEY = "none"  # sent where a client gives an address and no key, so that no key of the operator's is looked for


@dataclass(frozen=True)
class LmSettings:
    """All that makes an LM and the adapter beside it; equal settings share one LM."""

    name: str  # as told: the configured name, or the model string of a client's own settings
    model: str
    api_key: str | None = field(default=None, repr=False)
    api_base: str | None = None
    adapter: Adapter = "chat"
    response_schema: bool = False  # the model takes JSON schemas, even where DSPy does not know it
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning_effort: str | None = None
    timeout: float | None = None  # seconds to wait for the provider at a time; None: DSPy's own
    num_retries: int = 0
    limited: bool = False  # requests need a permit
    cache: bool = False
    cache_scope: Literal["session", "model"] = "session"
    prices: tuple[float, float] | None = None  # US dollars for a token of a prompt, and of an answer
    from_client: bool = False
    fallbacks: tuple[LmSettings, ...] = field(default=(), compare=False)  # asked in order where this one cannot answer
    extraction: LmSettings | None = field(default=None, compare=False)  # reads the answers, for "two_step"

    @property
    def label(self) -> str:
        """What its requests are counted as."""
        return CLIENT if self.from_client else self.name

    @property
    def secret(self) -> str | None:
        """What nothing may tell: the key, where there is one."""
        return None if self.api_key == _NO_KEY else self.api_key


class Models:
    """The operator's models by name, and which of them is the default."""

    def __init__(self, configured: Mapping[str, Mapping[str, Any]]) -> None:
        alone = {name: _operator_settings(name, given) for name, given in configured.items()}
        self._settings = {name: _with_others(alone, name, given) for name, given in configured.items()}
        marked = [name for name, given in configured.items() if given.get("default")]
        only = list(configured) if len(configured) == 1 else []
        self.default: str | None = next(iter(marked or only), None)

    def get(self, name: str) -> LmSettings:
        """The settings of a configured model.

        Raises:
            DspexError: ``invalid_params``: there is none of this name.
        """
        if name in self._settings:
            return self._settings[name]
        known = ", ".join(sorted(self._settings)) or "none"
        raise invalid_param("model", f"no model {name!r} is configured; configured are: {known}")

    def resolve(self, stored: object, api_key: object) -> LmSettings:
        """Return what a call uses: ``stored`` as ``configure_lm`` kept it, else the default.

        Raises:
            DspexError: ``invalid_params``: there is nothing to use, or it is no longer configured.
        """
        if stored is not None:
            return self._from_state(stored, api_key)
        if self.default is not None:
            return self._settings[self.default]
        if self._settings:
            known = ", ".join(sorted(self._settings))
            why = f"none of the configured models ({known}) is the default: mark one with default = true"
        else:
            why = "no model is configured: add a [models.NAME] table to the sidecar's configuration"
        raise invalid_param("model", f"{why}, or call configure_lm in this session")

    def _from_state(self, stored: object, api_key: object) -> LmSettings:
        """What a state holds may have come from a file: it is checked as what a client gives is."""
        if isinstance(stored, Mapping) and stored.keys() == {"model"} and isinstance(stored["model"], str):
            return self.get(stored["model"])
        settings = stored.get("settings") if isinstance(stored, Mapping) and len(stored) == 1 else None
        if not isinstance(settings, Mapping) or "api_key" in settings or not _is_key(api_key):
            raise invalid_param(
                "settings", "what the session's state holds of its LM cannot be used; call configure_lm again"
            )
        return self.from_client(settings, cast("str | None", api_key))

    def from_client(self, given: Mapping[str, Any], api_key: str | None) -> LmSettings:
        """The settings that a client gave, checked; the operator's key goes nowhere but to the operator's address.

        Raises:
            DspexError: ``invalid_params``, with all that is wrong.
        """
        problems = [Problem(f"settings.{key}", why) for key, why in _problems(given)]
        extraction = self._settings.get(str(given.get("extraction_model")))
        if given.get("extraction_model") is not None and extraction is None:
            problems.append(Problem("settings.extraction_model", "is not the name of a configured model"))
        if api_key is None and given.get("api_base") is None and not problems:
            problems.append(
                Problem("settings.api_key", "is missing: the operator's key is not used for a client's settings")
            )
        if problems:
            raise invalid_params(problems)
        model, api_base = given["model"], given.get("api_base")
        return LmSettings(
            name=model,
            model=model,
            api_key=api_key or _NO_KEY,
            api_base=api_base,
            adapter=given.get("adapter") or "chat",
            temperature=_float_or_none(given.get("temperature")),
            top_p=_float_or_none(given.get("top_p")),
            max_tokens=given.get("max_tokens"),
            stop=tuple(given.get("stop") or ()),
            seed=given.get("seed"),
            reasoning_effort=given.get("reasoning_effort"),
            from_client=True,
            extraction=extraction,
        )


def _operator_settings(name: str, given: Mapping[str, Any]) -> LmSettings:
    """The configuration has been checked by the sidecar; what other keys there are is not for the worker."""
    adapter = given.get("adapter") or "chat"
    if adapter not in ADAPTERS:
        raise ValueError(f"models.{name}.adapter: {adapter!r} is not one of {', '.join(ADAPTERS)}")
    return LmSettings(
        name=name,
        model=str(given["model"]),
        api_key=given.get("api_key") or None,
        api_base=given.get("api_base") or None,
        adapter=cast(Adapter, adapter),
        response_schema=bool(given.get("response_schema")),
        temperature=_float_or_none(given.get("temperature")),
        top_p=_float_or_none(given.get("top_p")),
        max_tokens=given.get("max_tokens") or None,
        stop=tuple(given.get("stop") or ()),
        seed=given.get("seed"),
        reasoning_effort=given.get("reasoning_effort") or None,
        timeout=_float_or_none(given.get("timeout")) or None,
        num_retries=int(given.get("num_retries") or 0),
        limited=bool(given.get("limited")),
        cache=bool(given.get("cache")),
        cache_scope="model" if given.get("cache_scope") == "model" else "session",
        prices=_prices(given),
    )


def _with_others(alone: Mapping[str, LmSettings], name: str, given: Mapping[str, Any]) -> LmSettings:
    """With the models that it names; those have none of their own in that role."""
    for other in (*(given.get("fallbacks") or ()), *filter(None, (given.get("extraction_model"),))):
        if other not in alone:
            raise ValueError(f"models.{name}: {other!r} is no configured model")
    return replace(
        alone[name],
        fallbacks=tuple(alone[other] for other in given.get("fallbacks") or ()),
        extraction=alone.get(given.get("extraction_model") or ""),
    )


def _prices(given: Mapping[str, Any]) -> tuple[float, float] | None:
    if given.get("input_price") is None or given.get("output_price") is None:
        return None
    return float(given["input_price"]) / 1e6, float(given["output_price"]) / 1e6


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _problems(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All that is wrong with a client's settings, as (key, why)."""
    known = {"model", "api_key", "api_base", "adapter", "extraction_model", *_CHECKS}
    found = [(str(key), f"is not known; known are {', '.join(sorted(known))}") for key in given if key not in known]
    model = given.get("model")
    provider, _, rest = model.partition("/") if isinstance(model, str) else ("", "", "")
    if provider not in CLIENT_PROVIDERS or not rest or len(rest) > 256:
        found.append(("model", f"must be PROVIDER/MODEL with a provider of: {', '.join(CLIENT_PROVIDERS)}"))
    if not _is_key(given.get("api_key")):
        found.append(("api_key", "must be text in printable ASCII without spaces"))
    if not _is_address(given.get("api_base")):
        found.append(("api_base", "must be an http or https address without user, query or fragment"))
    for key, (fits, wanted) in _CHECKS.items():
        if (value := given.get(key)) is not None and not fits(value):
            found.append((key, f"must be {wanted}"))
    adapter = given.get("adapter") or "chat"
    if adapter not in ADAPTERS:
        found.append(("adapter", f"must be one of {', '.join(ADAPTERS)}"))
    elif adapter == "two_step" and given.get("extraction_model") is None:
        found.append(("extraction_model", "is missing: the adapter two_step needs it"))
    return found


def _between(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: _is_number(value) and low <= cast(float, value) <= high


def _whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _are_stops(value: object) -> bool:
    return (
        isinstance(value, list)
        and 1 <= len(value) <= 4
        and all(isinstance(one, str) and 1 <= len(one) <= 256 for one in value)
    )


# What a client may say of the sampling, and of the answer's length.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (_between(0, 2), "a number from 0 to 2"),
    "top_p": (_between(0, 1), "a number from 0 to 1"),
    "max_tokens": (_whole(1, 1_000_000), "a whole number from 1 to 1000000"),
    "seed": (_whole(0, 2**31 - 1), "a whole number from 0 to 2147483647"),
    "stop": (_are_stops, "a list of 1 to 4 texts, each of at most 256 characters"),
    "reasoning_effort": (lambda value: value in EFFORTS, f"one of {', '.join(EFFORTS)}"),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_key(value: object) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, str)
        and 0 < len(value) <= 4096
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def _is_address(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, str) or len(value) > 2048 or not value.isascii() or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_valid and plain
