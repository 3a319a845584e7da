"""The program that answers at once, as a Mosec worker. usage: python -m peers.dspy_mosec PORT FOLDER WORKERS"""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker


class Asked(Worker):
    def __init__(self) -> None:
        super().__init__()
        from peers.dspy_program import fast

        self.program = fast

    def forward(self, data: dict[str, Any]) -> Any:  # noqa: ARG002 - Mosec gives it
        return self.program(question="?").answer


if __name__ == "__main__":
    port, folder, workers = sys.argv[1:]
    sys.argv[1:] = ["--port", port, "--path", f"{folder}/ipc", "--log-level", "error", "--timeout", "30000"]
    server = Server()
    server.append_worker(Asked, num=int(workers))
    server.run()
