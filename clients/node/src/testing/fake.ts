// A sidecar for the tests of applications: it answers by functions of the test, without Python.

import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DspexError } from "../errors.js";
import { Kind, type Message, type Request, type WireMap } from "../wire/messages.js";
import { Peer } from "./peer.js";

/** What a fake method is given beside its parameters. */
export type FakeCall = {
  readonly method: string;
  /** The request's: `session`, `timeout_ms` and so on, as docs/protocol.md tells. */
  readonly meta: WireMap;
  /** The state of the call's session, to read and to change; of a call without one, an empty map. */
  readonly state: WireMap;
  /** Aborted when the client cancels, or leaves. */
  readonly signal: AbortSignal;
  /** Call a function that the client offers, as a worker does. */
  ask(method: string, params?: WireMap): Promise<unknown>;
};

/**
 * A method: what it returns is the answer, what it throws is the error. A generator, plain or async, answers a stream;
 * its return value is the stream's result.
 */
// biome-ignore lint/suspicious/noExplicitAny: who writes a fake knows what it is called with
export type FakeMethod = (params: any, call: FakeCall) => unknown;

export type FakeOptions = {
  methods?: Readonly<Record<string, FakeMethod>>;
  /** What `execute_program` runs: the inputs by name, and the outputs. */
  programs?: Readonly<Record<string, FakeMethod>>;
};

/** A request that came, as the test may look at it. */
export type Seen = { readonly method: string; readonly params: WireMap; readonly meta: WireMap };

/** A call in flight: `more` is called when it has credit again. */
type Running = {
  readonly ending: AbortController;
  readonly streams: boolean;
  credit: number;
  more: (() => void) | undefined;
};

type Items = AsyncIterator<unknown> | Iterator<unknown>;

const META = { worker: "fake" };

/** One connection of a client, and what is in flight on it. */
class Served {
  readonly peer: Peer;
  readonly running = new Map<number, Running>();
  readonly asked = new Map<number, { answered(result: unknown): void; failed(error: DspexError): void }>();
  lastAsk = 0;

  constructor(peer: Peer) {
    this.peer = peer;
  }
}

export class FakeSidecar implements AsyncDisposable {
  /** Its socket: for `connect({ socket })`, or DSPEX_SOCKET. */
  readonly path: string;
  /** All requests so far but `hello`, in order. */
  readonly requests: Seen[] = [];
  readonly #folder: string;
  readonly #methods: Map<string, FakeMethod>;
  readonly #programs: Map<string, FakeMethod>;
  readonly #sessions = new Map<string, WireMap>();
  readonly #served = new Set<Served>();
  readonly #server: Server;

  private constructor(folder: string, { methods = {}, programs = {} }: FakeOptions) {
    this.#folder = folder;
    this.path = join(folder, "s");
    this.#methods = new Map([...Object.entries(this.#own()), ...Object.entries(methods)]);
    this.#programs = new Map(Object.entries(programs));
    this.#server = createServer((socket) => void this.#serve(new Served(new Peer(socket))));
  }

  static async start(options: FakeOptions = {}): Promise<FakeSidecar> {
    const fake = new FakeSidecar(await mkdtemp(join(tmpdir(), "dspex-")), options);
    await new Promise<void>((resolve, reject) => {
      fake.#server.once("error", reject).listen(fake.path, resolve);
    });
    return fake;
  }

  /** Give a method another behaviour from now on. */
  method(name: string, method: FakeMethod): void {
    this.#methods.set(name, method);
  }

  program(id: string, program: FakeMethod): void {
    this.#programs.set(id, program);
  }

