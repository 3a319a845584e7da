// Connections that come and go: one that takes calls, and those that finish theirs after a goaway.

import { setTimeout as sleep } from "node:timers/promises";
import { Backoff } from "./backoff.js";
import { Connection, type Keeper, type Place } from "./connection.js";
import type { Deadline } from "./deadline.js";
import { cancelled, DspexError } from "./errors.js";
import { unwatch, watch } from "./signals.js";
import type { Request, WireMap } from "./wire/messages.js";

const HANDSHAKE = 5000; // milliseconds that a sidecar may take to answer it

/** Who waits for a connection: until then attempts are made. */
type Waiter = { until: number; settle(outcome: Connection | DspexError): void };

/** Who is told of connections, and answers what the sidecar asks over them. */
export interface Watcher {
  connected(connection: Connection): void;
  /** `error` is undefined where the client itself ended the connection. */
  disconnected(error: DspexError | undefined): void;
  goaway(params: WireMap): void;
  asked(connection: Connection, request: Request): void;
  askCancelled(connection: Connection, id: number): void;
  /** With this connection all has ended that was asked over it. */
  ended(connection: Connection, error: DspexError): void;
}

/** How long to wait for a sidecar, in milliseconds: at first, and where a connection was lost. */
export type Patience = { waitMs: number; reconnectMs: number };

export class Lines implements Keeper {
  readonly place: Place;
  readonly #patience: Patience;
  readonly #watcher: Watcher;
  #current: Connection | undefined;
  readonly #leaving = new Set<Connection>();
  readonly #waiters = new Set<Waiter>();
  /** Ends the attempt to connect, or the pause before it, that is under way. */
  #attempt: AbortController | undefined;
  #dialling: Promise<void> | undefined;
  #met = false; // there was a connection
  #closed = false;

  constructor(place: Place, patience: Patience, watcher: Watcher) {
    this.place = place;
    this.#patience = patience;
    this.#watcher = watcher;
  }

  get ended(): boolean {
    return this.#closed;
  }

  /** The connection that takes calls at once, if there is one. */
  get ready(): Connection | undefined {
    const current = this.#current;
    return current?.state === "ready" && current.roomy ? current : undefined;
  }

  /** What the sidecar said of itself. */
  get server(): WireMap {
    return this.#current?.server ?? {};
  }

  /** A connection that takes calls; made where there is none, before the deadline. Throws DspexError. */
  async reach(deadline: Deadline | undefined, signal: AbortSignal | undefined): Promise<Connection> {
    while (this.#current?.state === "ready") {
      const current = this.#current;
      if (current.roomy) return current;
      await limited(current.room(), deadline, signal);
    }
    return this.#connected(deadline, signal);
  }

