"""What an LM or its provider did wrong, as the protocol's ``lm_error``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dspex.errors import DspexError
from dspex.errors import LMError as LmCallError
from dspy.utils.exceptions import AdapterParseError, DSPyError, LMError, is_retryable_lm_error

from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.permits import LONGEST_PAUSE

PAUSED = "ModelPaused"  # the type of the error where a model's provider wants to be left alone

_SHOWN = 2000  # characters of a message
_TRIED = 20  # requests that are told of
_SHOWN_ANSWER = 500  # characters of an answer that could not be parsed


def lm_error(
    error: BaseException, settings: LmSettings | None, failed: Sequence[Mapping[str, Any]] = ()
) -> DspexError | None:
    """The ``lm_error`` for what DSPy raised; None where it is not the LM's doing.

    An answer that the adapter cannot parse is the LM's failure, too (``type`` ``AdapterParseError``): it ran, was paid
    for, and asking again may well fail again, so it is not retryable. ``failed`` are the call's requests that failed:
    where several models were asked, the error tells all.
    """
    if isinstance(error, AdapterParseError):
        fields = ", ".join(error.signature.output_fields)
        answer = _shortened(str(error.lm_response), _SHOWN_ANSWER)
        message = f"the answer cannot be read as {fields} ({error.adapter_name}): {answer}"
        return _made("AdapterParseError", message, False, settings, {})
    if isinstance(error, LmCallError) and error.details.get("type") == PAUSED:
        return LmCallError(error.message, retryable=True, details=error.details | _tried(failed))
    if not isinstance(error, LMError):
        return None
    details: dict[str, Any] = {}
    if error.status is not None:
        details["status"] = error.status
    if error.retry_after is not None:
        details["retry_after_ms"] = round(min(error.retry_after, LONGEST_PAUSE) * 1000)
    if failed:
        details |= {"model": failed[-1]["model"]} | _tried(failed)
    return _made(type(error).__name__, _text(error), is_retryable_lm_error(error), settings, details)


def _tried(failed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    several = len({one["model"] for one in failed}) > 1
    return {"tried": list(failed[-_TRIED:])} if several else {}


def _made(kind: str, message: str, retryable: bool, settings: LmSettings | None, details: dict[str, Any]) -> DspexError:
    told = {"type": kind, **({} if settings is None else {"model": settings.name}), **details}
    return LmCallError(_shortened(message, _SHOWN), retryable=retryable, details=told)


def _text(error: DSPyError) -> str:
    return error.message or type(error).__name__


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"
