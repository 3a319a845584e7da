"""Values of programs in the protocol's types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any

import dspy
from pydantic import BaseModel

from dspex_worker.dspy_app.media import MEDIA, media_map


def plain(value: Any) -> Any:
    """The value in the protocol's types; dates and times as ISO 8601 text, as their JSON schema says.

    What has no such form is left as it is: the worker names its place in ``not_serializable``.
    """
    if value is None or isinstance(value, (bool, int, float, bytes)):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, MEDIA):
        return media_map(value)
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, (dspy.Prediction, dspy.Example)):
        return plain(dict(value.items(include_dspy=True)))  # toDict makes text of media
    if isinstance(value, Mapping):
        return {key: plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(held) for held in value]
    return value
