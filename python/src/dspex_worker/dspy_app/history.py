"""The last LM exchanges of a session, for its owner: what DSPy's ``inspect_history`` shows.

They are kept beside this worker's copy of the session, and go with it: an execution only reads its session, so that
many run beside each other, and a commit for each LM request would end that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dspex import wire
from dspex.errors import DspexError

from dspex_worker.calls import clean

_SHOWN = 4000  # characters of each text in an exchange that is longer than the whole history may be


class History:
    """Exchanges, packed, up to so many bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.dropped = 0
        self._bytes = 0
        self._entries: deque[bytes] = deque()

    def add(self, entry: dict[str, Any]) -> None:
        """Keep an exchange and drop the oldest."""
        try:
            packed = wire.pack_value(entry, "entry")
        except DspexError:  # half a character, say: models answer what they like
            packed = wire.pack_value(_with_texts(entry, clean), "entry")
        if len(packed) > self.most:
            packed = wire.pack_value(_with_texts(entry, _shortened), "entry")
        self._entries.append(packed)
        self._bytes += len(packed)
        while self._bytes > self.most:
            self._bytes -= len(self._entries.popleft())
            self.dropped += 1

    def last(self, count: int) -> list[dict[str, Any]]:
        """The last so many, the oldest of them first."""
        return [wire.decode_value(packed) for packed in list(self._entries)[-count:]]


def exchange(
    model: str,
    program: str,
    began: float,
    entry: Mapping[str, Any] | None,
    error: BaseException | None,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """An entry: what was asked and answered. ``entry`` is DSPy's own of an answer; ``asked`` stands in where it failed.

    Of the request's settings nothing is told: keys and headers are among them.
    """
    took = time.monotonic() - began
    at = datetime.fromtimestamp(time.time() - took, UTC)
    told: dict[str, Any] = {"at": at, "ms": round(took * 1000, 1), "model": model, "program": program}
    messages = (entry or {}).get("messages") or asked.get("messages")
    if not messages:
        messages = [{"role": "user", "content": asked.get("prompt")}]
    told["messages"] = [{"role": str(_of(one, "role")), "content": _text(_of(one, "content"))} for one in messages]
    if entry is not None:
        outputs: Sequence[Any] = entry.get("outputs") or []
        told["outputs"] = [_output(one) for one in outputs]
        told["usage"] = {name: n for name, n in (entry.get("usage") or {}).items() if isinstance(n, int)}
        told["cost"] = entry.get("cost")
    if error is not None:
        told["error"] = {"type": type(error).__name__, "message": str(error)[:_SHOWN]}
    return told


def _of(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "\n".join(_part(part) for part in content)
    return "" if content is None else str(content)


def _part(part: Any) -> str:
    """Media are named, not shown."""
    text = _of(part, "text")
    return text if isinstance(text, str) else f"({_of(part, 'type') or type(part).__name__})"


def _output(output: Any) -> Any:
    if isinstance(output, Mapping):
        return {str(name): value if isinstance(value, str) else repr(value) for name, value in output.items()}
    return str(output)


def _shortened(text: str) -> str:
    text = clean(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _with_texts(entry: dict[str, Any], changed: Callable[[str], str]) -> dict[str, Any]:
    """The entry with its texts changed; of its lists only what comes first."""

    def change(value: Any) -> Any:
        if isinstance(value, str):
            return changed(value)
        if isinstance(value, dict):
            return {name: change(held) for name, held in value.items()}
        if isinstance(value, list):
            return [change(held) for held in value[:8]]
        return value

    made: dict[str, Any] = change(entry)
    return made
