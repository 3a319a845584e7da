// A session and its programs.

import type { Caller, Offer, Offered, Params } from "./caller.js";
import { DspexError } from "./errors.js";
import type { Reply } from "./exchange.js";
import type { CallOptions, StreamOptions } from "./options.js";
import { type Program, program } from "./program.js";
import { checked, type StandardSchema } from "./standard.js";
import type { Stream } from "./stream.js";

export type SessionInfo = {
  session: string;
  state: Record<string, unknown>;
  worker: string | null;
  labels: Record<string, string>;
  version: number;
  bytes: number;
  age_ms: number;
  idle_ms: number;
  ttl_ms: number;
  max_age_ms: number | null;
  calls: number;
};

/** A function that the client offers, as an LM is told of it. */
export type Tool = {
  name: string;
  description?: string | undefined;
  /** The JSON schema of what it takes: an object whose properties are the arguments. */
  schema?: Params | undefined;
};

export type ProgramOptions = {
  /** `"predict"`, `"chain_of_thought"`, `"react"`, or what the application registered. */
  module?: string | undefined;
  /** What the LM is told to do. */
  instructions?: string | undefined;
  /** Examples for the LM, each with values for the signature's fields. */
  demos?: readonly Params[] | undefined;
  /** Of the module `"react"`: names of the application's tools, and functions that this client offers. */
  tools?: readonly (Tool | string)[] | undefined;
  /** Of the module, such as `{ max_iters: 5 }`. */
  parameters?: Params | undefined;
  /** Has the session keep the conversation. */
  memory?: { turns: number } | { tokens: number } | undefined;
  /** Take the place of a program with that id. */
  replace?: boolean | undefined;
};

/** DSPy's text form, `"question -> answer: str"`, or a map as docs/protocol.md tells. */
export type Signature = string | Params;

/** The LM of a session, or of one program in it: a configured model's name, or settings. */
export type LMChoice = { model?: string | undefined; settings?: Params | undefined; program?: string | undefined };

/** A session: calls in it run one at a time, in order, and share its state. With `await using` it is ended. */
export class Session implements AsyncDisposable {
  /** Its name in the sidecar. */
  readonly id: string;
  /** What proves that it is yours, where it was made with a token. */
  readonly token: string | undefined;
  readonly #caller: Caller;
  readonly #offer: Offer;

  /** @internal */
  constructor(caller: Caller, offer: Offer, id: string, token: string | undefined) {
    this.#caller = caller;
    this.#offer = offer;
    this.id = id;
    this.token = token;
  }

  /** Call a method in this session. As the client's `call`. */
  call<T = unknown>(method: string, params: Params | null = null, options?: CallOptions): Promise<T> {
    return this.#caller.call<T>(method, params, { ...options, session: this });
  }

  /** `call`, whose result a schema of Standard Schema checks. As the client's `callAs`. */
  callAs<T>(
    schema: StandardSchema<T>,
    method: string,
    params: Params | null = null,
    options?: CallOptions,
  ): Promise<T> {
    return this.#caller.callAs(schema, method, params, { ...options, session: this });
  }

  /** `call`, for who wants the meta of the answer too. */
  request<T = unknown>(method: string, params: Params | null = null, options?: CallOptions): Promise<Reply<T>> {
    return this.#caller.request<T>(method, params, { ...options, session: this });
  }

  /** Call a streaming method in this session. */
  stream<T = unknown, R = unknown>(
    method: string,
    params: Params | null = null,
    options?: StreamOptions,
  ): Stream<T, R> {
    return this.#caller.stream<T, R>(method, params, { ...options, session: this });
  }

  /** Let the workers that serve this session's calls call a function of this process. Returns what takes it back. */
  offer(name: string, offered: Offered): () => void {
    return this.#offer(this.id, name, offered);
  }

  /** State, worker, labels, version, sizes and times, as of the last commit. */
  info(options?: CallOptions): Promise<SessionInfo> {
    return this.call("session.get", null, options);
  }

  /** The state as of the last commit. */
  async state<T = Record<string, unknown>>(options?: CallOptions): Promise<T> {
    return (await this.info(options)).state as T;
  }

  /** Change the state, in the session's turn. */
  async update(
    changes: { set?: Params | undefined; delete?: readonly string[] | undefined },
    options?: CallOptions,
  ): Promise<void> {
    await this.call("session.update", { set: changes.set, delete: changes.delete }, options);
  }

  /** Empty the session, in its turn: state, programs, LM settings. Its next call is its first again. */
  async reset(options?: CallOptions): Promise<void> {
    await this.call("session.reset", null, options);
  }

  /** Choose the LM: `"local"` is short for `{ model: "local" }`. */
  configureLM(choice: string | LMChoice, options?: CallOptions): Promise<{ model: string; program?: string }> {
    return this.call("configure_lm", typeof choice === "string" ? { model: choice } : choice, options);
  }

  /** Make a DSPy program in this session; without an id, one is made. */
  async createProgram<I extends object = Params, O = Record<string, unknown>>(
    id: string | undefined,
    signature: Signature,
    { replace, ...more }: ProgramOptions = {},
    options?: CallOptions,
  ): Promise<Program<I, O>> {
    const params = { id, signature, ...more, replace: replace || undefined };
    const made = await this.call<{ program: string }>("create_program", params, options);
    return this.program<I, O>(made.program);
  }

  /** `program`, whose outputs a schema of Standard Schema checks. */
  programAs<I extends object, O>(
    schema: StandardSchema<O>,
    id: string,
  ): (inputs: I, options?: CallOptions) => Promise<O> {
    const run = this.program<I, unknown>(id);
    return async (inputs, options) => checked(schema, await run(inputs, options), id);
  }

  /** A program of this session, or one that is there for all, to run in this session. Nothing is sent. */
  program<I extends object = Params, O = Record<string, unknown>>(id: string): Program<I, O> {
    return program<I, O>(this.#caller, id, this);
  }

  async programs(options?: CallOptions): Promise<{ program: string; scope: string; module: string; doc: string }[]> {
    return (await this.call<{ programs: [] }>("list_programs", null, options)).programs;
  }

  /** End the session at once; calls in it end with `session_not_found`. Nothing where it has ended. */
  async end(options?: CallOptions): Promise<void> {
    try {
      await this.call("session.end", null, options);
    } catch (error) {
      if (!(error instanceof DspexError && error.code === "session_not_found")) throw error;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end();
  }
}
