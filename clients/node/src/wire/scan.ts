// Structure of MessagePack, checked without building any value: the exact form of the rules in docs/protocol.md,
// "Values". `decode` comes here for frames that it could not read, to tell one fault from another.

import { MAX_DEPTH, MAX_VALUES } from "./limits.js";
import { StructureError } from "./violations.js";

/** Bytes of each scalar by its first byte; 0 where more than that byte must be looked at. */
const SIZES = new Uint8Array(256);
SIZES.fill(1, 0x00, 0x80).fill(1, 0xe0, 0x100);
for (let first = 0xa0; first < 0xc0; first++) SIZES[first] = first - 0x9f;
for (const [size, ...firsts] of [
  [1, 0xc0, 0xc2, 0xc3],
  [2, 0xcc, 0xd0],
  [3, 0xcd, 0xd1],
  [5, 0xca, 0xce, 0xd2],
  [9, 0xcb, 0xcf, 0xd3],
] as [number, ...number[]][]) {
  for (const first of firsts) SIZES[first] = size;
}

/** What begins at an offset: its bytes up to the first value inside (for a scalar: all), and how many values follow. */
export type Header = { size: number; items: number };

/** Check that `body` is exactly one value of sound structure. Throws StructureError. */
export function scan(body: Uint8Array): void {
  const end = skipValue(body, 0);
  if (end !== body.length) throw new StructureError(`${body.length - end} bytes are left over`);
}

/** The offset behind the value at `from`. Throws StructureError. */
export function skipValue(body: Uint8Array, from: number): number {
  const end = body.length;
  const open: number[] = []; // values still to come in each container around this one
  let pos = from;
  let left = 1;
  let seen = 0;
  for (;;) {
    if (pos >= end) throw new StructureError("cut off");
    if (++seen > MAX_VALUES) throw new StructureError(`more than ${MAX_VALUES} values`);
    left--;
    const size = SIZES[body[pos] as number] as number;
    if (size > 0) {
      pos += size;
    } else {
      const header = headerAt(body, pos);
      pos += header.size;
      if (header.items > 0) {
        if (header.items > end - pos) throw new StructureError("more items declared than bytes are left");
        if (open.length === MAX_DEPTH) throw new StructureError(`nested deeper than ${MAX_DEPTH}`);
        open.push(left);
        left = header.items;
      }
    }
    while (left === 0) {
      const around = open.pop();
      if (around === undefined) {
        if (pos > end) throw new StructureError("cut off");
        return pos;
      }
      left = around;
    }
  }
}

/** Begin and end of each item of the frame's array. Throws StructureError; `body` need not have been scanned. */
export function outline(body: Uint8Array): [begin: number, end: number][] {
  scan(body);
  const first = body[0] as number;
  if (!(first >= 0x90 && first < 0xa0) && first !== 0xdc && first !== 0xdd) {
    throw new StructureError("the body is not an array");
  }
  const { size, items } = headerAt(body, 0);
  const spans: [number, number][] = [];
  for (let pos = size; spans.length < items; ) {
    const end = skipValue(body, pos);
    spans.push([pos, end]);
    pos = end;
  }
  return spans;
}

/** The header of what is no short scalar. Throws StructureError for a type that is not allowed. */
function headerAt(body: Uint8Array, pos: number): Header {
  const first = body[pos] as number;
  if (first < 0x90) return { size: 1, items: 2 * (first & 0x0f) };
  if (first < 0xa0) return { size: 1, items: first & 0x0f };
  switch (first) {
    case 0xc4:
    case 0xd9:
      return { size: 2 + lengthAt(body, pos, 1), items: 0 };
    case 0xc5:
    case 0xda:
      return { size: 3 + lengthAt(body, pos, 2), items: 0 };
    case 0xc6:
    case 0xdb:
      return { size: 5 + lengthAt(body, pos, 4), items: 0 };
    case 0xdc:
      return { size: 3, items: lengthAt(body, pos, 2) };
    case 0xdd:
      return { size: 5, items: lengthAt(body, pos, 4) };
    case 0xde:
      return { size: 3, items: 2 * lengthAt(body, pos, 2) };
    case 0xdf:
      return { size: 5, items: 2 * lengthAt(body, pos, 4) };
    case 0xc1:
      throw new StructureError("type 0xc1");
    case 0xd6:
      if (body[pos + 1] === 0xff) return { size: 6, items: 0 };
      break;
    case 0xd7:
      if (body[pos + 1] === 0xff) return { size: 10, items: 0 };
      break;
    case 0xc7:
      if (body[pos + 1] === 12 && body[pos + 2] === 0xff) return { size: 15, items: 0 };
      break;
  }
  throw new StructureError("an extension other than the timestamp, or cut off");
}

function lengthAt(body: Uint8Array, pos: number, width: number): number {
  if (pos + 1 + width > body.length) throw new StructureError("cut off");
  let length = 0;
  for (let at = pos + 1; at <= pos + width; at++) length = length * 256 + (body[at] as number);
  return length;
}
