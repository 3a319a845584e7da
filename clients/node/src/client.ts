// The client of one sidecar.

import { EventEmitter } from "node:events";
import { Caller, type Offered } from "./caller.js";
import type { DspexError } from "./errors.js";
import { Lines, type Watcher } from "./lines.js";
import { Offers } from "./offers.js";
import { socketPath } from "./place.js";
import { VERSION } from "./version.js";
import { DEFAULT_FRAME } from "./wire/limits.js";
import type { WireMap } from "./wire/messages.js";

export type ClientOptions = {
  /** The sidecar's socket. Absent: DSPEX_SOCKET, `$XDG_RUNTIME_DIR/dspex/dspex.sock`, `/run/dspex/dspex.sock`. */
  socket?: string | undefined;
  /** For each call that names no other, connecting included; absent: what the sidecar has as its default. */
  timeoutMs?: number | undefined;
  /** What the sidecar's lists call this client. */
  name?: string | undefined;
  /** Stands for the token of each session that was given none. */
  token?: string | undefined;
  /** How long to wait for a sidecar that is not there, when a connection is first made. */
  waitMs?: number | undefined;
  /** The same where a connection was lost. */
  reconnectMs?: number | undefined;
  /** The longest frame to take, in bytes. */
  maxFrame?: number | undefined;
};

/** What the sidecar said of itself. */
export type Server = {
  server?: { name: string; version: string };
  connection?: string;
  max_frame?: number;
  max_in_flight?: number;
};

export type ClientEvents = {
  connect: [server: Server];
  /** A connection ended. `error` says why; it is undefined where the client itself ended it. */
  disconnect: [error: DspexError | undefined];
  /** The sidecar is about to end, or to drain: new calls go over a new connection by themselves. */
  goaway: [notice: { reason?: string; drain_ms?: number }];
};

/**
 * A client of one sidecar. It connects when first used, and again where the connection was lost. Any number of calls may
 * be in flight; an idle client does not keep the process alive.
 */
export class Client extends Caller implements AsyncDisposable {
  readonly path: string;
  readonly #lines: Lines;
  readonly #offers: Offers;
  readonly #events: EventEmitter;

  constructor(options: ClientOptions = {}) {
    const path = socketPath(options.socket);
    const { name = "node", token } = options;
    const events = new EventEmitter();
    const offers = new Offers();
    const hello: WireMap = { client: { name, version: VERSION }, token };
    const place = { path, hello, maxFrame: options.maxFrame ?? DEFAULT_FRAME };
    const patience = { waitMs: options.waitMs ?? 0, reconnectMs: options.reconnectMs ?? 5000 };
    // A listener runs, and may throw, when the connection is done with what it was at.
    const tell = (event: keyof ClientEvents, told: unknown): void => process.nextTick(() => events.emit(event, told));
    const watcher: Watcher = {
      connected: ({ server }) => tell("connect", server),
      disconnected: (error) => tell("disconnect", error),
      goaway: (notice) => tell("goaway", notice),
      asked: (connection, request) => void offers.asked(lines, connection, request),
      askCancelled: (connection, id) => offers.cancelled(connection, id),
      ended: (connection, error) => offers.gone(connection, error),
    };
    const lines = new Lines(place, patience, watcher);
    super(lines, { timeoutMs: options.timeoutMs, offer: (...args) => offers.add(...args) });
    this.path = path;
    this.#lines = lines;
    this.#offers = offers;
    this.#events = events;
  }

  /** Connect now, waiting up to `waitMs` for a sidecar. Throws DspexError. */
  async connect({
    waitMs,
    signal,
  }: {
    waitMs?: number | undefined;
    signal?: AbortSignal | undefined;
  } = {}): Promise<this> {
    await this.#lines.connect(waitMs, signal);
    return this;
  }

  /** What the sidecar said of itself; empty while there is no connection. */
  get server(): Server {
    return this.#lines.server;
  }

  /** Let the workers that serve this client's calls call a function of this process. Returns what takes it back. */
  offer(name: string, offered: Offered): () => void {
    return this.#offers.add(undefined, name, offered);
  }

  /** Close all connections. Calls in flight end with `connection_lost`; nothing is left behind. */
  close(): Promise<void> {
    return this.#lines.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  on<E extends keyof ClientEvents>(event: E, listener: (...args: ClientEvents[E]) => void): this {
    this.#events.on(event, listener);
    return this;
  }

  once<E extends keyof ClientEvents>(event: E, listener: (...args: ClientEvents[E]) => void): this {
    this.#events.once(event, listener);
    return this;
  }

  off<E extends keyof ClientEvents>(event: E, listener: (...args: ClientEvents[E]) => void): this {
    this.#events.off(event, listener);
    return this;
  }
}

/** A connected client. Throws DspexError (`connection_lost`) where there is no sidecar. */
export function connect(options: ClientOptions & { signal?: AbortSignal | undefined } = {}): Promise<Client> {
  return new Client(options).connect({ signal: options.signal });
}
