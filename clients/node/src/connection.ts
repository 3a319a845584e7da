// One connection to a sidecar: a core with a socket. It has one writer, and settles each call once.

import { createConnection, type Socket } from "node:net";
import { Call, Core, type Owner, type State } from "./core.js";
import type { Deadline } from "./deadline.js";
import { DspexError } from "./errors.js";
import { broken, checkPath, noGreeting, unreachable } from "./place.js";
import { memory } from "./wire/decode.js";
import type { Request, WireMap } from "./wire/messages.js";

const SCRATCH = 128 << 10; // bytes taken from the socket at once

/** Who is told of a connection's fate, and answers what the sidecar asks over it. */
export interface Keeper {
  asked(connection: Connection, request: Request): void;
  askCancelled(connection: Connection, id: number): void;
  goaway(connection: Connection, params: WireMap): void;
  closed(connection: Connection, error: DspexError): void;
}

/** What connecting takes. */
export type Place = { path: string; hello: WireMap; maxFrame: number };

class Greeting extends Call {
  readonly answered: Promise<unknown>;
  #settle: { resolve: (answer: unknown) => void; reject: (error: DspexError) => void } | undefined;

  constructor() {
    super("hello");
    this.answered = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
  }

  settled(): void {
    if (this.error === undefined) this.#settle?.resolve(this.result);
    else this.#settle?.reject(this.error);
  }
}

export class Connection implements Owner {
  readonly #core: Core;
  readonly #socket: Socket;
  readonly #keeper: Keeper;
  #alarm: NodeJS.Timeout | undefined; // rings at the first deadline, or before
  #rings = Number.POSITIVE_INFINITY;
  #connected = false;
  #flushing = false; // a flush has been scheduled
  readonly #flushNow = (): void => this.#flush();
  #full = false; // the socket takes no more for now
  #holding = true; // the process is kept alive: something is in flight
  #roomy: Promise<void> | undefined;
  /** The client ended it. */
  leftByUs = false;
  /** Settled when the descriptor is closed. */
  readonly ended: Promise<void>;

