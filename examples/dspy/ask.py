"""Retrieval: a question, answered from a local index. `ask.py rag QUESTION`, or `ask.py multihop QUESTION`"""

from __future__ import annotations

import sys

import dspex


def main(program: str, question: str) -> None:
    """Print what was found, and the answer."""
    with dspex.connect(wait=10) as client:
        outputs = client.program(program).run({"question": question})
        for fact in outputs["context" if program == "rag" else "notes"]:
            print(f"- {fact}")
        print(outputs["answer"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
