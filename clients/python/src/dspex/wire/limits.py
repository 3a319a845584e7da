"""The limits of protocol version 1; docs/protocol.md holds the same table."""

from typing import Final

PROTOCOL: Final = 1

MAX_HEAD: Final = 64 << 10
"""Bytes of a body before its payload."""
MAX_DEPTH: Final = 64
"""Arrays and maps around any value, the frame's own array included."""
MAX_VALUES: Final = 4 << 20
"""Values in one frame: keys and containers too."""
MAX_ID: Final = 2**53 - 1
MAX_METHOD: Final = 128
"""Bytes of a method's name."""
MAX_SESSION_ID: Final = 128
MAX_STATE_KEY: Final = 256
MAX_IDEMPOTENCY_KEY: Final = 256
MAX_REASON: Final = 256
MAX_CREDIT: Final = 2**31 - 1
MIN_FRAME_LIMIT: Final = 64 << 10
"""The least `max_frame` that a side may name, in bytes."""
DEFAULT_FRAME: Final = 16 << 20
"""The longest body, in bytes, for a side that names none."""
