"""The errors that the DSPy application raises itself; each goes out as the protocol's error of that code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dspex.errors import DspexError, InvalidParams, InvalidSignature, LMError, ProgramExists, ProgramNotFound

# A client's mistakes, however many and long, do not make an error that is too long to be sent.
_IN_TEXT = 20
_IN_DETAILS = 200
_PATH = 200  # characters
_MESSAGE = 1000


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (``inputs.context[2]``) and what."""

    path: str
    message: str

    def shortened(self) -> Problem:
        """As it is told: names and values that a client gave may be of any length."""
        return Problem(shortened(self.path, _PATH), shortened(self.message, _MESSAGE))


def invalid_params(problems: Sequence[Problem]) -> DspexError:
    """Name all that is wrong in one error."""
    return InvalidParams(_text(problems), details=_details(problems))


def invalid_param(path: str, message: str) -> DspexError:
    """One wrong parameter."""
    return invalid_params([Problem(path, message)])


def invalid_signature(path: str, message: str) -> DspexError:
    """``path`` says where in the signature: ``inputs.question.type``, ``character 12``."""
    problems = [Problem(path, message)]
    return InvalidSignature(_text(problems), details=_details(problems))


def program_not_found(program: str) -> DspexError:
    """Neither the session nor the application has a program of this id."""
    return ProgramNotFound(f"there is no program {shortened(program, _PATH)!r}; list_programs names those there are")


def program_exists(program: str, message: str) -> DspexError:
    """The id is taken."""
    return ProgramExists(f"program {shortened(program, _PATH)!r} {message}")


def secret_lost(model: str) -> DspexError:
    """The key that a client gave is not there any more."""
    message = (
        "the API key that was given with configure_lm is not there any more: the session was imported, or the sidecar"
        " was started again without the [sessions] key_file that it was sealed with; call configure_lm again"
    )
    return LMError(message, retryable=False, details={"type": "SecretLost", "reason": "secret_lost", "model": model})


def _text(problems: Sequence[Problem]) -> str:
    told = "; ".join(f"{problem.path}: {problem.message}" for problem in map(Problem.shortened, problems[:_IN_TEXT]))
    return told if len(problems) <= _IN_TEXT else f"{told}; and {len(problems) - _IN_TEXT} more"


def _details(problems: Sequence[Problem]) -> dict[str, object]:
    named = map(Problem.shortened, problems[:_IN_DETAILS])
    return {"errors": [{"path": problem.path, "message": problem.message} for problem in named]}


def shortened(text: str, length: int = _PATH) -> str:
    """A client's text, as it is told."""
    return text if len(text) <= length else f"{text[:length]}…"
