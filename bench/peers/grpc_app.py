"""The handler as a gRPC method: two processes with one port, each with grpc.aio. usage: python -m peers.grpc_app PORT

The messages are JSON: what gRPC itself costs is what counts here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import grpc

from peers.handlers import handle_async


async def call(request: bytes, context: object) -> bytes:  # noqa: ARG001 - gRPC gives it
    return json.dumps(await handle_async(json.loads(request))).encode()


async def serve(port: int) -> None:
    limits = [("grpc.so_reuseport", 1), ("grpc.max_receive_message_length", -1)]
    server = grpc.aio.server(options=limits)
    methods = {"Call": grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bench", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    os.fork()  # before gRPC has made a thread
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asyncio.run(serve(int(sys.argv[1])))
