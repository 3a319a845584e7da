"""What a worker does with DSPy before it is ready, so that its first call does not have to."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.request
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import dspy
from dspex.errors import DspexError
from dspy.lm15 import Message, Request, Response, Usage
from tqdm import tqdm  # type: ignore[import-untyped]

from dspex_worker.dspy_app.counts import LmCounts
from dspex_worker.dspy_app.execute import Executor
from dspex_worker.dspy_app.models import CallLM
from dspex_worker.dspy_app.programs import Program
from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.dspy_app.signatures import SignatureCache, parse_signature
from dspex_worker.metrics import Metrics

if TYPE_CHECKING:
    from dspex_worker.calls import Call

_ANSWERS = {
    "chat": '[[ ## label ## ]]\na\n\n[[ ## tags ## ]]\n["x"]\n\n[[ ## completed ## ]]',
    "json": '{"label": "a", "tags": ["x"]}',
}

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Engine:
    """Answers at once, without a model."""

    supports_response_schema = True
    supported_params = ("response_format",)

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def complete(self, request: Request) -> Response:
        usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        message = Message.assistant(self._answer)
        return Response(id="warm", model=request.model, message=message, finish_reason="stop", usage=usage)


class _AsyncEngine(_Engine):
    async def complete(self, request: Request) -> Response:
        return super().complete(request)


class _WarmCall:
    """What the executor wants of a call."""

    id = 0
    deadline = None
    session = None

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}


class _Bars(weakref.WeakSet[Any]):
    """tqdm's list of bars. `dspy.Parallel` empties it as it begins, also under another thread that is about to take its
    own bar off it, and would fail that call for a bar that nobody sees.
    """

    remove = weakref.WeakSet.discard


def keep_to_this_process() -> None:
    """Keep DSPy from the network and the disk for its own purposes; what the application set up itself stays.

    The list of models and prices is the one that comes with DSPy. The cache is off: its key leaves out the provider's
    address and key, so one session would get another's answers; and it writes files. DSPy's HTTP client would send
    requests to this machine, a local model's with its key, to a proxy that the environment names: it is told not to.
    """
    tqdm._instances = _Bars()
    _keep_loopback_from_proxies()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
    if "cache" not in vars(dspy):  # DSPy makes it when it is first asked for
        dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)


def _keep_loopback_from_proxies() -> None:
    proxies = urllib.request.getproxies_environment()
    excepted = proxies.pop("no", "")
    if proxies and excepted != "*":
        hosts = [host.strip() for host in excepted.split(",") if host.strip()]
        hosts += [host for host in _LOOPBACK if host not in hosts]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


async def warm() -> None:
    """Make the first call's work: a signature, adapters, schemas, an LM's request and its failure, the price list.

    It leaves no LM, thread, or socket behind. Calls on threads take nothing that this has not made: measured.
    """
    spec = parse_signature("text, context: list[str] -> label: Literal['a', 'b'], tags: list[str]")
    signature = SignatureCache().build(spec, None)
    program = Program("warm", "session", "predict", dspy.Predict(signature), spec.inputs, spec.outputs)
    inputs = program.checker.check({"text": "a text", "context": ["b"]})
    for adapter, kind in ((dspy.ChatAdapter(), "chat"), (dspy.JSONAdapter(), "json")):
        engine = _AsyncEngine(_ANSWERS[kind])
        lm = CallLM("warm/up", engine=_Engine(_ANSWERS[kind]), async_engine=engine, cache=False)
        with dspy.context(lm=lm, adapter=adapter, trace=None, disable_history=True):
            await program.for_call().acall(**inputs)
    executor = Executor(1, LmCounts(Metrics()))
    with _refusing_address() as address:
        settings = LmSettings("warm", "openai/gpt-4o-mini", api_key="none", api_base=address)
        with contextlib.suppress(DspexError):
            await executor.run(program, inputs, settings, cast("Call", _WarmCall()))
    await executor.lms.close()


@contextlib.contextmanager
def _refusing_address() -> Iterator[str]:
    """An address of this machine's that takes no connection: bound, so that nobody else has it, and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
