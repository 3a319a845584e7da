// Cuts a stream of bytes into frames.

import { type Memory, memory } from "./decode.js";
import { DEFAULT_FRAME, MAX_ID } from "./limits.js";
import { Reader } from "./reader.js";

const HEADER = 4;
const HEAD_KEPT = 64; // more than the array's header, the kind and the id can take
const GATHER = 64 << 10; // a body is given its whole buffer once this many bytes of it have come

/** A frame over the limit, which has been read past. `kind` and `id` where both can be read, and there is an id. */
export type TooLong = { length: number; kind?: number; id?: number };

/** Who is told of what a splitter finds. */
export interface Sink {
  /** A whole body: `owned` where it is not used again; else it is good until `body` returns. Returns whether to go on. */
  body(memory: Memory, start: number, end: number, owned: boolean): boolean;
  tooLong(event: TooLong): void;
  /** Framing is broken: nothing comes after this. */
  broken(reason: string): void;
}

/** Bytes in, whole bodies out. Each byte is copied at most twice, and none of a frame that arrives in one piece. */
export class FrameSplitter {
  readonly maxFrame: number;
  readonly #sink: Sink;
  readonly #header = Buffer.alloc(HEADER);
  #headerFilled = 0;
  #length = 0; // of the body under way
  #body: Buffer | undefined;
  #filled = 0;
  #skip = 0; // bytes to read past
  readonly #head = Buffer.alloc(HEAD_KEPT); // of the frame that is read past
  #headFilled = 0;
  #ended = false;

  constructor(sink: Sink, maxFrame = DEFAULT_FRAME) {
    this.maxFrame = maxFrame;
    this.#sink = sink;
  }

  /** Whether no frame is incomplete. */
  get idle(): boolean {
    return this.#body === undefined && this.#headerFilled === 0 && this.#skip === 0;
  }

  /** Take the bytes that arrived: the first `end` of some memory. */
  feed(data: Memory, end = data.bytes.length): void {
    const { bytes } = data;
    let pos = 0;
    while (pos < end && !this.#ended) {
      if (this.#body !== undefined) {
        pos += this.#take(bytes, pos, end);
      } else if (this.#skip > 0) {
        pos += this.#readPast(bytes, pos, end);
      } else if (this.#headerFilled > 0 || end - pos < HEADER) {
        this.#header[this.#headerFilled++] = bytes[pos++] as number;
        if (this.#headerFilled === HEADER) {
          this.#headerFilled = 0;
          this.#begin(this.#header.readUInt32BE());
        }
      } else {
        const length = data.view.getUint32(pos);
        pos += HEADER;
        if (length > 0 && length <= end - pos && length <= this.maxFrame) {
          this.#ended = !this.#sink.body(data, pos, pos + length, false);
          pos += length;
        } else {
          this.#begin(length);
        }
      }
    }
  }

  /** The part of a long body that is still missing, where one is awaited: bytes may be received right into it. */
  room(): Buffer | undefined {
    if (this.#body === undefined || this.#body.length < this.#length || this.#length <= GATHER) return undefined;
    return this.#body.subarray(this.#filled);
  }

  /** `count` bytes were put into the beginning of `room()`. */
  filled(count: number): void {
    this.#filled += count;
    this.#complete();
  }

  #begin(length: number): void {
    if (length === 0) {
      this.#ended = true;
      this.#sink.broken("a frame of length 0");
    } else if (length > this.maxFrame) {
      this.#length = length;
      this.#skip = length;
      this.#headFilled = 0;
    } else {
      this.#length = length;
      this.#body = Buffer.allocUnsafeSlow(Math.min(length, GATHER));
      this.#filled = 0;
    }
  }

  #take(bytes: Buffer, pos: number, end: number): number {
    const body = this.#body as Buffer;
    const count = Math.min(body.length - this.#filled, end - pos);
    bytes.copy(body, this.#filled, pos, pos + count);
    this.#filled += count;
    if (this.#filled === body.length && body.length < this.#length) {
      this.#body = Buffer.allocUnsafeSlow(this.#length);
      body.copy(this.#body);
    }
    this.#complete();
    return count;
  }

  #complete(): void {
    const body = this.#body;
    if (body === undefined || this.#filled < this.#length) return;
    this.#body = undefined;
    this.#ended = !this.#sink.body(memory(body), 0, body.length, true);
  }

  #readPast(bytes: Buffer, pos: number, end: number): number {
    const count = Math.min(this.#skip, end - pos);
    this.#headFilled += bytes.copy(
      this.#head,
      this.#headFilled,
      pos,
      pos + Math.min(count, HEAD_KEPT - this.#headFilled),
    );
    this.#skip -= count;
    if (this.#skip === 0) {
      this.#sink.tooLong({ length: this.#length, ...kindAndId(this.#head.subarray(0, this.#headFilled)) });
    }
    return count;
  }
}

/** What a frame was and which call it belongs to, from its first bytes. */
function kindAndId(head: Buffer): { kind: number; id: number } | undefined {
  const { bytes, view } = memory(head);
  const reader = new Reader();
  try {
    reader.begin(bytes, view, 0, bytes.length, false);
    reader.arrayHeader();
    const kind = reader.count();
    const id = reader.count();
    return kind !== 2 && id >= 1 && id <= MAX_ID ? { kind, id } : undefined;
  } catch {
    return undefined;
  }
}
