"""Conversations: what a program remembers of a session's earlier calls, kept in the session's state."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dspy
from dspex.errors import DspexError

from dspex_worker.dspy_app.errors import Problem, invalid_param, invalid_params, invalid_signature
from dspex_worker.dspy_app.media import NOTHING, forbidden
from dspex_worker.dspy_app.signatures import Field, SignatureSpec
from dspex_worker.dspy_app.tools import for_lm
from dspex_worker.session import Session, holds

MAX_TURNS: Final = 1000
MAX_TOKENS: Final = 1_000_000

_KEY: Final = "history."  # prefix of a conversation's key in the session's reserved state
_FIELD: Final = "history"  # the input's name where the signature has none
_CHARACTERS: Final = 4  # a token has about so many


@dataclass(frozen=True)
class Memory:
    """How much is remembered: so many turns, or about so many tokens; ``field`` is the input that it goes into."""

    field: str
    turns: int | None = None
    tokens: int | None = None

    def told(self) -> dict[str, int]:
        """As a client gives it."""
        return {"turns": self.turns} if self.turns is not None else {"tokens": self.tokens or 0}

    def trimmed(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The last of the messages, as far as they may be kept."""
        if self.turns is not None:
            return messages[-self.turns :]
        left = self.tokens or 0
        kept = len(messages)
        while kept and (left := left - tokens_of(messages[kept - 1])) >= 0:
            kept -= 1
        return messages[kept:]


def tokens_of(message: Mapping[str, Any]) -> int:
    """About so many tokens are in a message: a quarter of its characters."""
    return len(json.dumps(message, ensure_ascii=False, default=str)) // _CHARACTERS + 1


def check_memory(given: object) -> dict[str, int]:
    """What a client, or the application, says of a program's memory. Raises DspexError ``invalid_params``."""
    limits = {"turns": MAX_TURNS, "tokens": MAX_TOKENS}
    if not isinstance(given, Mapping) or len(given) != 1 or not given.keys() <= limits.keys():
        raise invalid_param("memory", "must be {turns: n} or {tokens: n}")
    name, value = next(iter(given.items()))
    if type(value) is not int or not 1 <= value <= limits[name]:
        raise invalid_param(f"memory.{name}", f"must be a whole number from 1 to {limits[name]}")
    return {name: value}


def remembering(spec: SignatureSpec, given: object) -> tuple[SignatureSpec, Memory]:
    """The signature with an input for the conversation, its own or one more.

    Raises:
        DspexError: ``invalid_params``, ``invalid_signature``.
    """
    limit = check_memory(given)
    own = history_fields(spec.inputs)
    if len(own) > 1:
        raise invalid_signature("inputs", f"with memory there is one input of type dspy.History, not {len(own)}")
    if own:
        return spec, Memory(own[0], **limit)
    if _FIELD in {field.name for field in spec.inputs + spec.outputs}:
        raise invalid_signature(_FIELD, "is the name of the input that memory adds; choose another")
    added = SignatureSpec((*spec.inputs, Field(_FIELD, dspy.History)), spec.outputs, spec.name, spec.description)
    return added, Memory(_FIELD, **limit)


def history_fields(inputs: Sequence[Field]) -> list[str]:
    """The names of inputs that take a conversation."""
    return [field.name for field in inputs if field.type is dspy.History]


def has_conversation(session: Session, program: str) -> bool:
    """Whether the program keeps one in this session, without looking into it. It need not be the call's turn."""
    return holds(session, _KEY + program)


class Conversation:
    """One program's in one session, inside one call of it.

    Where ``names``, the program's fields, are given, turns with others are none: they are of a program that had its id,
    before the operator or an administrator put this one in its place.
    """

    def __init__(self, session: Session, program: str, names: Collection[str] | None = None) -> None:
        self._reserved = session.reserved
        self._key = _KEY + program
        self._names = names

    def begin(self) -> None:
        """Have an empty one; calls of the program know by its key that they write."""
        self._reserved[self._key] = []

    def forget(self) -> None:
        """Have none."""
        self._reserved.pop(self._key, None)

    def messages(self) -> list[dict[str, Any]]:
        """The turns, oldest first: maps of inputs and outputs. Raises DspexError where a state holds something else."""
        held = self._reserved.get(self._key, [])
        if not isinstance(held, list) or not all(isinstance(one, dict) for one in held):
            raise no_conversation()
        names = self._names
        return held if names is None else [one for one in held if all(name in names for name in one)]

    def history(self) -> dspy.History:
        """As the program takes it."""
        return dspy.History(messages=self.messages())

    def remember(self, memory: Memory, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Add a turn, and let go of what is too much."""
        turn = {name: for_lm(value) for name, value in {**inputs, **outputs}.items()}
        self._reserved[self._key] = memory.trimmed([*self.messages(), turn])

    def edit(self, messages: object, memory: Memory) -> None:
        """Put other turns in place of those there are.

        Raises:
            DspexError: ``invalid_params``, with all that is wrong.
        """
        problems = list(_problems(messages, self._names))
        if problems:
            raise invalid_params(problems)
        assert isinstance(messages, list)
        self._reserved[self._key] = memory.trimmed([for_lm(message) for message in messages])


def _problems(messages: object, names: Collection[str] | None) -> list[Problem]:
    if not isinstance(messages, list) or len(messages) > MAX_TURNS:
        return [Problem("messages", f"must be a list of at most {MAX_TURNS} maps")]
    found: list[Problem] = []
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        if not isinstance(message, dict) or not message:
            found.append(Problem(at, "must be a map of the program's inputs and outputs"))
            continue
        found += [Problem(f"{at}.{n}", "is no field") for n in message if names is not None and n not in names]
        found += [Problem(at, problem) for problem in forbidden(message, NOTHING)]
    return found


def no_conversation() -> DspexError:
    """The error for a state that says of a program that it keeps a conversation, and has none, or something else."""
    return invalid_param("program", "what the session's state holds of its conversation is none; reset_history")


def needs_session() -> DspexError:
    """The error for a program with memory that is called without a session."""
    return invalid_param("program", "keeps a conversation: call it in a session (meta.session)")
