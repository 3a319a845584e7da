// The calls of a single Python bridge, on a pool: for code that is to move without being written anew. The names are
// those that such code has, in Python too.

import { randomUUID } from "node:crypto";
import { Bridge, type BridgeOptions } from "./bridge.js";
import type { Params } from "./caller.js";
import { Client } from "./client.js";
import { DspexError } from "./errors.js";
import type { ProgramOptions, Session, Signature } from "./session.js";

const LISTEN = 5000; // milliseconds between the making of a socket and the listening on it, at most

/** `python_pool`: a sidecar; `python_bridge`: a stand-alone worker, which ends with this process. */
export type AdapterKind = "python_pool" | "python_bridge";

export type AdapterOptions = BridgeOptions & {
  /** The sidecar's, as a client takes it; or that of a stand-alone worker that runs already. */
  socket?: string | undefined;
  /** For each call that names no other. */
  timeoutMs?: number | undefined;
};

/** What the method `create_program` takes. */
export type ProgramConfig = ProgramOptions & { id?: string | undefined; signature: Signature };

export type AdapterCall = { timeoutMs?: number | undefined; signal?: AbortSignal | undefined };
/** The session to use; absent: the adapter's own. */
export type InSession = { session_id?: string | undefined };

/**
 * Sessions and programs by their ids alone. A session that is named is made when it is first used. Where none is named,
 * the adapter has one of its own, which ends with it.
 */
export class Adapter implements AsyncDisposable {
  readonly client: Client;
  readonly #bridge: Bridge | undefined;
  readonly #own = `adapter-${randomUUID()}`;
  readonly #known = new Map<string, Promise<void>>(); // sessions that are there, or are being made
  readonly #running = new Set<Promise<unknown>>();

  /** @internal */
  constructor(kind: AdapterKind, { socket, timeoutMs, ...bridge }: AdapterOptions) {
    if (kind !== "python_pool" && kind !== "python_bridge") {
      throw new TypeError(`there is no adapter '${kind}'; there are python_pool and python_bridge`);
    }
    const starts = kind === "python_bridge" && socket === undefined;
    if (!starts && Object.values(bridge).some((option) => option !== undefined)) {
      throw new TypeError("app, config and python are for a python_bridge that the adapter starts");
    }
    this.#bridge = starts ? new Bridge(bridge) : undefined;
    const waitMs = starts ? LISTEN : 0;
    this.client = new Client({ socket: this.#bridge?.path ?? socket, timeoutMs, waitMs });
  }

  /** Make a session that begins with this state; its id. Throws DspexError (`session_exists`). */
  create_session(id?: string, state?: Params): Promise<string> {
    return this.#noted(async () => {
      const session = await this.client.createSession({ id, state });
      this.#known.set(session.id, Promise.resolve());
      return session.id;
    });
  }

  /** Call a method in a session; `null`: the adapter's own. */
  execute_in_session<T = unknown>(
    session_id: string | null | undefined,
    command: string,
    args: Params = {},
    options: AdapterCall = {},
  ): Promise<T> {
    return this.#in(session_id, (session) => session.call<T>(command, args, options));
  }

  /** Make a DSPy program; its id. */
  create_program(config: ProgramConfig, { session_id }: InSession = {}): Promise<string> {
    return this.#in(
      session_id,
      async (session) => (await session.call<{ program: string }>("create_program", config)).program,
    );
  }

  /** Run a program of the session's, or one that is there for all; its outputs. */
  execute_program<O = Record<string, unknown>>(
    id: string,
    inputs: Params,
    { session_id, ...options }: InSession & AdapterCall = {},
  ): Promise<O> {
    return this.#in(session_id, (session) => session.program<Params, O>(id)(inputs, options));
  }

  /** The state as of the last commit. */
  get_session_state<T = Record<string, unknown>>(session_id?: string): Promise<T> {
    return this.#in(session_id, (session) => session.state<T>());
  }

  /** End a session. Nothing where it has ended. */
  end_session(session_id: string = this.#own): Promise<void> {
    return this.#noted(async () => {
      await this.client.session(session_id).end();
      this.#known.delete(session_id);
    });
  }

  health_check(): Promise<{ status: "healthy" | "degraded" | "unhealthy"; reasons: string[]; workers: object[] }> {
    return this.#noted(() => this.client.call("sidecar.health"));
  }

  /** `active_sessions`, `pool_size`, `healthy_workers`, `total_commands`, `total_errors`, `utilization` and more. */
  get_stats(): Promise<Record<string, unknown>> {
    return this.#noted(() => this.client.call("sidecar.stats"));
  }

  /** Wait for the calls in flight, for so long at most, and close. A sidecar goes on; a bridge ends. */
  async shutdown(timeout_ms = 30_000): Promise<void> {
    const until = performance.now() + timeout_ms;
    let late: NodeJS.Timeout | undefined;
    const over = new Promise<void>((resolve) => {
      late = setTimeout(resolve, timeout_ms);
    });
    while (this.#running.size > 0 && performance.now() < until) {
      await Promise.race([Promise.allSettled(this.#running), over]);
    }
    clearTimeout(late);
    const left = (): number => Math.max(0, until - performance.now());
    if (this.#known.has(this.#own)) {
      await this.client
        .session(this.#own)
        .call("session.end", null, { timeoutMs: Math.max(100, left()) })
        .catch(() => {});
    }
    this.#known.clear();
    await this.client.close();
    await this.#bridge?.stop(left());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.shutdown();
  }

  #in<T>(id: string | null | undefined, work: (session: Session) => Promise<T>): Promise<T> {
    const name = id ?? this.#own;
    return this.#noted(async () => {
      const known = this.#known.get(name) ?? this.#make(name);
      this.#known.set(name, known);
      try {
        await known;
        return await work(this.client.session(name));
      } catch (error) {
        // It has expired, or was never made: its next use makes it anew.
        if (hasCode(error, "session_not_found") || (await failed(known))) this.#known.delete(name);
        throw error;
      }
    });
  }

  async #make(id: string): Promise<void> {
    try {
      await this.client.createSession({ id });
    } catch (error) {
      if (!hasCode(error, "session_exists")) throw error;
    }
  }

  /** A call is in flight until the work is done. */
  #noted<T>(work: () => Promise<T>): Promise<T> {
    const run = async (): Promise<T> => {
      await this.#bridge?.started();
      try {
        return await work();
      } catch (error) {
        if (this.#bridge?.ending === undefined || !hasCode(error, "connection_lost")) throw error;
        throw this.#bridge.lost(error);
      }
    };
    const running = run().finally(() => this.#running.delete(running));
    this.#running.add(running);
    return running;
  }
}

/** The calls of a single bridge, on a sidecar's pool or on a stand-alone worker. */
export function get_adapter(kind: AdapterKind, options: AdapterOptions = {}): Adapter {
  return new Adapter(kind, options);
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof DspexError && error.code === code;
}

function failed(work: Promise<void>): Promise<boolean> {
  return work.then(
    () => false,
    () => true,
  );
}