  /** Connect now; `waitMs` takes the place of the patience that there was for a first connection, and holds for this. */
  async connect(waitMs: number | undefined, signal: AbortSignal | undefined): Promise<void> {
    if (waitMs !== undefined) this.#patience.waitMs = waitMs;
    if (this.#current?.state !== "ready") await this.#connected(undefined, signal, waitMs);
  }

  /** Close all connections. What is in flight settles as `connection_lost`. Resolves when nothing is left. */
  async close(): Promise<void> {
    this.#closed = true;
    const error = closedByClient();
    const connections = [...this.#leaving, ...(this.#current === undefined ? [] : [this.#current])];
    for (const waiter of [...this.#waiters]) waiter.settle(error);
    for (const connection of connections) connection.close(error);
    await Promise.all([this.#dialling, ...connections.map((connection) => connection.ended)]);
  }

  // What connections tell.

  asked(connection: Connection, request: Request): void {
    this.#watcher.asked(connection, request);
  }

  askCancelled(connection: Connection, id: number): void {
    this.#watcher.askCancelled(connection, id);
  }

  goaway(connection: Connection, params: WireMap): void {
    if (this.#current !== connection) return;
    this.#current = undefined;
    this.#leaving.add(connection);
    this.#watcher.goaway(params);
  }

  closed(connection: Connection, error: DspexError): void {
    this.#watcher.ended(connection, error);
    const left = this.#leaving.delete(connection);
    if (!left && this.#current !== connection) return; // it never came to be
    if (!left) this.#current = undefined;
    this.#watcher.disconnected(connection.leftByUs ? undefined : error);
  }

  // Connecting

  #connected(
    deadline: Deadline | undefined,
    signal: AbortSignal | undefined,
    waitMs?: number | undefined,
  ): Promise<Connection> {
    if (this.#closed) return Promise.reject(closedByClient());
    if (signal?.aborted) return Promise.reject(cancelled(signal));
    const patience = waitMs ?? (this.#met ? this.#patience.reconnectMs : this.#patience.waitMs);
    const left = deadline?.left() ?? Number.POSITIVE_INFINITY;
    return new Promise((resolve, reject) => {
      const { path } = this.place;
      const tooLate = (): void =>
        waiter.settle(
          new DspexError("connection_lost", `no connection to the sidecar at ${path} within the call's timeout`),
        );
      const abort = (): void => waiter.settle(cancelled(signal));
      const limit = left < 2 ** 31 ? setTimeout(tooLate, left) : undefined;
      const waiter: Waiter = {
        until: performance.now() + Math.min(patience, left),
        settle: (outcome) => {
          clearTimeout(limit);
          unwatch(signal, abort);
          this.#waiters.delete(waiter);
          if (outcome instanceof Connection) resolve(outcome);
          else reject(outcome);
          if (this.#waiters.size === 0) this.#attempt?.abort(outcome);
        },
      };
      watch(signal, abort);
      this.#waiters.add(waiter);
      this.#dialling ??= this.#dial();
    });
  }

  /** Try to connect for as long as somebody waits for it. */
  async #dial(): Promise<void> {
    const backoff = new Backoff();
    while (this.#waiters.size > 0) {
      const attempt = new AbortController();
      this.#attempt = attempt;
      try {
        const patience = Math.max(...[...this.#waiters].map((waiter) => waiter.until)) - performance.now();
        const connection = await Connection.open(this.place, this, Math.max(patience, HANDSHAKE), attempt.signal);
        this.#adopt(connection);
      } catch (error) {
        const delay = backoff.next();
        this.#failed(DspexError.from(error), performance.now() + delay);
        if (this.#waiters.size > 0) await sleep(delay, undefined, { signal: attempt.signal }).catch(() => {});
      }
    }
    this.#dialling = undefined;
  }

  #adopt(connection: Connection): void {
    this.#met = true;
    if (connection.state === "leaving") {
      connection.close(closedByClient()); // it said goaway in the same breath; the next attempt may meet its successor
      return;
    }
    this.#current = connection;
    for (const waiter of [...this.#waiters]) waiter.settle(connection);
    this.#watcher.connected(connection);
  }

  #failed(error: DspexError, next: number): void {
    for (const waiter of [...this.#waiters]) {
      if (error.code === "connection_lost" && next < waiter.until) continue;
      const { code, message, retryable, details } = error; // to each its own
      waiter.settle(new DspexError(code, message, { retryable, details, cause: error.cause }));
    }
  }
}

function closedByClient(): DspexError {
  return new DspexError("connection_lost", "the client was closed");
}

/** Wait no longer than the deadline and the signal allow. */
async function limited(
  event: Promise<void>,
  deadline: Deadline | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  const ending = new AbortController();
  const left = deadline?.left() ?? Number.POSITIVE_INFINITY;
  const timer = left < 2 ** 31 ? setTimeout(() => ending.abort(), left) : undefined;
  const abort = (): void => ending.abort(signal);
  watch(signal, abort);
  try {
    await Promise.race([event, new Promise((resolve) => ending.signal.addEventListener("abort", resolve))]);
  } finally {
    clearTimeout(timer);
    unwatch(signal, abort);
  }
  if (signal?.aborted) throw cancelled(signal);
  if (ending.signal.aborted && deadline !== undefined) throw deadline.error("the call: the sidecar reads nothing");
}
