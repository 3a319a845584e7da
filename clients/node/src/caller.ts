// What a client can call, and so can a function that it offers while it answers.

import type { Connection } from "./connection.js";
import { Awaited, type Outgoing, type Reply, replyOf, resultOf } from "./exchange.js";
import type { Lines } from "./lines.js";
import { type CallOptions, callMeta, type StreamOptions } from "./options.js";
import { type Program, program } from "./program.js";
import { Session } from "./session.js";
import { checked, type StandardSchema } from "./standard.js";
import { Stream } from "./stream.js";

const CREDIT = 16;

export type Params = Readonly<Record<string, unknown>>;

export type SessionOptions = {
  /** Absent: the sidecar makes one. */
  id?: string | undefined;
  /** What it begins with. */
  state?: Params | undefined;
  /** Milliseconds without use after which it expires. */
  ttlMs?: number | undefined;
  /** Milliseconds after which it expires, used or not. */
  maxAgeMs?: number | undefined;
  /** To find it by in `session.list`. */
  labels?: Readonly<Record<string, string>> | undefined;
  pool?: string | undefined;
  /** It belongs to whoever holds its token, not to this user. */
  token?: boolean | undefined;
};

/** What all calls of a caller have in common. */
export type Ground = {
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** The connection to use, and the request of the sidecar's that is being answered over it. */
  readonly answering?: { readonly via: Connection; readonly id: number };
  /** How functions are offered to a session's calls. */
  readonly offer: Offer;
};

/** Offers a function under a name, to the calls of one session or (undefined) to all; returns what takes it back. */
export type Offer = (session: string | undefined, name: string, offered: Offered) => () => void;

/**
 * A function that a worker can call: it is given the parameters by name, and what it needs to make calls itself.
 * What it returns is the answer; what it throws is the error.
 */
// biome-ignore lint/suspicious/noExplicitAny: who offers a function knows what it is called with
export type Offered = (params: any, asked: Asked) => unknown;

export type Asked = {
  readonly method: string;
  /** Calls made with it are part of the call that asks: use it, not the client, or the two may wait for each other. */
  readonly client: Caller;
  /** Aborted when the answer is wanted no more. */
  readonly signal: AbortSignal;
  /** The session of the call that asks. */
  readonly session: string | undefined;
};

export class Caller {
  readonly #lines: Lines;
  readonly #ground: Ground;

  /** @internal */
  constructor(lines: Lines, ground: Ground) {
    this.#lines = lines;
    this.#ground = ground;
  }

  /** Call a method, of the application, of the DSPy application, or of the sidecar (`sidecar.stats`). Throws DspexError. */
  call<T = unknown>(method: string, params: Params | null = null, options: CallOptions = NO_OPTIONS): Promise<T> {
    return new Promise<unknown>((resolve, reject) => {
      const outgoing = this.#outgoing(method, params, options);
      new Awaited(this.#lines, outgoing, resultOf, resolve, reject).begin();
    }) as Promise<T>;
  }

  /** `call`, whose result a schema of Standard Schema (Zod's, say) checks, and makes its own of. */
  async callAs<T>(
    schema: StandardSchema<T>,
    method: string,
    params: Params | null = null,
    options: CallOptions = NO_OPTIONS,
  ): Promise<T> {
    return checked(schema, await this.call(method, params, options), method);
  }

  /** `call`, for who wants the meta of the answer too. */
  request<T = unknown>(
    method: string,
    params: Params | null = null,
    options: CallOptions = NO_OPTIONS,
  ): Promise<Reply<T>> {
    return new Promise<Reply<unknown>>((resolve, reject) => {
      const outgoing = this.#outgoing(method, params, options);
      new Awaited(this.#lines, outgoing, replyOf, resolve, reject).begin();
    }) as Promise<Reply<T>>;
  }

  /** Call a streaming method. `timeoutMs` holds for the whole stream. */
  stream<T = unknown, R = unknown>(
    method: string,
    params: Params | null = null,
    options: StreamOptions = NO_OPTIONS,
  ): Stream<T, R> {
    const credit = options.credit ?? CREDIT;
    return new Stream<T, R>(this.#lines, this.#outgoing(method, params, { ...options, credit }));
  }

  /** A session that is there already. Nothing is sent. */
  session(id: string, { token }: { token?: string | undefined } = {}): Session {
    return new Session(this, this.#ground.offer, id, token);
  }

  /** Make a session. With `await using` it ends when the block does. */
  async createSession(session: SessionOptions = {}, options?: CallOptions): Promise<Session> {
    const { id, ttlMs, maxAgeMs, state, labels, pool, token } = session;
    const times = { ttl_ms: ttlMs, max_age_ms: maxAgeMs };
    const params = { session: id, state, ...times, labels, pool, token: token || undefined };
    const made = await this.call<{ session: string; token?: string }>("session.create", params, options);
    return this.session(made.session, made);
  }

  /** A program that the application or the configuration registered for all. */
  program<I extends object = Params, O = Record<string, unknown>>(id: string): Program<I, O> {
    return program<I, O>(this, id, undefined);
  }

  #outgoing(method: string, params: Params | null, options: StreamOptions): Outgoing {
    const { timeoutMs, signal, answering } = this.#ground;
    return {
      method,
      params,
      meta: options === NO_OPTIONS && answering === undefined ? null : callMeta(options, answering?.id),
      credit: options.credit ?? 0,
      timeoutMs: options.timeoutMs ?? timeoutMs,
      signal: both(options.signal, signal),
      idempotent: options.idempotent === true,
      via: answering?.via,
    };
  }
}

const NO_OPTIONS: StreamOptions = Object.freeze({});

function both(one: AbortSignal | undefined, other: AbortSignal | undefined): AbortSignal | undefined {
  return one !== undefined && other !== undefined ? AbortSignal.any([one, other]) : (one ?? other);
}
