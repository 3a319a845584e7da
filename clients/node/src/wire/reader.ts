// Values out of MessagePack, in one pass that takes nothing on trust: every length is checked against the bytes left,
// depth and types as well, and so are UTF-8 and repeated keys.

import { isUtf8 } from "node:buffer";
import { MAX_DEPTH } from "./limits.js";
import type { WireMap } from "./messages.js";
import { instant } from "./timestamp.js";

/** Something is wrong with the bytes; which rule they break is found out by `decode`, on its slow path. */
export class Fault extends Error {}

const SHORT = 24; // bytes up to which text is looked for among what was read before
const KNOWN = 512; // texts that are remembered
const FEW = 12; // keys up to which all are compared with each other
const VIEWED = 4096; // bytes from which byte strings are views of the body where it is not used again

const EMPTY = Buffer.alloc(0);
const NO_VIEW = new DataView(new ArrayBuffer(0));

/** Reads values from one body at a time. */
export class Reader {
  pos = 0;
  #body: Buffer = EMPTY;
  #view: DataView = NO_VIEW;
  #end = 0;
  #depth = 0;
  #owned = false;
  /** Keys of the maps around, the innermost on top. */
  readonly #keys: string[] = [];
  #open = 0;
  /** Short ASCII texts that were read before, by a hash of their bytes: most frames have the same keys. */
  readonly #known: string[] = new Array(KNOWN).fill("");

  /** `view` is of the buffer's whole memory; `owned`: `body` is not used again, so that large byte strings may be views of it. */
  begin(body: Buffer, view: DataView, start: number, end: number, owned: boolean): void {
    this.#body = body;
    this.#view = view;
    this.pos = start;
    this.#end = end;
    this.#depth = 0;
    this.#open = 0;
    this.#owned = owned;
  }

  get end(): number {
    return this.#end;
  }

  /** Hold nothing that was read. */
  forget(): void {
    this.#body = EMPTY;
    this.#view = NO_VIEW;
  }

  /** Enter an array: how many items it has. */
  array(): number {
    return this.#enter(this.arrayHeader(), 1);
  }

  /** How many items an array declares. */
  arrayHeader(): number {
    const first = this.#body[this.pos++] as number;
    if (first >= 0x90 && first < 0xa0) return first & 0x0f;
    if (first === 0xdc) return this.#length(2);
    if (first === 0xdd) return this.#length(4);
    throw new Fault("not an array");
  }

  /** An integer of 0 to 2^53-1, in any form. */
  count(): number {
    const first = this.#body[this.pos] as number;
    if (first < 0x80) {
      this.pos++;
      if (this.pos > this.#end) throw new Fault("cut off");
      return first;
    }
    if (first < 0xcc || first > 0xd3) throw new Fault("not a count");
    const value = this.value();
    if (typeof value !== "number" || value < 0) throw new Fault("not a count");
    return value;
  }

  /** A map, or `{}` for nil. */
  map(): WireMap {
    const first = this.#body[this.pos] as number;
    if (first === 0xc0) {
      this.pos++;
      return {};
    }
    if ((first & 0xf0) !== 0x80 && first !== 0xde && first !== 0xdf) throw new Fault("not a map");
    return this.value() as WireMap;
  }

  value(): unknown {
    const pos = this.pos;
    if (pos >= this.#end) throw new Fault("cut off");
    const first = this.#body[pos] as number;
    this.pos = pos + 1;
    if (first < 0x80) return first;
    if (first < 0x90) return this.#map(first & 0x0f);
    if (first < 0xa0) return this.#array(first & 0x0f);
    if (first < 0xc0) return this.#text(first & 0x1f);
    if (first >= 0xe0) return first - 0x100;
    return this.#long(first);
  }

  #long(first: number): unknown {
    switch (first) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
        return this.#bytes(this.#length(1));
      case 0xc5:
        return this.#bytes(this.#length(2));
      case 0xc6:
        return this.#bytes(this.#length(4));
      case 0xca:
        return this.#view.getFloat32(this.#take(4));
      case 0xcb:
        return this.#view.getFloat64(this.#take(8));
      case 0xcc:
        return this.#length(1);
      case 0xcd:
        return this.#length(2);
      case 0xce:
        return this.#length(4);
      case 0xcf:
        return this.#unsigned64();
      case 0xd0:
        return this.#view.getInt8(this.#take(1));
      case 0xd1:
        return this.#view.getInt16(this.#take(2));
      case 0xd2:
        return this.#view.getInt32(this.#take(4));
      case 0xd3:
        return this.#signed64();
      case 0xd9:
        return this.#text(this.#length(1));
      case 0xda:
        return this.#text(this.#length(2));
      case 0xdb:
        return this.#text(this.#length(4));
      case 0xdc:
        return this.#array(this.#length(2));
      case 0xdd:
        return this.#array(this.#length(4));
      case 0xde:
        return this.#map(this.#length(2));
      case 0xdf:
        return this.#map(this.#length(4));
      case 0xd6:
      case 0xd7:
      case 0xc7:
        return this.#instant(first);
      default:
        throw new Fault("a type that is not allowed");
    }
  }

