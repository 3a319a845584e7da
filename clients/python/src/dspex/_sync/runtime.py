"""What threads have; `_async.runtime` has the same names for asyncio."""

from __future__ import annotations

import threading
import time

Lock = threading.Lock
sleep = time.sleep
