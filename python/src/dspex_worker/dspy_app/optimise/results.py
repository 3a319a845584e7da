"""Scores as a call's result tells them."""

from __future__ import annotations

from typing import Any, Final

from dspex import wire
from dspex.errors import DspexError

from dspex_worker.dspy_app.optimise.scoring import Scored, Scores
from dspex_worker.dspy_app.plain import plain

_OUTPUTS: Final = 4 << 20  # bytes of all outputs and feedback


def evaluation(scores: Scores, outputs: bool) -> dict[str, Any]:
    """The mean, and each row's; those whose outputs do not fit are told without, and counted."""
    left, dropped = _OUTPUTS, 0
    rows = []
    for one in scores.rows:
        told: dict[str, Any] = {"index": one.index, "score": one.score}
        if one.error is not None:
            told["error"] = {"code": one.error.code, "message": one.error.message[:500]}
        if outputs and (more := _more(one)):
            size = len(wire.pack_value(more))
            if size <= left:
                left -= size
                told |= more
            else:
                dropped += 1
        rows.append(told)
    result = {"score": scores.mean, "rows": rows, **failures(scores)}
    return result | ({"outputs_dropped": dropped} if dropped else {})


def failures(scores: Scores) -> dict[str, Any]:
    return {"errors": scores.errors()}


def _more(one: Scored) -> dict[str, Any]:
    more: dict[str, Any] = {} if one.feedback is None else {"feedback": one.feedback}
    if one.outputs is not None:
        more["outputs"] = plain(one.outputs)
    try:
        wire.pack_value(more)
    except DspexError:
        more["outputs"] = repr(one.outputs)[:1000]
    return more
