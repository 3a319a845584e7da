"""Forward the sidecar's events to StatsD, over UDP.

usage: python forward.py [--socket PATH] [--statsd HOST:PORT] [--interval SECONDS] [--prefix dspex]

The five measurements of each `pool` event become gauges, tagged with pool and generation; worker, session, reload and
health events become counts. It ends with the sidecar; a service manager starts both again.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterator
from typing import Any

from dspex import Client

GAUGES = ("active_sessions", "pool_size", "healthy_workers", "total_commands", "total_errors")
COUNTED = {"worker": "state", "session": "what", "reload": "result", "health": "status"}


def packets(event: dict[str, Any], prefix: str) -> Iterator[str]:
    """Return what is sent for one event, in StatsD's form with tags (`name:value|type|#tag:value`)."""
    kind = event["event"]
    if kind == "pool":
        tags = f"#pool:{event['pool']},generation:{event['generation']}"
        for name in GAUGES:
            yield f"{prefix}.{name}:{event[name]}|g|{tags}"
    elif kind == "lost":
        yield f"{prefix}.events_lost:{event['lost']}|c"
    elif kind in COUNTED:
        yield f"{prefix}.{kind}.{event[COUNTED[kind]]}:1|c"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", help="the sidecar's socket; default: the usual places")
    parser.add_argument("--statsd", default="127.0.0.1:8125", metavar="HOST:PORT")
    parser.add_argument("--interval", type=float, default=10.0, metavar="SECONDS", help="between two pool events")
    parser.add_argument("--prefix", default="dspex")
    options = parser.parse_args()
    host, port = options.statsd.rsplit(":", 1)
    to = (host, int(port))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd, Client(options.socket) as client:
        for event in client.stream("sidecar.events", {"interval_ms": int(1000 * options.interval)}, timeout=None):
            for packet in packets(event, options.prefix):
                statsd.sendto(packet.encode(), to)


if __name__ == "__main__":
    main()
