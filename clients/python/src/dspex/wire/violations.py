"""What can be wrong with received bytes, by what it costs the sender."""

from __future__ import annotations


class Violation(ValueError):
    """Received bytes that break docs/protocol.md."""


class StructureError(Violation):
    """Framing is broken: the connection ends, after a `protocol_error`."""


class EnvelopeError(Violation):
    """The head cannot be read: answered with a `protocol_error`, and the connection goes on.

    `id`, and the `kind` of the frame, are None where they could not be read.
    """

    def __init__(self, message: str, id: int | None = None, kind: int | None = None) -> None:
        super().__init__(message)
        self.id = id
        self.kind = kind


class ContentError(Violation):
    """A value breaks the rules on content: the call `id` is answered `invalid_frame` (None: a notification).

    `kind` is that of the frame.
    """

    def __init__(self, message: str, id: int | None = None, kind: int | None = None) -> None:
        super().__init__(message)
        self.id = id
        self.kind = kind
