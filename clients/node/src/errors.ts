// The error codes of the protocol (docs/protocol.md, "Errors"), and the one error class that carries them.

import type { WireMap } from "./wire/messages.js";

const CODES = {
  // code: whether it is retryable where nothing else is said
  budget_exceeded: false,
  cancelled: false,
  checkout_timeout: true,
  connection_lost: false,
  deadline_exceeded: false,
  draining: true,
  frame_too_large: false,
  handshake_required: false,
  internal: false,
  invalid_frame: false,
  invalid_params: false,
  invalid_result: false,
  invalid_signature: false,
  lm_error: false,
  no_workers: true,
  not_serializable: false,
  permission_denied: false,
  program_error: false,
  program_exists: false,
  program_not_found: false,
  queue_full: true,
  session_busy: true,
  session_exists: false,
  session_limit: false,
  session_lost: false,
  session_moved: true,
  session_not_found: false,
  storage_unavailable: true,
  unknown_method: false,
  unsupported_protocol: false,
  worker_lost: false,
} as const;

/** A code of this version; `connection_lost` and `invalid_result` are the client's own. */
export type KnownCode = keyof typeof CODES;
/** One that this version does not know is kept as it came. */
export type Code = KnownCode | (string & Record<never, never>);

export type DspexErrorOptions = { retryable?: boolean; details?: WireMap; meta?: WireMap; cause?: unknown };

/** A call that failed. */
export class DspexError extends Error {
  /** What went wrong, for programs. */
  readonly code: Code;
  /** The same call may succeed later, and it has not run (or was declared safe to run again). */
  readonly retryable: boolean;
  /** What belongs to the code; empty where there is nothing to add. */
  readonly details: WireMap;
  /** What the sidecar says of the call, as in `Reply`: a call that failed has a `worker` and a `usage`, too. */
  readonly meta: WireMap;

  constructor(code: Code, message: string = code, options: DspexErrorOptions = {}) {
    super(message || code, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = options.retryable ?? (Object.hasOwn(CODES, code) && CODES[code as KnownCode]);
    this.details = options.details ?? {};
    this.meta = options.meta ?? {};
  }

  override get name(): string {
    return "DspexError";
  }

  /** What was thrown, as an error of this class. */
  static from(thrown: unknown): DspexError {
    if (thrown instanceof DspexError) return thrown;
    const error = thrown instanceof Error ? thrown : new Error(String(thrown));
    return new DspexError("program_error", error.message, { details: { type: error.name }, cause: thrown });
  }

  /** The error of a response's error map. A map that is not as it should be still gives an error. */
  static fromWire({ code, message, retryable, details }: WireMap, meta: WireMap = {}): DspexError {
    return new DspexError(typeof code === "string" ? code : "internal", typeof message === "string" ? message : "", {
      retryable: retryable === true,
      details: isMap(details) ? details : {},
      meta,
    });
  }

  /** The error map of a response. */
  toWire(): WireMap {
    const { code, message, retryable, details } = this;
    return { code, message, retryable, details: Object.keys(details).length > 0 ? details : null };
  }
}

function isMap(value: unknown): value is WireMap {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What a call ends with whose signal was aborted. */
export function cancelled(signal?: AbortSignal): DspexError {
  return new DspexError("cancelled", "cancelled by the caller", {
    details: { ended_by: "caller" },
    cause: signal?.reason,
  });
}
