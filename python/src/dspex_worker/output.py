"""Standard output and error of a pool's worker: each line that a call prints says which call it was.

The sidecar makes log lines of what a worker prints. A line that Python code prints inside a call begins with a mark,
``\\x1f SESSION \\x1f REQUEST \\x1f`` without the spaces, which the sidecar takes off: the session's id, empty without
one, and the request's id on the worker channel. What C code prints has none.
"""

from __future__ import annotations

import io
import sys

from dspex_worker.calls import current

MARK = "\x1f"


class MarkedOutput(io.TextIOWrapper):
    """A text stream that marks the lines of calls. A line belongs to whoever began it."""

    _within = False  # a line has begun and not ended

    def write(self, text: str, /) -> int:
        call = current.get(None)
        if call is not None and text:
            session = "" if call.session is None else call.session.id
            super().write(self._marked(text, f"{MARK}{session}{MARK}{call.id}{MARK}"))
        else:
            super().write(text)
        if text:
            self._within = text[-1] != "\n"
        return len(text)

    def _marked(self, text: str, mark: str) -> str:
        begun = text if self._within else mark + text
        return begun[:-1].replace("\n", "\n" + mark) + begun[-1]


def mark_output() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr``: before the application is imported, whose loggers keep them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding
            marked = MarkedOutput(stream.detach(), encoding, errors="backslashreplace", line_buffering=True)
            setattr(sys, name, marked)
