"""The command line: options, logging, the loop, and the exit code."""

from __future__ import annotations

import argparse
import io
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from dspex_worker import loading, loop, pool_worker, stacks, zygote
from dspex_worker.app import App
from dspex_worker.output import mark_output
from dspex_worker.threads import CALL_THREAD
from dspex_worker.worker import version_of

USAGE = 2  # exit code: what was asked for cannot be done

_EPILOG = """\
exit codes: 0 ended in an orderly way, 1 the channel or the socket failed, 2 wrong options or configuration,
3 the application cannot be loaded
"""


def main(arguments: Sequence[str] | None = None, program: str = "python -m dspex_worker") -> int:
    """Serve until told to end; return the exit code."""
    parser = _parser(program)
    options = parser.parse_args(arguments)
    if options.mode != "standalone":
        mark_output()
        stacks.hold_signal()
    _prepare_output(options.log_level)
    try:
        if options.mode == "pool-worker":
            channel = _inherited_socket(pool_worker.DESCRIPTOR)
            return _run(pool_worker.serve(_load(options.app), channel, options.worker_id))
        if options.mode == "zygote":
            return _run_zygote(options.app)
        return _run_standalone(options)
    except UsageError as error:
        parser.exit(USAGE, f"{parser.prog}: {error}\n")


class UsageError(Exception):
    """What was asked for cannot be done; the message says what to change."""


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Serve an application's methods over the dspex protocol.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "app",
        nargs="?",
        metavar="MODULE:ATTRIBUTE",
        help="the dspex_worker.App, found from the current folder; without one the DSPy application alone is served",
    )
    parser.add_argument(
        "--mode",
        choices=("standalone", "pool-worker", "zygote"),
        default="standalone",
        help="standalone (the default): listen on a socket; pool-worker: serve the sidecar that started this process, "
        f"on the socket whose descriptor is in {pool_worker.DESCRIPTOR}; zygote: load the application and fork pool "
        f"workers for the sidecar, on the socket whose descriptor is in {zygote.DESCRIPTOR}",
    )
    parser.add_argument(
        "--worker-id", default="worker_1", metavar="ID", help="the worker's name (default: %(default)s)"
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="least level that is logged on standard error (default: %(default)s)",
    )
    alone = parser.add_argument_group("stand-alone mode; these go over the configuration file")
    alone.add_argument(
        "--config", metavar="FILE", help="dspex.toml: its [models.*], [listen], [sessions], [pools.default]"
    )
    alone.add_argument("--profile", metavar="NAME", help="its [profile.NAME] goes over it (default: $DSPEX_PROFILE)")
    alone.add_argument(
        "--socket",
        metavar="PATH",
        help="path of the Unix socket (default: $DSPEX_SOCKET, else $XDG_RUNTIME_DIR/dspex/dspex.sock, else "
        "/run/dspex/dspex.sock)",
    )
    alone.add_argument(
        "--end-with-stdin", action="store_true", help="end when standard input does, as with the process that has it"
    )
    alone.add_argument("--concurrency", type=int, metavar="N", help="calls that run at once (default: 64)")
    alone.add_argument("--tracebacks", action="store_true", default=None, help="send Python tracebacks to clients")
    parser.add_argument("--version", action="version", version=f"dspex-worker {version_of('dspex-worker') or '0'}")
    return parser


def _run_standalone(options: argparse.Namespace) -> int:
    # Late, since workers of a pool need none of it.
    from dspex_worker.standalone import server, settings

    try:
        found = settings.Settings()
        if options.config:
            found = settings.read(options.config, options.profile or os.environ.get("DSPEX_PROFILE"))
            if found.app and not options.app:
                os.chdir(os.path.dirname(os.path.abspath(options.config)))  # its app is found from its folder
    except settings.SettingsError as error:
        raise UsageError(str(error)) from None
    found.app = options.app or found.app
    found.socket = options.socket or os.environ.get("DSPEX_SOCKET") or found.socket or settings.default_socket()
    if options.concurrency is not None:
        if options.concurrency < 1:
            raise UsageError("--concurrency must be at least 1")
        found.concurrency = options.concurrency
    found.end_with_stdin = options.end_with_stdin
    if options.tracebacks:
        found.tracebacks = True
    return _run(server.serve(_load(found.app or None), found, options.worker_id))


def _load(target: str | None) -> Callable[[], App]:
    """Load the application before a loop runs; what fails is raised to whoever asks for it."""
    try:
        app = loading.load(target)
    except BaseException as caught:  # noqa: BLE001 - importing an application may raise anything
        error = caught

        def fail() -> App:
            raise error

        return fail
    return lambda: app


def _run_zygote(target: str | None) -> int:
    """Fork workers to the end; in a worker, be one, and never return."""
    served = zygote.serve(target, _inherited_socket(zygote.DESCRIPTOR))
    if isinstance(served, zygote.Forked):
        body = pool_worker.serve(lambda: served.app, served.channel, served.worker_id)
        zygote.run_forked(lambda: loop.run(body))
    return served


def _run(body: Coroutine[Any, Any, int]) -> int:
    """Run to the end on a loop of its own; leave threads behind that do not stop."""
    code = loop.run(body)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if any(thread.name.startswith(CALL_THREAD) for thread in threading.enumerate()):
        os._exit(code)  # at the interpreter's end they could still run into what is gone by then
    return code


def _prepare_output(level: str) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what a worker prints is read line by line as it happens
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format="%(levelname)s %(name)s: %(message)s")


def _inherited_socket(variable: str) -> socket.socket:
    text = os.environ.pop(variable, None)
    if text is None:
        raise UsageError(f"this mode is for processes that the sidecar starts: {variable} is not set")
    try:
        sock = socket.socket(fileno=int(text))
        sock.set_inheritable(False)  # a child of the application must not keep the channel open
    except (ValueError, OSError) as error:
        raise UsageError(f"{variable}={text!r} is not the descriptor of a socket: {error}") from None
    return sock
