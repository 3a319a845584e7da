"""The error codes of the protocol, and one exception class for each that a caller would catch.

The codes are those of docs/protocol.md, "Errors"; `connection_lost` is the client's own. An error that came from the
sidecar and one that is raised inside a worker's method are the same class: `DspexError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

__all__ = [
    "CODES",
    "BudgetExceeded",
    "Cancelled",
    "CheckoutTimeout",
    "ConnectionLost",
    "DeadlineExceeded",
    "Draining",
    "DspexError",
    "FrameTooLarge",
    "InternalError",
    "InvalidFrame",
    "InvalidParams",
    "InvalidSignature",
    "LMError",
    "NoWorkers",
    "NotSerializable",
    "PermissionDenied",
    "ProgramError",
    "ProgramExists",
    "ProgramNotFound",
    "QueueFull",
    "SessionBusy",
    "SessionExists",
    "SessionLimit",
    "SessionLost",
    "SessionMoved",
    "SessionNotFound",
    "StorageUnavailable",
    "UnknownMethod",
    "UnsupportedProtocol",
    "WorkerLost",
    "error_from_wire",
]


class DspexError(Exception):
    """A call that failed.

    Attributes:
        code: one of the codes of the protocol; one that this version does not know is kept as it came.
        message: what happened, for people.
        retryable: the same call may succeed later, and it has not run (or was declared safe to run again).
        details: what belongs to the code; empty where there is nothing to add.
        meta: what the sidecar says of the call, as in `Reply`: a call that failed has a `worker` and a `usage`, too.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.code: str = self.default_code if code is None else code
        self.message: str = message or self.code
        self.retryable: bool = self.code in _RETRYABLE if retryable is None else retryable
        self.details: dict[str, Any] = dict(details or {})
        self.meta: dict[str, Any] = {}
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return error_from_wire, (self.to_wire(),)

    def to_wire(self) -> dict[str, Any]:
        """The error map of a response."""
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "details": self.details or None,
        }


class InvalidFrame(DspexError):
    """The frame, or a value in it, breaks the rules of the protocol."""

    default_code = "invalid_frame"


class UnsupportedProtocol(DspexError):
    """No protocol version in common, or the first frame was not `hello`."""

    default_code = "unsupported_protocol"


class FrameTooLarge(DspexError):
    """Longer than the receiver's limit; `details`: `limit`, `length` in bytes."""

    default_code = "frame_too_large"


class PermissionDenied(DspexError):
    """This user may not do that."""

    default_code = "permission_denied"


class UnknownMethod(DspexError):
    """No such method."""

    default_code = "unknown_method"


class InvalidParams(DspexError):
    """Parameters missing, unknown or of the wrong type; `details["errors"]`: list of `{path, message}`."""

    default_code = "invalid_params"


class InvalidSignature(DspexError):
    """A signature cannot be built; `details` say where."""

    default_code = "invalid_signature"


class SessionNotFound(DspexError):
    """No such session, or not yours, or it ended."""

    default_code = "session_not_found"


class SessionExists(DspexError):
    """A session was to be made with an id that is in use."""

    default_code = "session_exists"


class SessionLimit(DspexError):
    """Too many sessions, or too much state; `details["limit"]`."""

    default_code = "session_limit"


class SessionBusy(DspexError):
    """The session cannot take the call now."""

    default_code = "session_busy"


class SessionLost(DspexError):
    """The session's state cannot be restored; `details["reason"]`."""

    default_code = "session_lost"


class SessionMoved(DspexError):
    """The session was moved while the call waited."""

    default_code = "session_moved"


class ProgramNotFound(DspexError):
    """No such program."""

    default_code = "program_not_found"


class ProgramExists(DspexError):
    """The program's id is taken; say `replace=True`."""

    default_code = "program_exists"


class ProgramError(DspexError):
    """The application raised; `details`: `type`, and `traceback` where the sidecar allows it."""

    default_code = "program_error"


class LMError(DspexError):
    """The LM or its provider failed; `details`: `type`, and where known `status`, `retry_after_ms`, `model`."""

    default_code = "lm_error"


class NotSerializable(DspexError):
    """A value cannot be packed; `details["path"]` says where in it."""

    default_code = "not_serializable"


class QueueFull(DspexError):
    """Refused at once; `details["retry_after_ms"]`."""

    default_code = "queue_full"


class CheckoutTimeout(DspexError):
    """No worker slot came free in time."""

    default_code = "checkout_timeout"


class DeadlineExceeded(DspexError, TimeoutError):
    """The call's deadline passed; `details["ended_by"]`."""

    default_code = "deadline_exceeded"


class Cancelled(DspexError):
    """The caller, its connection or an administrator cancelled; `details["ended_by"]`."""

    default_code = "cancelled"


class WorkerLost(DspexError):
    """The worker died in the call; `details`: `worker`, `reason`, `maybe_executed`."""

    default_code = "worker_lost"


class NoWorkers(DspexError):
    """No worker can be started; `details`: `reason`, `output`."""

    default_code = "no_workers"


class Draining(DspexError):
    """The sidecar is ending."""

    default_code = "draining"


class BudgetExceeded(DspexError):
    """A budget is used up."""

    default_code = "budget_exceeded"


class StorageUnavailable(DspexError):
    """The session store does not take the change."""

    default_code = "storage_unavailable"


class InternalError(DspexError):
    """A defect of the sidecar's."""

    default_code = "internal"


class ConnectionLost(DspexError, ConnectionError):
    """The connection ended before the call's response, or there is no sidecar to connect to."""

    default_code = "connection_lost"


class InvalidResult(DspexError):
    """The client's own: what a call returned does not fit the model that was asked for; `__cause__` says why."""

    default_code = "invalid_result"


_RETRYABLE: Final = frozenset(
    {"session_busy", "session_moved", "queue_full", "checkout_timeout", "no_workers", "draining", "storage_unavailable"}
)

_CLASSES: Final[Mapping[str, type[DspexError]]] = {
    **{cls.default_code: cls for cls in DspexError.__subclasses__()},
    "handshake_required": UnsupportedProtocol,
}

CODES: Final[frozenset[str]] = frozenset(_CLASSES)


def error_from_wire(error: Mapping[str, Any]) -> DspexError:
    """The exception for the error map of a response. A map that is not as it should be still gives an error."""
    code = error.get("code")
    message = error.get("message")
    details = error.get("details")
    code = code if isinstance(code, str) else "internal"
    return _CLASSES.get(code, DspexError)(
        message if isinstance(message, str) else "",
        code=code,
        retryable=error.get("retryable") is True,
        details=details if isinstance(details, dict) else None,
    )
