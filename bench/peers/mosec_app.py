"""The handler as a Mosec worker. Options are Mosec's own: --port, --path."""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker

from peers.handlers import handle


class Handler(Worker):
    def forward(self, data: dict[str, Any]) -> dict[str, Any]:
        return handle(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Handler, num=2)
    server.run()
