"""Settings of stand-alone mode: defaults as the sidecar's, a dspex.toml, options of the command line."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dspex_worker.standalone.permits import is_limited

log = logging.getLogger("dspex_worker")


class SettingsError(Exception):
    """A setting is wrong; the message names file, key and what is allowed."""


@dataclass
class Settings:
    """What the sidecar has under the same names in [listen], [pools.default], [sessions]; durations in seconds."""

    socket: str = ""
    mode: int = 0o660
    allow_uids: frozenset[int] = frozenset()  # empty: the server's own and root
    admin_uids: frozenset[int] = frozenset()
    max_connections: int = 10_000
    max_in_flight: int = 1024
    max_frame: int = 16 << 20
    handshake_timeout: float = 5.0
    frame_timeout: float = 30.0
    write_timeout: float = 30.0
    write_buffer: int = 64 << 20
    default_timeout: float = 600.0
    app: str = ""
    concurrency: int = 64
    checkout_timeout: float = 5.0
    queue_limit: int = 4096
    shutdown_timeout: float = 30.0
    cancel_grace: float = 5.0
    stream_stall: float = 30.0
    tracebacks: bool = False
    ttl: float = 3600.0
    max_age: float = 0.0  # of a session; 0: any
    max: int = 100_000
    max_state: int = 64 << 20
    auto_create: bool = False
    history: int = 0  # bytes of each session's last LM exchanges
    end_with_stdin: bool = False  # the command line's alone
    models: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    embedders: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    dspy: dict[str, Any] = field(default_factory=dict)


_DURATIONS = {
    "handshake_timeout", "frame_timeout", "write_timeout", "default_timeout", "checkout_timeout", "shutdown_timeout",
    "cancel_grace", "stream_stall", "ttl", "max_age",
}  # fmt: skip
_SIZES = {"max_frame", "write_buffer", "max_state", "history"}
_TABLES = {
    "listen": (
        "socket", "mode", "allow_uids", "admin_uids", "max_connections", "max_in_flight", "max_frame",
        "handshake_timeout", "frame_timeout", "write_timeout", "write_buffer", "default_timeout",
    ),
    "pools": (
        "app", "concurrency", "checkout_timeout", "queue_limit", "shutdown_timeout", "cancel_grace", "stream_stall",
        "tracebacks",
    ),
    "sessions": ("ttl", "max_age", "max", "max_state", "auto_create", "history"),
}  # fmt: skip
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def default_socket() -> str:
    """Return where the socket is when nothing says otherwise."""
    if path := os.environ.get("DSPEX_SOCKET"):
        return path
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "dspex", "dspex.sock")
    return "/run/dspex/dspex.sock"


def read(path: str, profile: str | None) -> Settings:
    """Read a dspex.toml. Keys that only the sidecar uses are left to it. Raises SettingsError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if profile:
        overlay = document.get("profile", {}).get(profile)
        if not isinstance(overlay, dict):
            raise SettingsError(f"{path}: there is no [profile.{profile}]")
        document = _merged(document, overlay)
    folder = Path(path).resolve().parent
    settings = Settings()
    for table, keys in _TABLES.items():
        values = document.get(table, {})
        name = table
        if table == "pools":
            values, name = values.get("default", {}), "pools.default"
        for key in keys:
            if key in values:
                try:
                    setattr(settings, key, _value(key, values[key], getattr(settings, key)))
                except ValueError as error:
                    raise SettingsError(f"{path}: {name}.{key}: {error}") from None
    if settings.socket:
        settings.socket = str(folder / settings.socket)
    for name, model in document.get("models", {}).items():
        if "command" in model:
            log.warning("model %r is left out: its server is one that only the sidecar starts", name)
            continue
        try:
            settings.models[name] = _model(model, folder)
        except (ValueError, OSError) as error:
            raise SettingsError(f"{path}: models.{name}: {error}") from None
    for name, embedder in document.get("embedders", {}).items():
        try:
            settings.embedders[name] = _model(embedder, folder)
        except (ValueError, OSError) as error:
            raise SettingsError(f"{path}: embedders.{name}: {error}") from None
    try:
        settings.dspy = _dspy(document, folder)
    except (ValueError, OSError) as error:
        raise SettingsError(f"{path}: {error}") from None
    return settings


def _dspy(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the sidecar tells its workers of [dspy] and [programs.NAME]; it checks them, and this does not."""
    found = dict(document.get("dspy", {}))
    found["media_folders"] = [str(folder / one) for one in found.get("media_folders", ())]
    found["programs"] = programs = {}
    for name, given in document.get("programs", {}).items():
        programs[name] = {"module": "predict", **given}
        for key in ("state", "demos"):
            if key in given:
                programs[name][key] = (folder / given[key]).read_text(encoding="utf-8")
    return found


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return result


def _value(key: str, value: Any, default: Any) -> Any:
    if key in _DURATIONS:
        return seconds(value)
    if key in _SIZES:
        return 0 if key == "history" and value == 0 else _size(value)
    if key == "mode":
        if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
            raise ValueError(f'must be permissions such as "0660", not {value!r}')
        return int(value, 8)
    if key in ("allow_uids", "admin_uids"):
        if not isinstance(value, list) or not all(type(uid) is int and uid >= 0 for uid in value):
            raise ValueError(f"must be a list of uids, not {value!r}")
        return frozenset(value)
    if type(value) is not type(default) or (type(value) is int and value < 1):
        wanted = {int: "a number of at least 1", bool: "true or false", str: "text"}[type(default)]
        raise ValueError(f"must be {wanted}, not {value!r}")
    return value


def seconds(value: Any) -> float:
    """Return the seconds of a duration such as "5s", "1h30m" or "200ms". Raises ValueError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError(f'must be a duration such as "5s", "1h30m" or "200ms", not {value!r}')
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _size(value: Any) -> int:
    if type(value) is int and value > 0:
        return value
    match = re.fullmatch(r"(\d+) ?([A-Za-z]*)", value) if isinstance(value, str) else None
    if match is None or match[2] not in _BYTES:
        raise ValueError(f'must be a size such as "16MiB", not {value!r}')
    return int(match[1]) * _BYTES[match[2]]


def _model(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a model's settings as workers get them: references resolved, durations in seconds."""
    if not isinstance(model.get("model"), str):
        raise ValueError('model must be given: DSPy\'s name, such as "openai/gpt-4o-mini"')
    settings = dict(model)
    if (reference := model.get("api_key")) is not None:
        settings["api_key"] = _secret(reference, folder)
    if (timeout := model.get("timeout")) is not None:
        settings["timeout"] = seconds(timeout)
    settings["limited"] = is_limited(model)
    return settings


def _secret(reference: Any, folder: Path) -> str:
    kind, _, place = str(reference).partition(":")
    if kind == "env":
        if (found := os.environ.get(place)) is None:
            raise ValueError(f"api_key: the environment has no variable {place}")
        return found
    if kind == "file":
        return (folder / place).read_text(encoding="utf-8").strip()
    raise ValueError('api_key must be a reference: "env:NAME" or "file:PATH"')
