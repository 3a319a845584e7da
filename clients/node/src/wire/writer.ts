// Values into MessagePack, with the place of what cannot be packed.

import { DspexError } from "../errors.js";
import { MAX_DEPTH } from "./limits.js";
import { Timestamp } from "./timestamp.js";

const INSIDE_FRAME = MAX_DEPTH - 1; // the frame's own array is around every payload
const SHORT = 24; // characters up to which a loop beats a call into native code
const CHUNK = 64 << 10;
const ROOM = 16; // bytes that any header, number or instant fits into

/** What cannot be packed, and where in the value that is. */
class Unpackable extends Error {
  path = "";

  /** Prefix the step that led there. */
  inside(step: string): this {
    this.path = step + this.path;
    return this;
  }
}

/** Packs values, one behind the other, into memory of its own. */
export class Writer {
  #bytes: Buffer = Buffer.allocUnsafeSlow(CHUNK);
  #view = viewOf(this.#bytes);
  #start = 0;
  #pos = 0;

  /** Bytes that were written since they were last taken. */
  get length(): number {
    return this.#pos - this.#start;
  }

  /** All that was written since. The writer does not touch these bytes again. */
  take(): Buffer {
    const taken = this.#bytes.subarray(this.#start, this.#pos);
    this.#start = this.#pos;
    if (this.#bytes.length > 4 * CHUNK) this.#use(NOTHING); // a large frame's memory is not kept for small ones
    return taken;
  }

  /** What was written behind the first `length` bytes. */
  written(length: number): Buffer {
    return this.#bytes.subarray(this.#start + length, this.#pos);
  }

  /** Begin a frame: what `end` and `cut` are given. */
  begin(): number {
    const before = this.length;
    this.#reserve(ROOM);
    this.#pos += 4;
    return before;
  }

  /** End the frame that was begun there. Returns the length of its body. */
  end(before: number): number {
    const at = this.#start + before;
    const length = this.#pos - at - 4;
    this.#view.setUint32(at, length);
    return length;
  }

  /** Take back what was written behind the first `length` bytes. */
  cut(length: number): void {
    this.#pos = this.#start + length;
  }

  /** One byte, as it is. */
  byte(byte: number): void {
    this.#reserve(ROOM);
    this.#bytes[this.#pos++] = byte;
  }

  /** A value that users gave; `root` is what they call it. Throws NotSerializable. */
  payload(value: unknown, root: string): void {
    try {
      this.#value(value, INSIDE_FRAME);
    } catch (error) {
      if (!(error instanceof Unpackable)) throw error;
      const path = root + error.path;
      throw unpackable(path, error.message);
    }
  }

  /** An integer of 0 to 2^53-1. */
  count(value: number): void {
    this.#reserve(ROOM);
    this.#integer(value);
  }

  text(value: string): void {
    const length = value.length;
    if (length < SHORT) {
      this.#reserve(ROOM + 3 * SHORT);
      const bytes = this.#bytes;
      let pos = this.#pos + 1;
      let at = 0;
      for (; at < length; at++) {
        const code = value.charCodeAt(at);
        if (code >= 0x80) break;
        bytes[pos++] = code;
      }
      if (at === length) {
        bytes[this.#pos] = 0xa0 | length;
        this.#pos = pos;
        return;
      }
    }
    this.#longText(value);
  }

  #longText(value: string): void {
    if (!value.isWellFormed()) throw new Unpackable("text with a lone surrogate");
    const size = Buffer.byteLength(value);
    this.#reserve(ROOM + size);
    this.#sized(size, size < 32 ? 1 : size < 0x100 ? 2 : size < 0x10000 ? 3 : 5, 0xa0, 0xd9);
    this.#pos += this.#bytes.write(value, this.#pos, "utf8");
  }

  /** The header of text or bytes, in `header` bytes. */
  #sized(size: number, header: number, short: number, first: number): void {
    const bytes = this.#bytes;
    const pos = this.#pos;
    this.#pos = pos + header;
    if (header === 1) {
      bytes[pos] = short | size;
    } else if (header === 2) {
      bytes[pos] = first;
      bytes[pos + 1] = size;
    } else if (header === 3) {
      bytes[pos] = first + 1;
      this.#view.setUint16(pos + 1, size);
    } else {
      bytes[pos] = first + 2;
      this.#view.setUint32(pos + 1, size);
    }
  }

