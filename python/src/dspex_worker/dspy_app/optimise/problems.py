"""Collects all that is wrong with a call's parameters, so that one error names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dspex.errors import InvalidParams
from pydantic import BaseModel, ValidationError

from dspex_worker.dspy_app.errors import Problem, invalid_params

Made = TypeVar("Made")
Model = TypeVar("Model", bound=BaseModel)


class Problems:
    """What was found so far."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, path: str, message: str) -> None:
        self.found.append(Problem(path, message))

    def attempt(self, make: Callable[[], Made], at: str | None = None) -> Made | None:
        """What ``make`` returns; None where it raised ``invalid_params``, which is noted, under the path ``at``."""
        try:
            return make()
        except InvalidParams as error:
            told = error.details.get("errors") or [{"path": "", "message": error.message}]
            self.found += [Problem(one["path"] if at is None else at, one["message"]) for one in told]
        return None

    def read(self, model: type[Model], given: object, path: str) -> Model | None:
        """A pydantic model of what a client gave; None where something is wrong with it."""
        try:
            return model.model_validate({} if given is None else given)
        except ValidationError as error:
            known = ", ".join(model.model_fields) or "none"
            for one in error.errors(include_url=False, include_context=False, include_input=False):
                told = f"is not known; known are: {known}" if one["type"] == "extra_forbidden" else one["msg"]
                self.add(".".join([path, *map(str, one["loc"])]), told)
        return None

    def check(self) -> None:
        """Raises DspexError ``invalid_params`` where anything was found."""
        if self.found:
            raise invalid_params(self.found)
