"""Methods whose calls have a process of their own: what the worker says of them."""

from __future__ import annotations

import pytest
from dspex import wire
from dspex_worker import App
from runtime.harness import Worker


def test_what_a_run_uses_is_told_while_it_goes_on(worker: Worker) -> None:
    worker.request(7, "spend", None, tokens=30)
    told = worker.until(lambda message: isinstance(message, wire.Notification) and message.method == "call.usage")
    assert told.params == {"call": 7, "usage": {"total_tokens": 30}}
    worker.send(wire.encode_cancel(7, "enough"))
    assert worker.response(7).meta == {"usage": {"total_tokens": 30}}


def test_a_process_is_its_own_or_none() -> None:
    with pytest.raises(ValueError, match="process is 'own' or None"):
        App(use_dspy=False).method(process="pool")(len)  # type: ignore[call-overload]
