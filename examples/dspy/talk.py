"""A chat with memory: a line in, an answer out; the session keeps it. `talk.py NAME` goes on where NAME left off."""

from __future__ import annotations

import sys

import dspex
from dspex.errors import SessionExists


def main(name: str) -> None:
    """Answer each line of standard input."""
    with dspex.connect(wait=10) as client:
        try:
            session = client.create_session(f"talk-{name}", ttl=24 * 3600)
            session.create_program("talk", "message -> answer", memory={"turns": 10})
        except SessionExists:
            session = client.session(f"talk-{name}")
        talk = session.program("talk")
        for line in sys.stdin:
            print(talk(message=line.strip()).answer, flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "somebody")