  private constructor(place: Place, keeper: Keeper) {
    this.#keeper = keeper;
    this.#core = new Core(this, place.maxFrame);
    const { splitter } = this.#core;
    const scratch = memory(Buffer.allocUnsafeSlow(SCRATCH));
    let filling = false; // what the socket fills is the splitter's
    this.#socket = createConnection({
      path: place.path,
      onread: {
        buffer: () => {
          const room = splitter.room();
          filling = room !== undefined;
          return room ?? scratch.bytes;
        },
        callback: (count: number) => {
          if (filling) splitter.filled(count);
          else splitter.feed(scratch, count);
          this.#handled();
          return true;
        },
      },
    });
    this.ended = new Promise((resolve) => {
      this.#socket.once("close", () => resolve());
    });
    this.#socket
      .on("connect", () => {
        this.#connected = true;
        this.#flush();
      })
      .on("drain", () => {
        this.#full = false;
        this.#flush();
      })
      .on("error", (error) => this.#core.close(this.#connected ? broken(error) : unreachable(place.path, error)))
      .on("end", () => this.#core.endOfFile())
      .on("close", () => this.#core.endOfFile());
  }

  /** Connect and greet. Throws DspexError; `signal` ends the attempt. */
  static async open(place: Place, keeper: Keeper, handshakeMs: number, signal: AbortSignal): Promise<Connection> {
    checkPath(place.path);
    const connection = new Connection(place, keeper);
    const limit = setTimeout(() => connection.close(noGreeting(place.path, handshakeMs)), handshakeMs);
    const abort = (): void => connection.close(DspexError.from(signal.reason));
    signal.addEventListener("abort", abort);
    try {
      const greeting = new Greeting();
      connection.#core.request(greeting, null, connection.#core.greeting(place.hello));
      connection.#core.welcome(await greeting.answered);
      connection.#hold();
      return connection;
    } catch (error) {
      connection.close(DspexError.from(error));
      await connection.ended;
      throw error;
    } finally {
      clearTimeout(limit);
      signal.removeEventListener("abort", abort);
    }
  }

  get state(): State {
    return this.#core.state;
  }

  /** What the sidecar said of itself. */
  get server(): WireMap {
    return this.#core.server;
  }

  /** Calls that are not settled. */
  get open(): number {
    return this.#core.open;
  }

  /** Whether nothing is in flight, calls that were given up included. */
  get idle(): boolean {
    return this.#core.calls.size === 0;
  }

  /** The call with this id, if it is in flight. */
  call(id: number): Call | undefined {
    return this.#core.calls.get(id);
  }

  /** Whether a request can be sent now, rather than after `room`. */
  get roomy(): boolean {
    return !this.#full;
  }

  /** Settled when the socket takes more, or has ended. */
  room(): Promise<void> {
    this.#roomy ??= new Promise((resolve) => {
      const done = (): void => {
        this.#socket.off("drain", done).off("close", done);
        this.#roomy = undefined;
        resolve();
      };
      this.#socket.once("drain", done).once("close", done);
    });
    return this.#roomy;
  }

  /** Send a request. Throws DspexError where it is not sent. Once its deadline has passed, the call settles. */
  start(call: Call, meta: object | null, params: object | null, deadline: Deadline | undefined): void {
    this.#core.request(call, meta, params);
    call.deadline = deadline;
    if (deadline !== undefined) {
      const givesUp = deadline.givesUp(this.#core.stopReport);
      if (givesUp < this.#rings) this.#setAlarm(givesUp);
    }
    this.#hold();
    this.#send();
  }

  /** Settle a call with this error, and tell the sidecar to stop it. */
  cancel(call: Call, error: DspexError): void {
    this.#core.cancel(call, error);
    this.#handled();
  }

  /** Let a stream go on by `n` items. */
  grant(call: Call, n: number): void {
    this.#core.grant(call, n);
    this.#send();
  }

  answer(id: number, result: unknown): void {
    this.#core.answer(id, result);
    this.#send();
  }

  refuse(id: number, error: DspexError): void {
    this.#core.refuse(id, error);
    this.#send();
  }

  /** End the connection: what is in flight settles with `error`. */
  close(error: DspexError): void {
    this.leftByUs ||= this.state !== "closed";
    this.#core.close(error);
    this.#socket.destroy();
  }

  // What the core tells.

  asked(request: Request): void {
    this.#keeper.asked(this, request);
  }

  askCancelled(id: number): void {
    this.#keeper.askCancelled(this, id);
  }

  goaway(params: WireMap): void {
    this.#keeper.goaway(this, params);
  }

  closed(error: DspexError): void {
    clearTimeout(this.#alarm);
    this.#socket.destroy();
    this.#keeper.closed(this, error);
  }

  // Writing

  /** Something was received, or changed: send what there is to send. */
  #handled(): void {
    this.#hold();
    if (this.#core.out.length > 0) this.#send();
    if (this.state === "leaving" && this.idle) this.close(new DspexError("connection_lost", "the sidecar said goaway"));
  }

  /** All that is to be sent in this turn of the event loop goes in one write, at its end. */
  #send(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    process.nextTick(this.#flushNow);
  }

  #flush(): void {
    this.#flushing = false;
    if (this.#full || this.#core.out.length === 0 || !this.#connected || this.#socket.destroyed) return;
    this.#full = !this.#socket.write(this.#core.out.take());
  }

  /** While calls are in flight the process is kept alive, and not by a connection that is idle. */
  #hold(): void {
    const hold = this.#core.open > 0;
    if (hold === this.#holding) return;
    this.#holding = hold;
    if (hold) this.#socket.ref();
    else this.#socket.unref();
  }

  // Deadlines. One timer serves all calls: most end before their deadlines, and would only have set and cleared one.

  #setAlarm(at: number): void {
    clearTimeout(this.#alarm);
    this.#rings = at;
    const delay = Math.min(at - performance.now(), 2 ** 31 - 1);
    this.#alarm = setTimeout(() => this.#ring(), Math.max(0, delay)).unref(); // the socket holds the process
  }

  #ring(): void {
    this.#rings = Number.POSITIVE_INFINITY;
    const now = performance.now();
    let first = Number.POSITIVE_INFINITY;
    for (const call of [...this.#core.calls.values()]) {
      if (call.done || call.deadline === undefined) continue;
      const givesUp = call.deadline.givesUp(this.#core.stopReport);
      if (givesUp <= now) this.cancel(call, call.deadline.error(call.method));
      else first = Math.min(first, givesUp);
    }
    if (first < Number.POSITIVE_INFINITY && this.state !== "closed") this.#setAlarm(first);
  }
}
