"""Serve the DSPy application, or an application of one's own: the same as ``python -m dspex_worker``."""

import sys

from dspex_worker.command import main

if __name__ == "__main__":
    sys.exit(main(program="dspy_bridge.py"))
