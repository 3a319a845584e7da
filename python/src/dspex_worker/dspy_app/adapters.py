"""DSPy's adapters, such that no text turns into media.

DSPy makes parts of a message, with the address that they name, of what stands between two marks in any text. Inputs
with a mark are refused; what an LM answered, a tool returned or a conversation holds comes to an LM, too, as ReAct's
trajectory or the input of a next step, and would get round the operator's ``media_urls``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import dspy
from pydantic import BaseModel

from dspex_worker.dspy_app.media import MARKERS, Permissions, forbidden

_ALL: Final = Permissions(media_urls=True)


class _Formatted(str):
    """What an adapter wrote: its marks are of values that are media. ReAct hands its trajectory over as such."""

    __slots__ = ()


class _Unmarked:
    def __init_subclass__(cls) -> None:
        """Not DSPy's, which would tell a trace of each formatting and parsing twice."""

    def format_user_message_content(self, signature: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> str:
        told: str = super().format_user_message_content(  # type: ignore[misc]
            signature, {name: unmarked(value) for name, value in inputs.items()}, *rest, **more
        )
        return _Formatted(told)


class ChatAdapter(_Unmarked, dspy.ChatAdapter):
    pass


class JSONAdapter(_Unmarked, dspy.JSONAdapter):
    pass


class XMLAdapter(_Unmarked, dspy.XMLAdapter):
    pass


class TwoStepAdapter(_Unmarked, dspy.TwoStepAdapter):
    pass


def unmarked(value: Any) -> Any:
    """The value with its texts' marks made unusable; media, and what an adapter wrote, as they are."""
    if isinstance(value, _Formatted) or not any(forbidden(value, _ALL)):
        return value
    if isinstance(value, str):
        for mark in MARKERS:
            value = value.replace(mark, mark.strip("<>"))
        return value
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: unmarked(held) for name, held in value})
    if isinstance(value, Mapping):
        return {unmarked(key): unmarked(held) for key, held in value.items()}
    return list(map(unmarked, value))
