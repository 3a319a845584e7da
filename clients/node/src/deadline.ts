// A call's time limit: a duration where it is given, an instant from then on.

import { DspexError } from "./errors.js";

/**
 * Milliseconds past its deadline, and what the sidecar itself takes to tell how the call ended, that a call waits for
 * its `deadline_exceeded`, which says more than the client's own.
 */
const GRACE = 100;

/** The instant at which so many milliseconds from now have passed. */
export class Deadline {
  readonly timeoutMs: number;
  readonly #ends: number;

  constructor(timeoutMs: number) {
    if (typeof timeoutMs !== "number" || Number.isNaN(timeoutMs))
      throw new TypeError(`timeoutMs is a number of milliseconds, not ${timeoutMs}`);
    this.timeoutMs = timeoutMs;
    this.#ends = performance.now() + timeoutMs;
  }

  /**
   * The instant (`performance.now()`) at which the client waits no longer for the sidecar's own answer, which may take so
   * many milliseconds to tell how the call ended.
   */
  givesUp(stopReport: number): number {
    return this.#ends + stopReport + GRACE;
  }

  /** Milliseconds; 0 when it has passed. */
  left(): number {
    return Math.max(0, this.#ends - performance.now());
  }

  /** `left` as a request's meta has it: a whole number, rounded up. Undefined where it is longer than any clock counts. */
  milliseconds(): number | undefined {
    const left = Math.ceil(Math.round(this.left() * 1000) / 1000);
    return left > 1e12 ? undefined : left;
  }

  /** What a call ends with that was not answered in time. */
  error(method: string): DspexError {
    return new DspexError("deadline_exceeded", `no answer to ${method} within ${this.timeoutMs} ms`, {
      details: { ended_by: "client" },
    });
  }
}
