// The limits of protocol version 1; docs/protocol.md holds the same table.

export const PROTOCOL = 1;

/** Bytes of a body before its payload. */
export const MAX_HEAD = 64 << 10;
/** Arrays and maps around any value, the frame's own array included. */
export const MAX_DEPTH = 64;
/** Values in one frame: keys and containers too. */
export const MAX_VALUES = 4 << 20;
export const MAX_ID = Number.MAX_SAFE_INTEGER;
/** Bytes of a method's name. */
export const MAX_METHOD = 128;
export const MAX_SESSION_ID = 128;
export const MAX_IDEMPOTENCY_KEY = 256;
export const MAX_REASON = 256;
export const MAX_CREDIT = 2 ** 31 - 1;
/** The least `max_frame` that a side may name, in bytes. */
export const MIN_FRAME_LIMIT = 64 << 10;
/** The longest body, in bytes, for a side that names none. */
export const DEFAULT_FRAME = 16 << 20;
