"""The command line: `python -m dspex generate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import dspex
from dspex.generate import RUNTIME, stub


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dspex")
    commands = parser.add_subparsers(required=True)
    generate = commands.add_parser(
        "generate",
        help="write types of what a running sidecar serves",
        description="Write NAME.pyi, the types of all methods and programs that a running sidecar serves, and NAME.py, "
        "whose function `typed` gives a client or a session those types.",
    )
    generate.add_argument("name", metavar="NAME", help="of the module, perhaps with a folder: app/served")
    generate.add_argument("--socket", metavar="PATH", help="the sidecar's, where it is not at its usual place")
    options = parser.parse_args()
    try:
        with dspex.connect(options.socket, name="dspex generate") as client:
            text = stub(client)
        Path(f"{options.name}.pyi").write_text(text)
        Path(f"{options.name}.py").write_text(RUNTIME)
    except (dspex.DspexError, OSError) as error:
        parser.exit(1, f"dspex: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
