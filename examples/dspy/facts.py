"""A few facts and a local index over them: words in common, the rarer the better. A real one would have embeddings."""

from __future__ import annotations

import math
import re
from collections import Counter

FACTS = [
    "The Analytical Engine was designed by Charles Babbage.",
    "Charles Babbage was born in London.",
    "Ada Lovelace wrote the first program for the Analytical Engine.",
    "Grace Hopper wrote the first compiler, the A-0 System.",
    "Grace Hopper was born in New York.",
    "London lies on the Thames.",
    "Tea is grown in Assam and Darjeeling.",
]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[a-z0-9-]+", text.lower())


_IN = Counter(word for fact in FACTS for word in set(words(fact)))


def search(query: str, count: int = 2) -> list[str]:
    """The facts that have most in common with the query, the best first; none that has nothing."""
    asked = set(words(query))
    scores = [(sum(math.log(1 + len(FACTS) / _IN[word]) for word in asked & set(words(fact))), fact) for fact in FACTS]
    return [fact for score, fact in sorted(scores, key=lambda one: -one[0])[:count] if score > 0]
