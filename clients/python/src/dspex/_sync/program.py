# Written by unasync.py from _async/program.py: change that.
"""A DSPy program that is called like a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from dspex.core import Reply, call_meta
from dspex.models import Adapter, Params, validated
from dspex.outputs import Outputs

from .stream import Stream

if TYPE_CHECKING:
    from dspex.cancel import CancelToken

    from .caller import Caller


T = TypeVar("T")


class Program:
    """A program, in the sidecar: `outputs = program(question="…")`."""

    def __init__(self, client: Caller, id: str, options: Mapping[str, Any]) -> None:
        self.client = client
        self.id = id
        self._options = dict(options)

    def __call__(self, **inputs: Any) -> Outputs:
        """Run it. Raises InvalidParams, LMError, ProgramError and what else a call may end with."""
        return self.run(inputs)

    def run(self, inputs: Params, *, timeout: float | None = None, **options: Any) -> Outputs:
        """Run it, with options as those of the client's `call`."""
        reply = self.client.request(
            "execute_program", {"program": self.id, "inputs": inputs}, timeout=timeout, **self._options, **options
        )
        return _outputs(reply)

    def run_as(self, result: type[T] | Adapter[T], inputs: Params, **options: Any) -> T:
        """`run`, whose outputs a pydantic model (or a TypeAdapter) checks, and is made of. Raises InvalidResult."""
        return validated(result, dict(self.run(inputs, **options)), self.id)

    def stream(self, /, **inputs: Any) -> Stream[Outputs]:
        """Run it, and hear of it meanwhile: `{"type": "delta", "field", "text"}` and `{"type": "status", "message"}`.

        The outputs are the stream's `result`, after its end.
        """
        return self.run_stream(inputs)

    def run_stream(
        self,
        inputs: Params,
        *,
        credit: int = 64,
        timeout: float | None = None,
        cancel: CancelToken | None = None,
        **options: Any,
    ) -> Stream[Outputs]:
        """`stream`, with options as those of the client's."""
        meta = call_meta(credit=credit, **self._options, **options)
        params = {"program": self.id, "inputs": inputs}
        return Stream(self.client, "execute_program", params, meta, credit, timeout, cancel, _outputs)

    def info(self, **options: Any) -> dict[str, Any]:
        """Scope, module, signature, instructions, JSON schemas of inputs and outputs, demos, model."""
        params = {"program": self.id}
        info: dict[str, Any] = self.client.call("get_program_info", params, **self._options, **options)
        return info

    def delete(self, **options: Any) -> None:
        """Delete it from its session."""
        self.client.call("delete_program", {"program": self.id}, **self._options, **options)


def _outputs(reply: Reply) -> Outputs:
    return Outputs(reply.result, reply.meta)