  #value(value: unknown, depth: number): void {
    switch (typeof value) {
      case "string":
        this.text(value);
        break;
      case "number":
        this.#reserve(ROOM);
        this.#number(value);
        break;
      case "object":
        if (value === null) this.byte(0xc0);
        else this.#object(value, depth);
        break;
      case "boolean":
        this.byte(value ? 0xc3 : 0xc2);
        break;
      case "undefined":
        this.byte(0xc0);
        break;
      case "bigint":
        this.#bigint(value);
        break;
      default:
        throw new Unpackable(`a ${typeof value} cannot be packed`);
    }
  }

  #number(value: number): void {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
      this.#integer(value);
      return;
    }
    this.#bytes[this.#pos] = 0xcb;
    this.#view.setFloat64(this.#pos + 1, value);
    this.#pos += 9;
  }

  #integer(value: number): void {
    const bytes = this.#bytes;
    const view = this.#view;
    const pos = this.#pos;
    if (value >= 0) {
      if (value < 0x80) {
        bytes[pos] = value;
        this.#pos = pos + 1;
      } else if (value < 0x100) {
        bytes[pos] = 0xcc;
        bytes[pos + 1] = value;
        this.#pos = pos + 2;
      } else if (value < 0x10000) {
        bytes[pos] = 0xcd;
        view.setUint16(pos + 1, value);
        this.#pos = pos + 3;
      } else if (value < 0x100000000) {
        bytes[pos] = 0xce;
        view.setUint32(pos + 1, value);
        this.#pos = pos + 5;
      } else {
        bytes[pos] = 0xcf;
        view.setUint32(pos + 1, Math.floor(value / 0x100000000));
        view.setUint32(pos + 5, value >>> 0);
        this.#pos = pos + 9;
      }
    } else if (value >= -32) {
      bytes[pos] = value & 0xff;
      this.#pos = pos + 1;
    } else if (value >= -0x80000000) {
      bytes[pos] = 0xd2;
      view.setInt32(pos + 1, value);
      this.#pos = pos + 5;
    } else {
      this.#wide(0xd3, BigInt(value));
    }
  }

  #wide(first: number, value: bigint): void {
    this.#bytes[this.#pos] = first;
    this.#view.setBigInt64(this.#pos + 1, value);
    this.#pos += 9;
  }

  #bigint(value: bigint): void {
    if (value < -(2n ** 63n) || value >= 2n ** 64n) throw new Unpackable("an integer outside -2^63 to 2^64-1");
    this.#reserve(ROOM);
    if (value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER) this.#integer(Number(value));
    else this.#wide(value < 0 ? 0xd3 : 0xcf, value);
  }

  #object(value: object, depth: number): void {
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype === Object.prototype || prototype === null) this.#fields(value, depth);
    else if (Array.isArray(value)) this.#array(value, depth);
    else if (value instanceof Uint8Array) this.#binary(value);
    else if (value instanceof Date) this.#date(value);
    else if (value instanceof Map) this.#entries(value, depth);
    else if (value instanceof Timestamp) this.#instant(value.seconds, value.nanoseconds);
    else if (value instanceof ArrayBuffer) this.#binary(new Uint8Array(value));
    else if (ArrayBuffer.isView(value) && Symbol.iterator in value) this.#array([...(value as Uint16Array)], depth);
    else this.#unwrapped(value, depth);
  }

  /** What an object of a class holds: what its `toJSON` gives, else its fields. */
  #unwrapped(value: object, depth: number): void {
    if (depth === 0) throw tooDeep(); // it may hold itself
    const { toJSON } = value as { toJSON?: unknown };
    if (typeof toJSON === "function") {
      this.#value(toJSON.call(value), depth - 1);
      return;
    }
    const tag = Object.prototype.toString.call(value).slice(8, -1);
    if (tag !== "Object") {
      const hint = tag === "Set" ? "; use an array" : tag === "Promise" ? "; await it" : "";
      throw new Unpackable(`a ${tag} cannot be packed${hint}`);
    }
    this.#fields(value, depth);
  }

  /** Own properties by name; those that are undefined are left out, as JSON does. */
  #fields(value: object, depth: number): void {
    const map = value as Record<string, unknown>;
    const keys = Object.keys(map);
    let count = keys.length;
    for (const key of keys) if (map[key] === undefined) count--;
    if (count > 0 && depth === 0) throw tooDeep();
    this.#container(count, 0x80, 16, 0xde);
    for (const key of keys) {
      const item = map[key];
      if (item === undefined) continue;
      try {
        this.text(key);
        this.#value(item, depth - 1);
      } catch (error) {
        throw inside(error, step(key));
      }
    }
  }

  #entries(map: Map<unknown, unknown>, depth: number): void {
    if (map.size > 0 && depth === 0) throw tooDeep();
    this.#container(map.size, 0x80, 16, 0xde);
    for (const [key, item] of map) {
      if (typeof key !== "string") throw new Unpackable(`a map key of type ${typeof key}: keys are text`);
      try {
        this.text(key);
        this.#value(item, depth - 1);
      } catch (error) {
        throw inside(error, step(key));
      }
    }
  }

  #array(array: readonly unknown[], depth: number): void {
    const count = array.length;
    if (count > 0 && depth === 0) throw tooDeep();
    this.#container(count, 0x90, 16, 0xdc);
    for (let index = 0; index < count; index++) {
      try {
        this.#value(array[index], depth - 1);
      } catch (error) {
        throw inside(error, `[${index}]`);
      }
    }
  }

  #container(count: number, short: number, few: number, first: number): void {
    this.#reserve(ROOM);
    if (count < few) {
      this.#bytes[this.#pos++] = short | count;
    } else if (count < 0x10000) {
      this.#bytes[this.#pos] = first;
      this.#view.setUint16(this.#pos + 1, count);
      this.#pos += 3;
    } else {
      this.#bytes[this.#pos] = first + 1;
      this.#view.setUint32(this.#pos + 1, count);
      this.#pos += 5;
    }
  }

  #binary(value: Uint8Array): void {
    const size = value.length;
    this.#reserve(ROOM + size);
    this.#sized(size, size < 0x100 ? 2 : size < 0x10000 ? 3 : 5, 0, 0xc4);
    this.#bytes.set(value, this.#pos);
    this.#pos += size;
  }

  #date(value: Date): void {
    const time = value.getTime();
    if (Number.isNaN(time)) throw new Unpackable("an invalid Date");
    const seconds = Math.floor(time / 1000);
    this.#instant(BigInt(seconds), (time - seconds * 1000) * 1_000_000);
  }

  #instant(seconds: bigint, nanoseconds: number): void {
    this.#reserve(ROOM);
    const view = this.#view;
    const pos = this.#pos;
    if (seconds >= 0n && seconds < 1n << 34n) {
      view.setUint16(pos, 0xd7ff);
      view.setBigUint64(pos + 2, (BigInt(nanoseconds) << 34n) | seconds);
      this.#pos = pos + 10;
    } else {
      view.setUint16(pos, 0xc70c);
      view.setUint8(pos + 2, 0xff);
      view.setUint32(pos + 3, nanoseconds);
      view.setBigInt64(pos + 7, seconds);
      this.#pos = pos + 15;
    }
  }

  /** Make room for `more` bytes. What was written and not taken moves along. */
  #reserve(more: number): void {
    if (this.#pos + more > this.#bytes.length) this.#grow(more);
  }

  #grow(more: number): void {
    const written = this.#pos - this.#start;
    const needed = written + more;
    const bytes = Buffer.allocUnsafeSlow(needed * 2 < CHUNK ? CHUNK : needed + Math.min(needed, 64 * CHUNK));
    this.#bytes.copy(bytes, 0, this.#start, this.#pos);
    this.#use(bytes);
    this.#pos = written;
  }

  #use(bytes: Buffer): void {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#start = 0;
    this.#pos = 0;
  }
}

const NOTHING = Buffer.alloc(0);

/** The error of a value that cannot be packed. */
export function unpackable(path: string, reason: string): DspexError {
  return new DspexError("not_serializable", `${path}: ${reason}`, { details: { path } });
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function tooDeep(): Unpackable {
  return new Unpackable(`values are nested deeper than ${MAX_DEPTH}, or hold themselves`);
}

function inside(error: unknown, step: string): unknown {
  return error instanceof Unpackable ? error.inside(step) : error;
}

/** The path to a map's entry. */
function step(key: string): string {
  return /^[\p{ID_Start}_$][\p{ID_Continue}$]*$/u.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
}
