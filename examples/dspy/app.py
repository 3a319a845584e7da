"""What the examples' sidecar serves: programs over a local index, a tool and types, for clients to use by name."""

from __future__ import annotations

import enum

import dspy
import facts
import pydantic
from dspex_worker import App

app = App()


@app.type
class Kind(enum.Enum):
    """What an entity is."""

    PERSON = "person"
    PLACE = "place"
    THING = "thing"


@app.type
class Entity(pydantic.BaseModel):
    """Something that a text speaks of."""

    name: str
    kind: Kind


@app.tool
def look_up(query: str) -> list[str]:
    """Facts that have to do with the query."""
    return facts.search(query)


@app.program("rag", signature="question -> context: list[str], answer: str", retry="safe")
class Rag(dspy.Module):
    """Answers from what the index has on the question."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought("context: list[str], question -> answer: str")

    async def aforward(self, question: str) -> dspy.Prediction:
        """One search, one answer."""
        context = facts.search(question)
        answer = await self.answer.acall(context=context, question=question)
        return dspy.Prediction(context=context, answer=answer.answer)


@app.program("multihop", signature="question -> notes: list[str], answer: str", retry="safe")
class MultiHop(dspy.Module):
    """Answers what takes several searches, each of which follows from what was found before."""

    HOPS = 2

    def __init__(self) -> None:
        super().__init__()
        self.query = dspy.Predict("question, notes: list[str] -> query: str")
        self.answer = dspy.ChainOfThought("question, notes: list[str] -> answer: str")

    async def aforward(self, question: str) -> dspy.Prediction:
        """Search, look what is missing, search again."""
        notes: list[str] = []
        for _ in range(self.HOPS):
            query = (await self.query.acall(question=question, notes=notes)).query
            notes += [fact for fact in facts.search(query) if fact not in notes]
        answer = await self.answer.acall(question=question, notes=notes)
        return dspy.Prediction(notes=notes, answer=answer.answer)
