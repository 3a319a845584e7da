// A request and its response, over whatever connection takes it.

import type { Connection } from "./connection.js";
import { Call } from "./core.js";
import { Deadline } from "./deadline.js";
import { cancelled, DspexError } from "./errors.js";
import type { Lines } from "./lines.js";
import { unwatch, watch } from "./signals.js";
import type { WireMap } from "./wire/messages.js";

const LOST = 2; // connections that may be lost under an idempotent call before its caller is told
const MISSED = 3; // connections that may end before anything was sent over them

/** A request to be made. */
export type Outgoing = {
  readonly method: string;
  readonly params: object | null;
  readonly meta: WireMap | null;
  readonly credit: number;
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** The sidecar runs it once, however often it is asked for. */
  readonly idempotent: boolean;
  /** The connection that it has to go over. */
  readonly via: Connection | undefined;
};

/** A call that finds its connection, and goes again where that is safe. */
export abstract class Exchange extends Call {
  readonly outgoing: Outgoing;
  readonly #lines: Lines;
  #connection: Connection | undefined;
  // How often the call may still be sent again, by reason.
  #refused = 1;
  #lost: number;
  #missed = MISSED;
  #abort: (() => void) | undefined;

  constructor(lines: Lines, outgoing: Outgoing) {
    super(outgoing.method);
    this.outgoing = outgoing;
    this.#lines = lines;
    this.#lost = outgoing.idempotent ? LOST : 0;
  }

  /** The call has ended: `error`, or `result` and `meta`. Called once. */
  protected abstract ended(): void;

  begin(): void {
    const { signal, timeoutMs } = this.outgoing;
    if (timeoutMs !== undefined) this.deadline = new Deadline(timeoutMs);
    if (signal !== undefined) {
      if (signal.aborted) {
        this.#fail(cancelled(signal));
        return;
      }
      this.#abort = () => this.cancel(cancelled(signal));
      watch(signal, this.#abort);
    }
    const connection = this.outgoing.via ?? this.#lines.ready;
    if (connection === undefined) void this.#reach();
    else this.#send(connection);
  }

  /** Settle with this error; the sidecar is told to stop. Nothing where it has ended. */
  cancel(error: DspexError): void {
    if (this.done) return;
    if (this.#connection === undefined) this.#fail(error);
    else this.#connection.cancel(this, error);
  }

  grant(n: number): void {
    this.#connection?.grant(this, n);
  }

  settled(): void {
    const { error } = this;
    if (error === undefined || !this.#mayGoAgain(error)) {
      this.#end();
      return;
    }
    this.error = undefined;
    this.done = false;
    void this.#reach();
  }

  #end(): void {
    if (this.#abort !== undefined) unwatch(this.outgoing.signal, this.#abort);
    this.ended();
  }

  #fail(error: unknown): void {
    this.error = DspexError.from(error);
    this.done = true;
    this.#end();
  }

  async #reach(): Promise<void> {
    this.#connection = undefined;
    let connection: Connection;
    try {
      connection = await this.#lines.reach(this.deadline, this.outgoing.signal);
    } catch (error) {
      if (!this.done) this.#fail(error);
      return;
    }
    if (this.done) return;
    if (connection.state === "closed" && this.#missed-- > 0) await this.#reach();
    else this.#send(connection);
  }

  #send(connection: Connection): void {
    this.#connection = connection;
    this.credit = this.outgoing.credit;
    let { meta } = this.outgoing;
    const left = this.deadline?.milliseconds();
    if (left !== undefined) meta = { ...meta, timeout_ms: left };
    try {
      connection.start(this, meta, this.outgoing.params, this.deadline);
    } catch (error) {
      this.#fail(error);
    }
  }

  /** What came after the sidecar's goaway was not executed, and goes over a new connection. */
  #mayGoAgain(error: DspexError): boolean {
    const connection = this.#connection as Connection;
    if (this.outgoing.via !== undefined || this.#lines.ended) return false;
    if (connection.call(this.id) === this) return false; // given up by the client: an answer is still to come
    if (error.code === "draining" && connection.state !== "ready") return this.#refused-- > 0;
    return error.code === "connection_lost" && this.#lost-- > 0;
  }
}

/** What a call returned, and what the sidecar says of it: `worker`, `queue_us`, `run_us`, `usage`, `app`. */
export type Reply<T> = { readonly result: T; readonly meta: WireMap };

/** An exchange that somebody awaits. */
export class Awaited<T> extends Exchange {
  readonly #resolve: (value: T) => void;
  readonly #reject: (error: DspexError) => void;
  readonly #pick: (call: Call) => T;

  /** `pick`: what of the answer is awaited. */
  constructor(
    lines: Lines,
    outgoing: Outgoing,
    pick: (call: Call) => T,
    resolve: (value: T) => void,
    reject: (error: DspexError) => void,
  ) {
    super(lines, outgoing);
    this.#pick = pick;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  protected ended(): void {
    if (this.error === undefined) this.#resolve(this.#pick(this));
    else this.#reject(this.error);
  }
}

export function resultOf(call: Call): unknown {
  return call.result;
}

export function replyOf({ result, meta }: Call): Reply<unknown> {
  return { result, meta };
}
