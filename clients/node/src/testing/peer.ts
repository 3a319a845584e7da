// The sidecar's end of one connection.

import type { Socket } from "node:net";
import type { DspexError } from "../errors.js";
import { decodeFrom, type Memory, memory } from "../wire/decode.js";
import {
  encodeCancel,
  encodeError,
  encodeItem,
  encodeNotification,
  encodeRequest,
  encodeResponse,
} from "../wire/encode.js";
import { DEFAULT_FRAME, PROTOCOL } from "../wire/limits.js";
import { Kind, type Message, type Request, type WireMap } from "../wire/messages.js";
import { FrameSplitter, type Sink } from "../wire/splitter.js";
import { Writer } from "../wire/writer.js";

/** Reads messages, and writes frames of any kind. */
export class Peer implements Sink {
  readonly socket: Socket;
  readonly #splitter: FrameSplitter;
  readonly #writer = new Writer();
  readonly #messages: (Message | undefined)[] = []; // undefined: the end
  #waiting: ((message: Message | undefined) => void) | undefined;

  constructor(socket: Socket, maxFrame = 4 * DEFAULT_FRAME) {
    this.socket = socket;
    this.#splitter = new FrameSplitter(this, maxFrame);
    socket.on("data", (data: Buffer) => this.#splitter.feed(memory(data)));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.#push(undefined));
    socket.on("end", () => this.#push(undefined));
  }

  /** The next message; undefined once the client has left. One reader at a time. */
  read(): Promise<Message | undefined> {
    if (this.#messages.length > 0) {
      const [message] = this.#messages;
      if (message !== undefined) this.#messages.shift(); // the end stays
      return Promise.resolve(message);
    }
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  /** The next message, which has to be a request. */
  async request(): Promise<Request> {
    const message = await this.read();
    if (message?.kind !== Kind.request) throw new Error(`expected a request, got ${JSON.stringify(message)}`);
    return message;
  }

  /** Answer `hello`, which has to be the next message. */
  async greet(more: WireMap = {}): Promise<Request> {
    const hello = await this.request();
    if (hello.method !== "hello") throw new Error(`expected hello, got ${hello.method}`);
    const server = { name: "fake", version: "0" };
    this.answer(hello.id, {
      protocol: PROTOCOL,
      features: [],
      server,
      connection: "c1",
      max_frame: DEFAULT_FRAME,
      ...more,
    });
    return hello;
  }

  answer(id: number, result: unknown, meta: WireMap | null = null): void {
    encodeResponse(this.#writer, id, meta, result);
    this.#flush();
  }

  fail(id: number, error: DspexError): void {
    encodeError(this.#writer, id, null, error.toWire());
    this.#flush();
  }

  item(id: number, item: unknown): void {
    encodeItem(this.#writer, id, item);
    this.#flush();
  }

  notify(method: string, params: WireMap): void {
    encodeNotification(this.#writer, method, params);
    this.#flush();
  }

  /** Ask something of the client, as a worker does. */
  ask(id: number, method: string, meta: WireMap, params: WireMap): void {
    encodeRequest(this.#writer, id, method, meta, params);
    this.#flush();
  }

  cancel(id: number): void {
    encodeCancel(this.#writer, id);
    this.#flush();
  }

  /** Write bytes as they are. */
  raw(bytes: Uint8Array): void {
    if (!this.socket.destroyed) this.socket.write(bytes);
  }

  /** The bytes of frames, for who wants to send them otherwise. */
  frames(write: (to: Writer) => void): Buffer {
    const writer = new Writer();
    write(writer);
    return writer.take();
  }

  body(from: Memory, start: number, end: number): boolean {
    try {
      this.#push(decodeFrom(from, start, end, false));
    } catch (error) {
      this.broken(`bytes that are no message: ${(error as Error).message}`);
    }
    return !this.socket.destroyed;
  }

  tooLong(): void {
    this.broken("a frame that is too long");
  }

  broken(reason: string): void {
    this.socket.destroy(new Error(reason));
  }

  #push(message: Message | undefined): void {
    if (this.#waiting === undefined) {
      this.#messages.push(message);
      return;
    }
    if (message === undefined) this.#messages.push(message);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting(message);
  }

  #flush(): void {
    this.raw(this.#writer.take());
  }
}
