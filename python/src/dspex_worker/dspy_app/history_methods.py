"""The methods about a session's conversations with its programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.memory import Conversation, Memory, tokens_of
from dspex_worker.dspy_app.programs import Program
from dspex_worker.session import Session

if TYPE_CHECKING:
    from dspex_worker.app import App


class HistoryMethods:
    """Shows, edits and forgets what a program with memory remembers."""

    def __init__(self, find: Callable[[str, Session | None], Program]) -> None:
        self._find = find

    def register(self, app: App) -> None:
        """Add them to the application."""
        app.method(name="get_history", read_only=True, retry="safe", inline=True)(self.get_history)
        for method in (self.edit_history, self.reset_history):
            app.method(name=method.__name__, retry="safe", inline=True)(method)

    def get_history(self, session: Session, program: str) -> dict[str, Any]:
        """Return a program's conversation in this session, oldest turn first; tokens are about so many."""
        found, memory = self._remembering(program, session)
        messages = Conversation(session, program, found.names).messages()
        return {"messages": messages, "tokens": sum(map(tokens_of, messages)), "memory": memory.told()}

    def edit_history(self, session: Session, program: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Put other turns in place of a program's conversation: maps of the program's inputs and outputs."""
        found, memory = self._remembering(program, session)
        conversation = Conversation(session, program, found.names)
        conversation.edit(messages, memory)
        return {"turns": len(conversation.messages())}

    def reset_history(self, session: Session, program: str) -> dict[str, Any]:
        """Have a program begin its conversation in this session anew."""
        self._remembering(program, session)
        Conversation(session, program).begin()
        return {"program": program}

    def _remembering(self, program: str, session: Session) -> tuple[Program, Memory]:
        found = self._find(program, session)
        if found.memory is None:
            raise invalid_param("program", f"{program[:200]!r} keeps no conversation: it was made without memory")
        return found, found.memory
