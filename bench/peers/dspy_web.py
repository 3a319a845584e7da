"""The program that answers at once, behind WSGI and ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from peers.dspy_program import fast


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    answer = str(fast(question="?").answer).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        return
    await receive()
    answer = str((await fast.acall(question="?")).answer).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})
