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
  return checked(to, "params", () => {
    head(to, 0x95, 0, id);
    to.payload(method, "method");
    to.payload(meta, "meta");
    to.payload(params, "params");
  });
}

export function encodeResponse(to: Writer, id: number, meta: object | null, result: unknown): number {
  return checked(to, "result", () => {
    head(to, 0x95, 1, id);
    to.payload(meta, "meta");
    to.byte(0xc0);
    to.payload(result, "result");
  });
}

/** The response of a call that failed; `error` as `DspexError.toWire` makes it. */
export function encodeError(to: Writer, id: number, meta: object | null, error: WireMap): number {
  return checked(to, "error", () => {
    head(to, 0x95, 1, id);
    to.payload(meta, "meta");
    to.payload(error, "error");
    to.byte(0xc0);
  });
}

export function encodeNotification(to: Writer, method: string, params: object | null): number {
  return checked(to, "params", () => {
    to.byte(0x94);
    to.byte(2);
    to.payload(method, "method");
    to.byte(0xc0);
    to.payload(params, "params");
  });
}

export function encodeItem(to: Writer, id: number, item: unknown): number {
  return checked(to, "item", () => {
    head(to, 0x94, 3, id);
    to.byte(0xc0);
    to.payload(item, "item");
  });
}

/** A reason that is too long is cut. */
export function encodeCancel(to: Writer, id: number, reason: string | null = null): number {
  return to.frame(() => {
    head(to, 0x93, 4, id);
    if (reason === null) to.byte(0xc0);
    else to.text(cutTo(reason.toWellFormed(), MAX_REASON));
  });
}

export function encodeCredit(to: Writer, id: number, n: number): number {
  return to.frame(() => {
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

/** Fewer bytes than that cannot hold too many values. */
function checked(to: Writer, root: string, body: () => void): number {
  const before = to.length;
  const length = to.frame(body);
  if (length > MAX_VALUES) {
    try {
      scan(to.written(before + 4));
    } catch (error) {
      to.cut(before);
      throw unpackable(root, (error as Error).message);
    }
  }
  return length;
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
