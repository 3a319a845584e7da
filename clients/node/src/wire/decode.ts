// Bodies of frames to messages, held to every rule of docs/protocol.md.
//
// The first pass builds the message, and gives up at whatever is not as it should be. Only then is the frame gone
// through rule by rule, to say which one it breaks: structure before envelope before content.

import { MAX_CREDIT, MAX_HEAD, MAX_ID, MAX_METHOD, MAX_REASON, MAX_VALUES } from "./limits.js";
import { Kind, type Message, type WireMap } from "./messages.js";
import { Fault, Reader } from "./reader.js";
import { outline, scan } from "./scan.js";
import { ContentError, EnvelopeError } from "./violations.js";

const COUNTS = [5, 5, 4, 4, 3, 3, 3]; // items of each kind's array
const NIL = 0xc0;
const UNKNOWN: Message = { kind: Kind.unknown };

const reader = new Reader();

/** The memory that frames are decoded from: the view is made once for many of them. */
export type Memory = { readonly bytes: Buffer; readonly view: DataView };

export function memory(bytes: Buffer): Memory {
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength) };
}

/**
 * The message in one frame. `owned`: the body is not used again, and large byte strings may be views of it.
 *
 * Throws StructureError, EnvelopeError or ContentError; of several faults the first of these that applies.
 */
export function decode(body: Buffer, owned = false): Message {
  return decodeFrom(memory(body), 0, body.length, owned);
}

/** `decode` of a part of some memory. */
export function decodeFrom({ bytes, view }: Memory, start: number, end: number, owned: boolean): Message {
  try {
    if (end - start > MAX_VALUES) scan(bytes.subarray(start, end)); // fewer bytes cannot hold too many values
    reader.begin(bytes, view, start, end, owned);
    const message = read(start);
    if (reader.pos !== end) throw new Fault("bytes are left over");
    return message;
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return refuse(bytes.subarray(start, end));
  } finally {
    if (owned) reader.forget();
  }
}

/** One value that stands by itself, as `packValue` makes it. Throws StructureError or ContentError. */
export function decodeValue(body: Buffer): unknown {
  if (body.length > MAX_VALUES) scan(body);
  try {
    const { bytes, view } = memory(body);
    reader.begin(bytes, view, 0, bytes.length, false);
    const value = reader.value();
    if (reader.pos !== bytes.length) throw new Fault("bytes are left over");
    return value;
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    scan(body);
    throw new ContentError(error.message);
  }
}

function read(start: number): Message {
  const items = reader.array();
  const kind = reader.count();
  if (items !== COUNTS[kind]) throw new Fault("another count of items");
  if (kind === Kind.notification) {
    const method = methodOf(reader.value());
    const meta = reader.map();
    within(start);
    return { kind, method, meta, params: reader.map() };
  }
  const id = reader.count();
  if (id === 0) throw new Fault("id 0");
  switch (kind) {
    case Kind.response: {
      const meta = reader.map();
      const error = reader.value();
      within(start);
      const result = reader.value();
      if (error !== null && (!isMap(error) || result !== null))
        throw new Fault("an error that is no map, or beside a result");
      return { kind, id, meta, error: error as WireMap | null, result };
    }
    case Kind.item: {
      const meta = reader.map();
      within(start);
      return { kind, id, meta, item: reader.value() };
    }
    case Kind.request: {
      const method = methodOf(reader.value());
      const meta = reader.map();
      within(start);
      return { kind, id, method, meta, params: reader.map() };
    }
    case Kind.cancel: {
      const reason = reader.value();
      if (reason !== null && !isText(reason, MAX_REASON)) throw new Fault("a reason that is too long, or no text");
      return { kind, id, reason: reason as string | null };
    }
    case Kind.credit: {
      const n = reader.count();
      if (n < 1 || n > MAX_CREDIT) throw new Fault("a credit out of range");
      return { kind, id, n };
    }
    default:
      within(start);
      return { kind: Kind.change, id, changes: reader.value() };
  }
}

function within(start: number): void {
  if (reader.pos - start > MAX_HEAD) throw new Fault("a head that is too long");
}

