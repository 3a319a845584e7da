"""What asyncio gives; `_sync.runtime` has the same names for threads."""

from __future__ import annotations

import asyncio

Lock = asyncio.Lock
sleep = asyncio.sleep
