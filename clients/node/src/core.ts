// One connection of a client, without its socket: bytes in, calls settled, bytes out. All that is known of the
// protocol from a client's side is here; `Connection` is the shell with the socket.

import type { Deadline } from "./deadline.js";
import { DspexError } from "./errors.js";
import { decodeFrom, type Memory } from "./wire/decode.js";
import { encodeCancel, encodeCredit, encodeError, encodeRequest, encodeResponse } from "./wire/encode.js";
import { DEFAULT_FRAME, MIN_FRAME_LIMIT, PROTOCOL } from "./wire/limits.js";
import { Kind, type Message, type Request, type WireMap } from "./wire/messages.js";
import { FrameSplitter, type Sink, type TooLong } from "./wire/splitter.js";
import { ContentError, type EnvelopeError, StructureError } from "./wire/violations.js";
import { Writer } from "./wire/writer.js";

/** A request in flight. */
export abstract class Call {
  id = 0;
  readonly method: string;
  /** Items that the other side may still send. */
  credit: number;
  /** When it settles without an answer. */
  deadline: Deadline | undefined;
  /** Settled, by a response or without one. */
  done = false;
  error: DspexError | undefined;
  result: unknown = undefined;
  meta: WireMap = NOTHING;

  constructor(method: string, credit = 0) {
    this.method = method;
    this.credit = credit;
  }

  /** The call was settled: `error`, or `result` and `meta`. */
  abstract settled(): void;

  /** An item came. Only calls with credit are sent any. */
  item(_item: unknown): void {}
}

const LONGEST_REPORT = 60_000; // milliseconds; a client waits no longer, whatever it was told

const NOTHING: WireMap = Object.freeze({});

/** `leaving`: the sidecar said goaway; calls in flight finish, new ones go elsewhere. */
export type State = "greeting" | "ready" | "leaving" | "closed";

const NEXT: Readonly<Record<State, readonly State[]>> = {
  greeting: ["ready", "closed"],
  ready: ["leaving", "closed"],
  leaving: ["closed"],
  closed: [],
};

/** What a connection's owner is told. */
export interface Owner {
  /** The sidecar asks something of the client. It is to be answered by `answer` or `refuse`, once. */
  asked(request: Request): void;
  /** What the sidecar asked is wanted no more. */
  askCancelled(id: number): void;
  goaway(params: WireMap): void;
  closed(error: DspexError): void;
}

/** The state of one connection. */
export class Core implements Sink {
  state: State = "greeting";
  /** What is in flight, by id; calls that were given up stay until their response comes. */
  readonly calls = new Map<number, Call>();
  /** Calls that are not settled. */
  open = 0;
  /** Frames that belonged to nothing. */
  ignored = 0;
  /** Frames to send. */
  readonly out = new Writer();
  readonly splitter: FrameSplitter;
  server: WireMap = {};
  /** Milliseconds past a call's deadline that the sidecar may take to tell how it ended. */
  stopReport = 0;
  readonly #owner: Owner;
  #peerLimit = MIN_FRAME_LIMIT;
  #lastId = 0;
  #complaint = ""; // the last protocol_error that named no call

  constructor(owner: Owner, maxFrame: number) {
    this.#owner = owner;
    this.splitter = new FrameSplitter(this, maxFrame);
  }

  // Calls

  /** The params of `hello`, of which `hello` holds `client` and `token`. */
  greeting(hello: WireMap): WireMap {
    return { protocols: [PROTOCOL], features: [], max_frame: this.splitter.maxFrame, ...hello };
  }

  /** Take the answer to `hello`. Throws where it is none of this protocol. */
  welcome(answer: unknown): void {
    const map = (typeof answer === "object" && answer !== null ? answer : {}) as WireMap;
    const limit = map.max_frame ?? DEFAULT_FRAME;
    if (typeof limit !== "number" || limit < MIN_FRAME_LIMIT || map.protocol !== PROTOCOL) {
      throw new DspexError("invalid_frame", "the answer to hello is not one of protocol 1");
    }
    this.#peerLimit = limit;
    const { stop_report_ms: report } = map;
    if (typeof report === "number" && report > 0) this.stopReport = Math.min(report, LONGEST_REPORT);
    this.server = map;
    if (this.state === "greeting") this.#move("ready"); // else it left in the same breath
  }

  /** Register a call; its frame is in `out`. Throws DspexError, and then nothing is registered. */
  request(call: Call, meta: object | null, params: object | null): void {
    if (this.state === "closed") throw new DspexError("connection_lost", "the connection is closed");
    const id = this.#lastId + 1;
    const before = this.out.length;
    this.#fitting(before, encodeRequest(this.out, id, call.method, meta, params), "the request");
    this.#lastId = id;
    call.id = id;
    this.calls.set(id, call);
    this.open++;
  }

  /** Give up on a call: it is settled here and now, and its id stays reserved until the response comes. */
  cancel(call: Call, error: DspexError): void {
    if (call.done) return;
    if (this.calls.get(call.id) === call) encodeCancel(this.out, call.id);
    this.#settle(call, error);
  }

  /** Let a stream go on by `n` items, if it has not ended. */
  grant(call: Call, n: number): void {
    if (call.done) return;
    call.credit += n;
    encodeCredit(this.out, call.id, n);
  }