function methodOf(value: unknown): string {
  if (value === "" || !isText(value, MAX_METHOD)) throw new Fault("not a method");
  return value as string;
}

function isText(value: unknown, longest: number): boolean {
  return typeof value === "string" && value.length <= longest && Buffer.byteLength(value) <= longest;
}

function isMap(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** Say which rule a body breaks; a frame of an unknown kind need keep none but those on structure. */
function refuse(body: Buffer): Message {
  const spans = outline(body); // throws StructureError
  const parts = spans.map(([begin, end]) => part(body.subarray(begin, end)));
  const kind = parts[0] === undefined ? undefined : integer(parts[0]);
  if (kind === undefined || kind < 0) throw new EnvelopeError("the kind of a frame is a small integer");
  const count = COUNTS[Number(kind)];
  if (count === undefined) return UNKNOWN;
  const id = kind === Kind.notification ? undefined : idOf(parts[1]);
  const wrong = envelopeFault(Number(kind), parts, spans);
  if (wrong !== undefined) throw new EnvelopeError(wrong, id, Number(kind));
  throw new ContentError(parts.find((one) => one.fault !== undefined)?.fault ?? "a value", id, Number(kind));
}

/** One item of a frame's array: its first byte, and its value or what is wrong with that. */
type Part = { first: number; value?: unknown; fault?: string };

function part(body: Buffer): Part {
  const first = body[0] as number;
  try {
    return { first, value: decodeValue(body) };
  } catch (error) {
    return { first, fault: (error as Error).message };
  }
}

function integer({ first, value }: Part): number | bigint | undefined {
  const isInteger = first < 0x80 || first >= 0xe0 || (first >= 0xcc && first <= 0xd3);
  return isInteger ? (value as number | bigint) : undefined;
}

function idOf(one: Part | undefined): number {
  const id = one === undefined ? undefined : integer(one);
  if (typeof id !== "number" || id < 1 || id > MAX_ID)
    throw new EnvelopeError("a request id is an integer from 1 to 2^53-1");
  return id;
}

function envelopeFault(kind: number, parts: Part[], spans: [number, number][]): string | undefined {
  const count = COUNTS[kind] as number;
  if (parts.length !== count) return `a frame of kind ${kind} has ${count} items, this one ${parts.length}`;
  const [payload] = spans[count - 1] as [number, number];
  if (payload > MAX_HEAD && kind !== Kind.cancel && kind !== Kind.credit)
    return `the head is longer than ${MAX_HEAD} bytes`;
  const [, second, third, fourth, fifth] = parts as [Part, Part, Part, Part, Part];
  switch (kind) {
    case Kind.request:
      return notMethod(third) ?? noMap(fourth, "meta") ?? noMap(fifth, "params");
    case Kind.response:
      if (fourth.first === NIL || (beginsMap(fourth) && fifth.first === NIL)) return noMap(third, "meta");
      return "error is nil or a map, and result is nil beside an error";
    case Kind.notification:
      return notMethod(second) ?? noMap(third, "meta") ?? noMap(fourth, "params");
    case Kind.item:
      return noMap(third, "meta");
    case Kind.cancel:
      if (third.first === NIL || isText(third.value, MAX_REASON)) return undefined;
      return `a reason is nil or text of at most ${MAX_REASON} bytes`;
    case Kind.credit: {
      const n = integer(third);
      return n !== undefined && n >= 1 && n <= MAX_CREDIT ? undefined : "a credit is an integer from 1 to 2^31-1";
    }
    default:
      return undefined;
  }
}

function notMethod({ value }: Part): string | undefined {
  return value !== "" && isText(value, MAX_METHOD) ? undefined : `a method is text of 1 to ${MAX_METHOD} bytes`;
}

function noMap(one: Part, name: string): string | undefined {
  return one.first === NIL || beginsMap(one) ? undefined : `${name} is a map or nil`;
}

function beginsMap({ first }: Part): boolean {
  return (first & 0xf0) === 0x80 || first === 0xde || first === 0xdf;
}
