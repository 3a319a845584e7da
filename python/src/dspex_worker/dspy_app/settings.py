"""LM settings: the operator's ``[models.*]``, and those that a client gives for its session or a program of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from dspex_worker.dspy_app.errors import Problem, invalid_param, invalid_params

Adapter = Literal["chat", "json"]
ADAPTERS = ("chat", "json")

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
    max_tokens: int | None = None
    timeout: float | None = None  # seconds to wait for the provider at a time; None: DSPy's own
    num_retries: int = 0
    from_client: bool = False


class Models:
    """The operator's models by name, and which of them is the default."""

    def __init__(self, configured: Mapping[str, Mapping[str, Any]]) -> None:
        self._settings = {name: _operator_settings(name, given) for name, given in configured.items()}
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
        if problems:
            raise invalid_params(problems)
        model, api_base = given["model"], given.get("api_base")
        settings = LmSettings(
            name=model,
            model=model,
            api_key=api_key or _NO_KEY,
            api_base=api_base,
            adapter=given.get("adapter") or "chat",
            temperature=_float_or_none(given.get("temperature")),
            max_tokens=given.get("max_tokens"),
            from_client=True,
        )
        if api_key is None and api_base is None:
            raise invalid_param(
                "settings.api_key", "is missing: the operator's key is not used for a client's settings"
            )
        return settings


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
        max_tokens=given.get("max_tokens") or None,
        timeout=_float_or_none(given.get("timeout")) or None,
        num_retries=int(given.get("num_retries") or 0),
    )


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _problems(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All that is wrong with a client's settings, as (key, why)."""
    known = {"model", "api_key", "api_base", "temperature", "max_tokens", "adapter"}
    found = [(str(key), f"is not known; known are {', '.join(sorted(known))}") for key in given if key not in known]
    model = given.get("model")
    provider, _, rest = model.partition("/") if isinstance(model, str) else ("", "", "")
    if provider not in CLIENT_PROVIDERS or not rest or len(rest) > 256:
        found.append(("model", f"must be PROVIDER/MODEL with a provider of: {', '.join(CLIENT_PROVIDERS)}"))
    if not _is_key(given.get("api_key")):
        found.append(("api_key", "must be text in printable ASCII without spaces"))
    if not _is_address(given.get("api_base")):
        found.append(("api_base", "must be an http or https address without user, query or fragment"))
    temperature, limit = given.get("temperature"), given.get("max_tokens")
    if temperature is not None and not (_is_number(temperature) and 0 <= temperature <= 2):
        found.append(("temperature", "must be a number from 0 to 2"))
    if limit is not None and not (isinstance(limit, int) and not isinstance(limit, bool) and 1 <= limit <= 1_000_000):
        found.append(("max_tokens", "must be a whole number from 1 to 1000000"))
    if (given.get("adapter") or "chat") not in ADAPTERS:
        found.append(("adapter", f"must be one of {', '.join(ADAPTERS)}"))
    return found


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