  /** Tell all clients that it drains: they go on over new connections. */
  goaway(): void {
    for (const { peer } of this.#served) peer.notify("goaway", { reason: "test", drain_ms: 1000 });
  }

  /** Cut all connections: calls in flight are lost. */
  disconnect(): void {
    for (const { peer } of this.#served) peer.socket.destroy();
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.disconnect();
    await closed;
    await rm(this.#folder, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #serve(served: Served): Promise<void> {
    this.#served.add(served);
    try {
      await served.peer.greet();
      for (let message = await served.peer.read(); message !== undefined; message = await served.peer.read()) {
        this.#take(served, message);
      }
    } catch {
      served.peer.socket.destroy(); // whoever does not greet is no client
    } finally {
      this.#served.delete(served);
      for (const { ending } of served.running.values()) ending.abort();
      for (const { failed } of served.asked.values()) failed(new DspexError("connection_lost", "the client has left"));
      served.peer.socket.destroy();
    }
  }

  #take(served: Served, message: Message): void {
    switch (message.kind) {
      case Kind.request:
        this.requests.push({ method: message.method, params: message.params, meta: message.meta });
        void this.#run(served, message);
        break;
      case Kind.response:
        if (message.error === null) served.asked.get(message.id)?.answered(message.result);
        else served.asked.get(message.id)?.failed(DspexError.fromWire(message.error, message.meta));
        served.asked.delete(message.id);
        break;
      case Kind.cancel:
        served.running.get(message.id)?.ending.abort();
        break;
      case Kind.credit: {
        const running = served.running.get(message.id);
        if (running === undefined) break;
        running.credit += message.n;
        running.more?.();
        break;
      }
    }
  }

  async #run(served: Served, request: Request): Promise<void> {
    const { id, method, params, meta } = request;
    const { peer } = served;
    const ending = new AbortController();
    const credit = Number(meta.stream ?? 0);
    const running: Running = { ending, streams: credit > 0, credit, more: undefined };
    served.running.set(id, running);
    const aborted = new Promise<never>((_, reject) => {
      ending.signal.addEventListener("abort", () => reject(new DspexError("cancelled")));
    });
    aborted.catch(() => {});
    try {
      const call = this.#call(served, request, ending.signal);
      const result = await Promise.race([this.#find(method)(params, call), aborted]);
      if (isIterator(result) && !running.streams && method !== "execute_program") {
        throw new DspexError("invalid_params", `'${method}' streams: call it with client.stream`);
      }
      if (!isIterator(result) && running.streams && method !== "execute_program") {
        throw new DspexError("invalid_params", `'${method}' is no stream`);
      }
      peer.answer(id, isIterator(result) ? await this.#items(peer, id, running, result, aborted) : result, META);
    } catch (error) {
      peer.fail(id, DspexError.from(error));
    } finally {
      served.running.delete(id);
    }
  }

  /** Send the items as there is credit for them; what the generator returned in the end. */
  async #items(peer: Peer, id: number, running: Running, items: Items, aborted: Promise<never>): Promise<unknown> {
    try {
      for (;;) {
        const step = await Promise.race([items.next(), aborted]);
        if (step.done) return step.value;
        if (!running.streams) continue;
        while (running.credit === 0)
          await Promise.race([new Promise<void>((resolve) => (running.more = resolve)), aborted]);
        running.credit--;
        peer.item(id, step.value);
      }
    } finally {
      Promise.resolve(items.return?.()).catch(() => {}); // what it throws now is nobody's
    }
  }

  #find(method: string): FakeMethod {
    const found = this.#methods.get(method);
    if (found === undefined) throw new DspexError("unknown_method", `the fake has no method '${method}'`);
    return found;
  }

  #call(served: Served, { id, method, meta }: Request, signal: AbortSignal): FakeCall {
    const ask = (asked: string, params: WireMap = {}): Promise<unknown> =>
      new Promise((answered, failed) => {
        if (signal.aborted) throw new DspexError("cancelled");
        const number = ++served.lastAsk;
        served.asked.set(number, { answered, failed });
        signal.addEventListener("abort", () => served.asked.has(number) && served.peer.cancel(number));
        served.peer.ask(number, asked, { call: id }, params);
      });
    const name = meta.session;
    const state = (): WireMap => (typeof name === "string" ? this.#state(name) : {});
    return {
      method,
      meta,
      signal,
      ask,
      get state() {
        return state();
      },
    };
  }

  #state(session: string): WireMap {
    const state = this.#sessions.get(session) ?? {};
    this.#sessions.set(session, state);
    return state;
  }

  /** What the sidecar itself answers; a test may put its own in place. */
  #own(): Record<string, FakeMethod> {
    const nameOf = (params: WireMap, call: FakeCall): string => {
      const name = String(params.session ?? call.meta.session);
      if (!this.#sessions.has(name)) throw new DspexError("session_not_found", `no session '${name}'`);
      return name;
    };
    return {
      ping: () => ({}),
      "session.create": ({ session = randomUUID(), state = {} }) => {
        if (this.#sessions.has(session)) throw new DspexError("session_exists", `there is a session '${session}'`);
        this.#sessions.set(session, { ...state });
        return { session };
      },
      "session.get": (params, call) => {
        const session = nameOf(params, call);
        return { session, state: this.#state(session), labels: {} };
      },
      "session.update": (params, call) => {
        const session = nameOf(params, call);
        const state = Object.assign(this.#state(session), params.set);
        for (const key of params.delete ?? []) delete state[key];
        return { session, version: 1 };
      },
      "session.reset": (params, call) => {
        const session = nameOf(params, call);
        this.#sessions.set(session, {});
        return { session };
      },
      "session.end": (params, call) => {
        const session = nameOf(params, call);
        this.#sessions.delete(session);
        return { session };
      },
      create_program: ({ id = randomUUID() }) => ({ program: id }),
      configure_lm: (params) => params,
      execute_program: ({ program, inputs }, call) => {
        const found = this.#programs.get(program);
        if (found === undefined) throw new DspexError("program_not_found", `no program '${program}'`);
        return found(inputs, call);
      },
    };
  }
}

function isIterator(value: unknown): value is Items {
  if (typeof value !== "object" || value === null || !("next" in value)) return false;
  return Symbol.asyncIterator in value || Symbol.iterator in value;
}
