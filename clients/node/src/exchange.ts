// A request and its response, over whatever connection takes it.

import { setTimeout as sleep } from "node:timers/promises";
import { Backoff } from "./backoff.js";
import type { Connection } from "./connection.js";
import { Call } from "./core.js";
import { Deadline } from "./deadline.js";
import { cancelled, DspexError } from "./errors.js";
import type { Lines } from "./lines.js";
import type { WireMap } from "./wire/messages.js";

const ATTEMPTS = 3;

/** A request to be made. */
export type Outgoing = {
  readonly method: string;
  readonly params: object | null;
  readonly meta: WireMap | null;
  readonly credit: number;
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** The caller says that it may run twice. */
  readonly safe: boolean;
  /** The connection that it has to go over. */
  readonly via: Connection | undefined;
};

/** A call that finds its connection, and goes again where that is safe. */
export abstract class Exchange extends Call {
  readonly outgoing: Outgoing;
  readonly #lines: Lines;
  #connection: Connection | undefined;
  #attempts = 0;
  #backoff: Backoff | undefined;
  #abort: (() => void) | undefined;

  constructor(lines: Lines, outgoing: Outgoing) {
    super(outgoing.method);
    this.outgoing = outgoing;
    this.#lines = lines;
  }

  /** The call has ended: `error`, or `result` and `meta`. Called once. */
  protected abstract ended(): void;

  /** Whether something of the answer was delivered already: then it is too late to go again. */
  protected get delivered(): boolean {
    return false;
  }

  begin(): void {
    const { signal, timeoutMs } = this.outgoing;
    if (timeoutMs !== undefined) this.deadline = new Deadline(timeoutMs);
    if (signal !== undefined) {
      if (signal.aborted) {
        this.#fail(cancelled(signal));
        return;
      }
      this.#abort = () => this.cancel(cancelled(signal));
      signal.addEventListener("abort", this.#abort);
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
    if (error !== undefined && this.#mayGoAgain(error)) void this.#goAgain(error);
    else this.#end();
  }

  #end(): void {
    if (this.#abort !== undefined) this.outgoing.signal?.removeEventListener("abort", this.#abort);
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
    if (connection.state === "closed" && ++this.#attempts < ATTEMPTS)
      await this.#reach(); // lost in between: nothing was sent
    else this.#send(connection);
  }

  #send(connection: Connection): void {
    this.#connection = connection;
    this.#attempts++;
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

  /**
   * What came after the sidecar's goaway was not executed, and goes over a new connection. Else only calls that may run
   * twice go again: where their connection was lost, or the sidecar says that a later try may succeed.
   */
  #mayGoAgain(error: DspexError): boolean {
    const { safe, via } = this.outgoing;
    const connection = this.#connection as Connection;
    if (this.#attempts >= ATTEMPTS || via !== undefined || this.#lines.ended || this.delivered) return false;
    if (connection.call(this.id) === this) return false; // given up by the client: an answer is still to come
    if (error.code === "draining" && connection.state !== "ready") return true;
    return safe && (error.retryable || error.code === "connection_lost");
  }

  async #goAgain(error: DspexError): Promise<void> {
    this.error = undefined;
    this.done = false;
    if (error.code !== "draining" && error.code !== "connection_lost") {
      this.#backoff ??= new Backoff();
      const asked = error.details.retry_after_ms;
      const pause = typeof asked === "number" ? asked : this.#backoff.next();
      if (pause >= (this.deadline?.left() ?? Number.POSITIVE_INFINITY)) {
        this.#fail(error);
        return;
      }
      this.#connection = undefined;
      const { signal } = this.outgoing;
      await sleep(pause, undefined, signal === undefined ? {} : { signal }).catch(() => {});
      if (this.done) return; // given up meanwhile
    }
    await this.#reach();
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
