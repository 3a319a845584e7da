"""What a program returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Outputs(dict[str, Any]):
    """A program's outputs by name: `outputs["answer"]`, or `outputs.answer` where the name is not a method of dict's.

    `meta` is what the sidecar said of the call: `worker`, `queue_us`, `run_us`, `usage`.
    """

    __slots__ = ("meta",)

    def __init__(self, outputs: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        super().__init__(outputs)
        self.meta: dict[str, Any] = dict(meta)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; there are {', '.join(self) or 'none'}") from None