  /** Answer what the sidecar asked. A result that cannot be sent is answered with the error that says so. */
  answer(id: number, result: unknown): void {
    if (this.state === "closed") return;
    const before = this.out.length;
    try {
      this.#fitting(before, encodeResponse(this.out, id, null, result), "the answer");
    } catch (error) {
      this.refuse(id, DspexError.from(error));
    }
  }

  refuse(id: number, error: DspexError): void {
    if (this.state === "closed") return;
    const before = this.out.length;
    try {
      this.#fitting(before, encodeError(this.out, id, null, error.toWire()), "the error");
    } catch (worse) {
      encodeError(this.out, id, null, { ...DspexError.from(worse).toWire(), details: null });
    }
  }

  /** The connection has ended, or is to end: settle all that is in flight. */
  close(error: DspexError): void {
    if (this.state === "closed") return;
    this.#move("closed");
    const calls = [...this.calls.values()];
    this.calls.clear();
    for (const call of calls) if (!call.done) this.#settle(call, error);
    this.#owner.closed(error);
  }

  /** The other side has closed the connection. */
  endOfFile(): void {
    const said = this.#complaint === "" ? "" : ` after it said: ${this.#complaint}`;
    this.close(new DspexError("connection_lost", `the sidecar closed the connection${said}`));
  }

  // What arrives

  body(memory: Memory, start: number, end: number, owned: boolean): boolean {
    let message: Message;
    try {
      message = decodeFrom(memory, start, end, owned);
    } catch (error) {
      if (error instanceof StructureError) this.broken(error.message);
      else this.#unreadable(error as ContentError | EnvelopeError);
      return this.state !== "closed";
    }
    this.#message(message);
    return this.state !== "closed";
  }

  tooLong({ length, kind, id }: TooLong): void {
    const limit = this.splitter.maxFrame;
    const error = new DspexError("frame_too_large", `a frame of ${length} bytes came, and this client takes ${limit}`, {
      details: { limit, length },
    });
    const call = id === undefined ? undefined : this.calls.get(id);
    if (kind === Kind.request) this.refuse(id as number, error);
    else if (call === undefined) this.ignored++;
    else if (kind === Kind.item) this.cancel(call, error);
    else if (kind === Kind.response) this.#answered(call, error);
    else this.ignored++;
  }

  broken(reason: string): void {
    this.close(new DspexError("connection_lost", `the sidecar broke the protocol: ${reason}`));
  }

  #unreadable(error: ContentError | EnvelopeError): void {
    const { id, kind } = error;
    const invalid = new DspexError("invalid_frame", `what came cannot be read: ${error.message}`, { cause: error });
    if (kind === Kind.request && id !== undefined && error instanceof ContentError) {
      this.refuse(id, invalid);
      return;
    }
    const call = id === undefined ? undefined : this.calls.get(id);
    if (call !== undefined && kind === Kind.response) this.#answered(call, invalid);
    else if (call !== undefined && kind === Kind.item) this.cancel(call, invalid);
    else this.ignored++;
  }

  #message(message: Message): void {
    switch (message.kind) {
      case Kind.response: {
        const call = this.calls.get(message.id);
        if (call === undefined) {
          this.ignored++;
        } else if (message.error === null) {
          call.meta = message.meta;
          call.result = message.result;
          this.#answered(call, undefined);
        } else {
          this.#answered(call, DspexError.fromWire(message.error, message.meta));
        }
        break;
      }
      case Kind.item:
        this.#item(message.id, message.item);
        break;
      case Kind.notification:
        this.#notification(message.method, message.params);
        break;
      case Kind.request:
        this.#owner.asked(message);
        break;
      case Kind.cancel:
        this.#owner.askCancelled(message.id);
        break;
      default:
        this.ignored++;
    }
  }

  #item(id: number, item: unknown): void {
    const call = this.calls.get(id);
    if (call === undefined || call.done) {
      this.ignored++;
    } else if (call.credit < 1) {
      this.cancel(call, new DspexError("invalid_frame", "the sidecar sent more items than it had credit for"));
    } else {
      call.credit--;
      call.item(item);
    }
  }

  #notification(method: string, params: WireMap): void {
    if (method === "goaway") {
      if (this.state !== "ready") return;
      this.#move("leaving");
      this.#owner.goaway(params);
    } else if (method === "protocol_error") {
      const error = DspexError.fromWire(params);
      const { id } = params;
      const call = typeof id === "number" ? this.calls.get(id) : undefined;
      if (call !== undefined) this.#answered(call, error);
      else this.#complaint = `${error.code}: ${error.message}`;
    } else {
      this.ignored++;
    }
  }

  /** The response of a call came, or what stands for it. */
  #answered(call: Call, error: DspexError | undefined): void {
    this.calls.delete(call.id);
    if (!call.done) this.#settle(call, error);
  }

  #settle(call: Call, error: DspexError | undefined): void {
    call.error = error;
    call.done = true;
    this.open--;
    call.settled();
  }

  /** Throws, and takes back what was written behind `before`, where the sidecar would not take so long a body. */
  #fitting(before: number, length: number, what: string): void {
    const limit = this.#peerLimit;
    if (length <= limit) return;
    this.out.cut(before);
    throw new DspexError("frame_too_large", `${what} takes ${length} bytes, and the sidecar takes ${limit}`, {
      details: { limit, length },
    });
  }

  #move(to: State): void {
    if (!NEXT[this.state].includes(to)) throw new Error(`a connection does not go from ${this.state} to ${to}`);
    this.state = to;
  }
}
