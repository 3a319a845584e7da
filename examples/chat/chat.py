"""A chat that remembers: a line in, an answer out. `python examples/chat/chat.py NAME` goes on where NAME left off."""

from __future__ import annotations

import sys

import dspex
from dspex.errors import SessionExists

TURNS = 10  # how many are remembered


def main(name: str) -> None:
    """Answer each line of standard input."""
    with dspex.connect(wait=10) as client:
        try:
            session = client.create_session(f"chat-{name}", ttl=24 * 3600)
        except SessionExists:
            session = client.session(f"chat-{name}")
        session.configure_lm("local")
        chat = session.create_program("chat", "history: list[str], message -> answer: str", replace=True)
        for line in sys.stdin:
            turns = session.state().get("turns", [])
            answer = chat(history=turns, message=line.strip()).answer
            print(answer, flush=True)
            session.update({"turns": [*turns, f"they: {line.strip()}", f"you: {answer}"][-2 * TURNS :]})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "somebody")
