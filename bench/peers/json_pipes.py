"""The handler at the ends of two pipes: a length of four bytes, then JSON. usage: python -m peers.json_pipes IN OUT

It serves one client after another, since a benchmark's rounds come and go.
"""

from __future__ import annotations

import json
import struct
import sys

from peers.handlers import handle


def serve(incoming: str, outgoing: str) -> None:
    with open(incoming, "rb") as reader, open(outgoing, "wb") as writer:
        while header := reader.read(4):
            (length,) = struct.unpack(">I", header)
            answer = json.dumps(handle(json.loads(reader.read(length)))).encode()
            writer.write(struct.pack(">I", len(answer)) + answer)
            writer.flush()


if __name__ == "__main__":
    while True:
        serve(*sys.argv[1:])
