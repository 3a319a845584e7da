// The known keys of a request's meta, and what they may hold. For receivers of requests.

import { decodeValue } from "./decode.js";
import { MAX_CREDIT, MAX_IDEMPOTENCY_KEY, MAX_SESSION_ID } from "./limits.js";
import type { WireMap } from "./messages.js";
import { outline, skipValue } from "./scan.js";
import { ContentError } from "./violations.js";

const MAX_TRACE = 128;

/** Whether `value`, whose first byte is given, is right. That byte tells 1 from 1.0, which JavaScript does not. */
type Check = (value: unknown, first: number) => boolean;

const isText: Check = (value) => typeof value === "string";
const isCount: Check = (value, first) => isInteger(first) && (value as number | bigint) >= 0;

const KNOWN = new Map<string, Check>([
  ["session", isSessionId],
  ["session_token", isText],
  ["pool", isText],
  ["timeout_ms", isCount],
  ["idempotency_key", (value) => value !== "" && isTextOf(value, MAX_IDEMPOTENCY_KEY)],
  ["detach", (value) => typeof value === "boolean"],
  ["retry", (value) => value === "safe"],
  ["stream", (value, first) => isInteger(first) && (value as number) > 0 && (value as number) <= MAX_CREDIT],
  ["traceparent", (value) => isTextOf(value, MAX_TRACE)],
  ["app", (_, first) => (first & 0xf0) === 0x80 || first === 0xde || first === 0xdf],
  ["parent", isCount],
]);

function isTextOf(value: unknown, longest: number): boolean {
  return typeof value === "string" && Buffer.byteLength(value) <= longest;
}

/** Text of 1 to 128 bytes without control characters. */
export function isSessionId(value: unknown): value is string {
  if (typeof value !== "string" || value === "" || Buffer.byteLength(value) > MAX_SESSION_ID) return false;
  for (let at = 0; at < value.length; at++) {
    const code = value.charCodeAt(at);
    if (code < 0x20 || code === 0x7f) return false;
  }
  return true;
}

/** Throws ContentError (`invalid_frame` for the request's id) that names the key whose value is wrong. `body`: a sound request. */
export function checkRequestMeta(body: Buffer, request: { id: number; meta: WireMap }): void {
  const [begin, end] = outline(body)[3] as [number, number];
  const count = Object.keys(request.meta).length;
  let pos = end - begin === 1 ? end : firstKey(body, begin);
  for (let n = 0; n < count; n++) {
    const at = skipValue(body, pos);
    const key = decodeValue(body.subarray(pos, at)) as string;
    const check = KNOWN.get(key);
    if (check !== undefined && !check(request.meta[key], body[at] as number)) {
      throw new ContentError(`meta.${key} has a value of a wrong type or out of range`, request.id, 0);
    }
    pos = skipValue(body, at);
  }
}

function firstKey(body: Buffer, map: number): number {
  return map + (body[map] === 0xde ? 3 : body[map] === 0xdf ? 5 : 1);
}

function isInteger(first: number): boolean {
  return first < 0x80 || first >= 0xe0 || (first >= 0xcc && first <= 0xd3);
}
