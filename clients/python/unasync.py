"""Writes the client for threads from the one for asyncio: src/dspex/_sync from src/dspex/_async.

`link.py` and `runtime.py`, which do the I/O, are written by hand on both sides. `--check` only compares.
"""

import pathlib
import re
import sys

SOURCE = pathlib.Path(__file__).parent / "src" / "dspex"
FILES = ("client.py", "caller.py", "answering.py", "adapter.py", "stream.py", "session.py", "program.py")
NOTE = "# Written by unasync.py from {source}: change that.\n"
RULES = [
    (r"# ruff: noqa: ASYNC109.*\n", ""),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basync(contextmanager)\b", r"\1"),
    (r"\bAsync(Iterator)\b", r"\1"),
    (r"\bAsync(Adapter|Client|Caller|Asked|Session|Program|Stream)\b", r"\1"),
    (r"__a(enter|exit|iter)__", r"__\1__"),
    (r"__anext__", "__next__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
]


def convert(text: str, name: str) -> str:
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return NOTE.format(source=f"_async/{name}") + text


def main() -> int:
    check = "--check" in sys.argv
    stale = []
    for name in FILES:
        text = convert((SOURCE / "_async" / name).read_text(), name)
        target = SOURCE / "_sync" / name
        if not target.exists() or target.read_text() != text:
            stale.append(name)
            if not check:
                target.write_text(text)
    if check and stale:
        sys.stderr.write(f"stale: {', '.join(stale)}; run python3 clients/python/unasync.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
