"""The handler as a bare ASGI application, for uvicorn and Granian."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from peers.handlers import handle_async


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        return
    parts = []
    more = True
    while more:
        event = await receive()
        parts.append(event.get("body", b""))
        more = event.get("more_body", False)
    answer = json.dumps(await handle_async(json.loads(b"".join(parts)))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
