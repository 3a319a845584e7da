"""Sessions side by side: one for each file, each with its own state and programs. `parallel.py FILE…`"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dspex import AsyncClient, DspexError


async def read(client: AsyncClient, path: str) -> str:
    """What a program finds in one file, in a session that ends with it."""
    async with await client.create_session(labels={"file": Path(path).name[:256]}) as session:
        await session.configure_lm("local")
        summarise = await session.create_program("summarise", "text -> title: str")
        text = await asyncio.to_thread(Path(path).read_text)
        return str((await summarise(text=text)).title)


async def main(paths: list[str]) -> int:
    """Read all files at once; one that fails does not stop the others. Returns how many failed."""
    failed = 0
    async with AsyncClient(wait=10, timeout=120) as client:
        results = await asyncio.gather(*[read(client, path) for path in paths], return_exceptions=True)
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, BaseException):
            failed += 1
            if not isinstance(result, (DspexError, OSError)):
                raise result
        print(f"{path}: {result}")
    return failed


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(main(sys.argv[1:])) else 0)