  #take(count: number): number {
    const at = this.pos;
    this.pos = at + count;
    if (this.pos > this.#end) throw new Fault("cut off");
    return at;
  }

  #length(width: number): number {
    const at = this.#take(width);
    const body = this.#body;
    if (width === 1) return body[at] as number;
    const two = ((body[at] as number) << 8) | (body[at + 1] as number);
    return width === 2 ? two : two * 0x10000 + (((body[at + 2] as number) << 8) | (body[at + 3] as number));
  }

  #unsigned64(): number | bigint {
    const at = this.#take(8);
    const high = this.#view.getUint32(at);
    return high < 0x200000 ? high * 0x100000000 + this.#view.getUint32(at + 4) : this.#view.getBigUint64(at);
  }

  #signed64(): number | bigint {
    const at = this.#take(8);
    const high = this.#view.getInt32(at);
    const value = high * 0x100000000 + this.#view.getUint32(at + 4);
    return Number.isSafeInteger(value) ? value : this.#view.getBigInt64(at);
  }

  #enter(items: number, each: number): number {
    if (items * each > this.#end - this.pos) throw new Fault("more items declared than bytes are left");
    if (items > 0 && ++this.#depth > MAX_DEPTH) throw new Fault("nested too deep");
    return items;
  }

  #array(items: number): unknown[] {
    if (this.#enter(items, 1) === 0) return [];
    const array: unknown[] = []; // no room is made for what a length promises
    for (let n = 0; n < items; n++) array.push(this.value());
    this.#depth--;
    return array;
  }

  #map(items: number): WireMap {
    const map: WireMap = {};
    if (this.#enter(items, 2) === 0) return map;
    const keys = this.#keys;
    const base = this.#open;
    for (let n = 0; n < items; n++) {
      const key = this.#key();
      if (items <= FEW) {
        const top = base + n;
        for (let other = base; other < top; other++)
          if (keys[other] === key) throw new Fault("a key occurs twice in one map");
        keys[top] = key;
        this.#open = top + 1;
      } else if (Object.hasOwn(map, key)) {
        throw new Fault("a key occurs twice in one map");
      }
      const value = this.value();
      if (key === "__proto__") {
        Object.defineProperty(map, key, { value, writable: true, enumerable: true, configurable: true });
      } else {
        map[key] = value;
      }
    }
    this.#open = base;
    this.#depth--;
    return map;
  }

  #key(): string {
    const first = this.#body[this.pos] as number;
    if (first >= 0xa0 && first < 0xc0) {
      this.pos++;
      return this.#short(first & 0x1f);
    }
    if (first < 0xd9 || first > 0xdb || this.pos >= this.#end) throw new Fault("a map key that is not text");
    return this.value() as string;
  }

  /** Short text: most of it was read before. */
  #short(length: number): string {
    const body = this.#body;
    const start = this.#take(length);
    const end = start + length;
    let hash = length;
    let all = 0;
    for (let at = start; at < end; at++) {
      const byte = body[at] as number;
      hash = (Math.imul(hash, 31) + byte) | 0;
      all |= byte;
    }
    if (all >= 0x80) return this.#decoded(start, end);
    const slot = (hash ^ (hash >>> 9)) & (KNOWN - 1);
    const known = this.#known[slot] as string;
    if (known.length === length) {
      let at = 0;
      while (at < length && known.charCodeAt(at) === body[start + at]) at++;
      if (at === length) return known;
    }
    const text = body.toString("latin1", start, end);
    this.#known[slot] = text;
    return text;
  }

  #text(length: number): string {
    if (length < SHORT) return this.#short(length);
    const start = this.#take(length);
    return this.#decoded(start, start + length);
  }

  #decoded(start: number, end: number): string {
    const text = this.#body.toString("utf8", start, end);
    // What is no UTF-8 is decoded to U+FFFD, which may also be there rightly.
    if (text.includes("\ufffd") && !isUtf8(this.#body.subarray(start, end)))
      throw new Fault("text that is not valid UTF-8");
    return text;
  }

  #bytes(length: number): Buffer {
    const start = this.#take(length);
    const part = this.#body.subarray(start, start + length);
    // A small part would keep all of a large body alive.
    if (this.#owned && length >= VIEWED && length * 4 >= this.#body.length) return part;
    return Buffer.from(part);
  }

  #instant(first: number): unknown {
    let at = this.pos;
    if (first === 0xc7 && this.#length(1) !== 12) throw new Fault("a type that is not allowed");
    if (this.#length(1) !== 0xff) throw new Fault("a type that is not allowed");
    let found: unknown;
    if (first === 0xd6) {
      found = instant(this.#length(4), 0);
    } else if (first === 0xd7) {
      at = this.#take(8);
      const high = this.#view.getUint32(at);
      found = instant((high & 3) * 0x100000000 + this.#view.getUint32(at + 4), high >>> 2);
    } else {
      at = this.#take(12);
      found = instant(this.#view.getBigInt64(at + 4), this.#view.getUint32(at));
    }
    if (found === undefined) throw new Fault("a timestamp of more than 999,999,999 nanoseconds");
    return found;
  }
}
