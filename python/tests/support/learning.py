"""A model that learns: it answers well where its prompt has demos, or instructions with the right word.

The task is to say a text in small letters. What optimisers ask it, it answers with those words.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from support.openai_server import Seen, json_answer

WORD = "lowercase"
ROWS = [{"text": f"QQ{letter}X", "answer": f"qq{letter}x".lower()} for letter in "ABCDEFGHIJKLMNOP"]

_ADVICE = f"Answer with the text in {WORD}."
# What DSPy's optimisers ask for, in whatever step: one JSON object of all is an answer to each.
_PROPOSALS: dict[str, Any] = {
    "proposed_instruction": _ADVICE,
    "proposed_prefix_for_output_field": "Answer:",
    "new_instruction": _ADVICE,
    "observations": "Texts and answers.",
    "summary": "Texts.",
    "program_description": "It says texts.",
    "module_description": "It says a text.",
    "discussion": "The answers should be other ones.",
    "module_advice": {"self": _ADVICE},
    "feedback": "It should be in small letters.",
}


class Learner:
    """Answers the requests of a test's ``OpenAIServer``. Asked at a high temperature it knows every second time."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def __call__(self, seen: Seen) -> str:
        if "messages" not in seen.body:
            return ""  # embeddings, which the server makes itself
        prompt = seen.prompt
        texts = re.findall(r"QQ[A-Z]+", prompt)
        text = texts[-1] if texts else "?"
        lucky = seen.body.get("temperature") == 1.0 and next(self._count) % 2 == 0
        knows = WORD in prompt or "qq" in prompt or lucky
        good = prompt.count(text.lower()) > 1  # in a judge's prompt: what was expected, and what was answered
        return json_answer(**_PROPOSALS, answer=text.lower() if knows else "?", score=0.9 if good else 0.1)
