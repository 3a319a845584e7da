"""Values of programs in the protocol's types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any

import dspy
from pydantic import BaseModel, RootModel

from dspex_worker.dspy_app.media import MEDIA, media_map
from dspex_worker.dspy_app.media_in_models import media_fields


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
        return plain(_dumped(value))
    if isinstance(value, (dspy.Prediction, dspy.Example)):
        return plain(dict(value.items(include_dspy=True)))  # toDict makes text of media
    if isinstance(value, Mapping):
        return {key: plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(held) for held in value]
    return value


def _dumped(model: BaseModel) -> Any:
    """As pydantic tells it, but for media: those would be DSPy's marks."""
    held = [name for name in media_fields(type(model)) if not type(model).model_fields[name].exclude]
    if isinstance(model, RootModel):
        return model.root if held else model.model_dump()
    return model.model_dump(exclude=set(held)) | {name: getattr(model, name) for name in held}
