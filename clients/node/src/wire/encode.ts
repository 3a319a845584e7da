// Messages to whole frames, length included, behind each other in a writer. All of these throw NotSerializable, and
// then have written nothing; they return the length of the body.

import { MAX_REASON, MAX_VALUES } from "./limits.js";
import type { WireMap } from "./messages.js";
import { scan } from "./scan.js";
import { unpackable, Writer } from "./writer.js";

export function encodeRequest(
  to: Writer,
  id: number,
  method: string,
  meta: object | null,
  params: object | null,
): number {
  const before = to.begin(); // without `framed`, whose closure would be one more object for each call
  try {
    head(to, 0x95, 0, id);
    to.payload(method, "method");
    to.payload(meta, "meta");
    to.payload(params, "params");
    return ended(to, before, "params");
  } catch (error) {
    to.cut(before);
    throw error;
  }
}

export function encodeResponse(to: Writer, id: number, meta: object | null, result: unknown): number {
  return framed(to, "result", () => {
    head(to, 0x95, 1, id);
    to.payload(meta, "meta");
    to.byte(0xc0);
    to.payload(result, "result");
  });
}

/** The response of a call that failed; `error` as `DspexError.toWire` makes it. */
export function encodeError(to: Writer, id: number, meta: object | null, error: WireMap): number {
  return framed(to, "error", () => {
    head(to, 0x95, 1, id);
    to.payload(meta, "meta");
    to.payload(error, "error");
    to.byte(0xc0);
  });
}

export function encodeNotification(to: Writer, method: string, params: object | null): number {
  return framed(to, "params", () => {
    to.byte(0x94);
    to.byte(2);
    to.payload(method, "method");
    to.byte(0xc0);
    to.payload(params, "params");
  });
}

export function encodeItem(to: Writer, id: number, item: unknown): number {
  return framed(to, "item", () => {
    head(to, 0x94, 3, id);
    to.byte(0xc0);
    to.payload(item, "item");
  });
}

/** A reason that is too long is cut. */
export function encodeCancel(to: Writer, id: number, reason: string | null = null): number {
  return framed(to, "reason", () => {
    head(to, 0x93, 4, id);
    if (reason === null) to.byte(0xc0);
    else to.text(cutTo(reason.toWellFormed(), MAX_REASON));
  });
}

export function encodeCredit(to: Writer, id: number, n: number): number {
  return framed(to, "n", () => {
    head(to, 0x93, 5, id);
    to.count(n);
  });
}

/** The MessagePack of one value. Throws NotSerializable, whose `details.path` leads from `root` to what cannot be packed. */
export function packValue(value: unknown, root = "value"): Buffer {
  const writer = new Writer();
  writer.payload(value, root);
  return writer.take();
}

function head(to: Writer, array: number, kind: number, id: number): void {
  to.byte(array);
  to.byte(kind);
  to.count(id);
}

function framed(to: Writer, root: string, body: () => void): number {
  const before = to.begin();
  try {
    body();
    return ended(to, before, root);
  } catch (error) {
    to.cut(before);
    throw error;
  }
}

function ended(to: Writer, before: number, root: string): number {
  const length = to.end(before);
  if (length > MAX_VALUES) checkCount(to.written(before + 4), root); // fewer bytes cannot hold too many values
  return length;
}

function checkCount(body: Buffer, root: string): void {
  try {
    scan(body);
  } catch (error) {
    throw unpackable(root, (error as Error).message);
  }
}

function cutTo(text: string, bytes: number): string {
  const whole = Buffer.from(text);
  return whole.length <= bytes
    ? text
    : whole
        .subarray(0, bytes)
        .toString()
        .replace(/\ufffd+$/, "");
}
