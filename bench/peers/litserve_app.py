"""The handler behind LitServe: one web server and two workers. usage: python -m peers.litserve_app PORT"""

from __future__ import annotations

import sys
from typing import Any

import litserve

from peers.handlers import handle


class Handler(litserve.LitAPI):
    def setup(self, device: str) -> None:
        """Nothing to load."""

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        return handle(body)


if __name__ == "__main__":
    server = litserve.LitServer(Handler(), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
