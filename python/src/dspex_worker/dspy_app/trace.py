"""What one call's modules, adapters, LMs and tools did and how long it took: DSPy's callbacks as events of the call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import dspy
from dspex import wire
from dspex.errors import DspexError
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from dspex_worker.dspy_app.models import CallLM
from dspex_worker.dspy_app.plain import plain

Event = dict[str, Any]
Wanted = bool | Literal["full"]

IN_ANSWER = 32 << 10  # bytes of a trace in an answer's meta, of which the head of a frame has 64 KiB
IN_STREAM = 1 << 20  # bytes of one that is streamed
_SHOWN = 4096  # bytes of inputs and outputs that are told as they are; longer ones are told as text, cut
_END = 200  # bytes kept free for the end of each event that is told of


class Trace(BaseCallback):
    """Collects events, or hands them to ``emit`` as they come; up to ``most`` bytes, then it counts."""

    def __init__(self, full: bool, most: int, emit: Callable[[Event], None] | None = None) -> None:
        self.dropped = 0
        self.events: list[Event] = []
        self._full = full
        self._emit = emit or self.events.append
        self._began = time.monotonic()
        self._guard = threading.Lock()  # guards what follows: modules run on threads, too
        self._left = most
        self._ids: dict[str, int] = {}  # DSPy's ids of what is told of, and ours
        self._open: dict[str, tuple[Event, float]] = {}
        self._names: dict[int, str] = {}

    def watch(self, module: dspy.Module) -> None:
        """Say whose parts are known by which names."""
        for name, part in module.named_sub_modules():
            self._names[id(part)] = name.removeprefix("self.") if name != "self" else type(module).__name__

    def to_app(self) -> dict[str, Any]:
        """As the answer's ``meta.app`` has it."""
        return {"trace": self.events, **({"trace_dropped": self.dropped} if self.dropped else {})}

    def _start(self, kind: str, name: str, call_id: str, inputs: Any) -> None:
        now = time.monotonic()
        parent = self._ids.get(ACTIVE_CALL_ID.get() or "")
        event: Event = {"type": "trace", "kind": kind, "event": "start", "parent": parent, "name": name[:200]}
        event["at_ms"] = round((now - self._began) * 1000, 3)
        if self._full:
            event["inputs"] = _shown(inputs)
        size = len(wire.pack_value(event)) + _END
        with self._guard:
            if size > self._left:
                self.dropped += 1
                return
            self._left -= size
            event["id"] = self._ids[call_id] = len(self._ids) + 1
            self._open[call_id] = event, now
        self._emit(event)

    def _end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        with self._guard:
            event, began = self._open.pop(call_id, (None, 0.0))
        if event is None:
            return
        end: Event = {name: event[name] for name in ("type", "kind", "parent", "name", "id")}
        end |= {"event": "end", "ms": round((time.monotonic() - began) * 1000, 3)}
        if exception is not None:
            end["error"] = type(exception).__name__
        elif self._full:
            shown = _shown(outputs)
            with self._guard:
                fits = (size := len(wire.pack_value(shown))) <= self._left
                self._left -= size if fits else 0
            if fits:
                end["outputs"] = shown
        self._emit(end)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("module", self._names.get(id(instance)) or type(instance).__name__, call_id, inputs)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("lm", instance.name if isinstance(instance, CallLM) else str(instance.model), call_id, inputs)

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("adapter", f"{type(instance).__name__}.format", call_id, inputs)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("adapter", f"{type(instance).__name__}.parse", call_id, inputs)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("tool", str(instance.name), call_id, inputs)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, outputs, exception)

    on_lm_end = on_adapter_format_end = on_adapter_parse_end = on_tool_end = on_module_end


def _shown(value: Any) -> Any:
    """As it is where it is short and can be packed; else as text."""
    try:
        shown = plain(value)
        if len(wire.pack_value(shown)) <= _SHOWN:
            return shown
    except DspexError:
        pass
    text = repr(value)
    return text if len(text) <= _SHOWN // 2 else f"{text[: _SHOWN // 2]}… ({len(text)} characters)"
