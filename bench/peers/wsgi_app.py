"""The handler as a WSGI application, for gunicorn's sync workers; and one that hands it to the dirty workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn.dirty import DirtyApp, get_dirty_client

from peers.handlers import handle

Start = Callable[[str, list[tuple[str, str]]], Any]


class Handler(DirtyApp):
    def call(self, body: dict[str, Any]) -> dict[str, Any]:
        return handle(body)


def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    return _answer(handle(_body(environ)), start_response)


def dirty_app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    answer = get_dirty_client().execute("peers.wsgi_app:Handler", "call", _body(environ))
    return _answer(answer, start_response)


def _body(environ: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(environ["wsgi.input"].read())
    return body


def _answer(value: object, start_response: Start) -> Iterable[bytes]:
    answer = json.dumps(value).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
