"""An agent with tools of both sides: the application looks up, this program has a notebook. `agent.py QUESTION`"""

from __future__ import annotations

import sys
from typing import Any

import dspex

NOTE = {
    "name": "note",
    "description": "Write a line into the notebook.",
    "schema": {"type": "object", "properties": {"line": {"type": "string"}}, "required": ["line"]},
}


def main(question: str) -> None:
    """Print the notebook, and the answer."""
    notebook: list[str] = []

    def note(params: dict[str, Any], _: dspex.Asked) -> int:
        notebook.append(params["line"])
        return len(notebook)

    with dspex.connect(wait=10) as client, client.create_session() as session:
        session.offer("note", note)
        agent = session.create_program(
            "agent", "question -> answer", module="react", tools=["look_up", NOTE], parameters={"max_iters": 5}
        )
        answer = agent(question=question).answer
    for line in notebook:
        print(f"* {line}")
    print(answer)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "Where was the author of the first compiler born?")
