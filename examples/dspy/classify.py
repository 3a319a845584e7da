"""Classification: each line of standard input is a message; all are sorted at once. The program is in dspex.toml."""

from __future__ import annotations

import sys

import dspex


def main() -> None:
    """Say of each message what it is about, in order; and which could not be sorted."""
    messages = [line.strip() for line in sys.stdin if line.strip()]
    with dspex.connect(wait=10) as client:
        inputs = [{"message": message} for message in messages]
        for result in client.call("execute_batch", {"program": "classify", "inputs": inputs}):
            if "error" in result:
                told = result["error"]["code"]
            else:
                told = result["outputs"]["topic"] + (", urgent" if result["outputs"]["urgent"] else "")
            print(f"{told}: {messages[result['index']]}")


if __name__ == "__main__":
    main()
