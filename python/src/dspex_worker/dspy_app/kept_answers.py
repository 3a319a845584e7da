"""Answers of LMs that are kept for the same request, where the operator wants that.

DSPy's own cache is off: its key leaves out the provider's address and key, so one session would get another's answers.
Here an answer belongs to the model's settings, key and address included, and to the session unless the operator lets
sessions share. It is in this process's memory alone, and bounded.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pydantic

from dspex_worker.dspy_app.settings import LmSettings

_MOST = 16 << 20  # bytes of one worker

Key = tuple[LmSettings, int | None, bytes]


class KeptAnswers:
    """The last used, up to so many bytes."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._bytes = 0
        self._kept: OrderedDict[Key, tuple[int, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> Any:
        """A copy of what was kept, or None."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return copy.deepcopy(found[1])

    def put(self, key: Key, outputs: Any) -> None:
        """Keep a copy, and drop what was used longest ago."""
        size = len(repr(outputs)) + 512
        if size > self._most // 8:
            return
        self._bytes += size - self._kept.pop(key, (0, None))[0]
        self._kept[key] = size, copy.deepcopy(outputs)
        while self._bytes > self._most:
            self._bytes -= self._kept.popitem(last=False)[1][0]


def key_of(settings: LmSettings, session: int | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Key | None:
    """What a request is kept as; None where it is not: by session, and there is none, or it cannot be told from others.

    Ids of sessions in the sidecar's numbering, which gives none again.
    """
    if settings.cache_scope == "session" and session is None:
        return None
    try:
        text = orjson.dumps([list(args), dict(kwargs)], default=_plain, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return None
    return settings, session if settings.cache_scope == "session" else None, hashlib.sha256(text).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, type) and issubclass(value, pydantic.BaseModel):
        return value.model_json_schema()
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    raise TypeError
