// Reads testdata/wire (its README tells the format).

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { Timestamp, type WireMap } from "../../src/wire/index.js";
import { ROOT } from "./root.js";

export type Bytes = string | (string | { repeat: [hex: string, times: number] })[];

export type Vector = {
  name: string;
  body: Bytes;
  verdict: string;
  envelope?: WireMap;
  payload?: Bytes;
  value?: unknown;
};

export type Framing = {
  name: string;
  stream: Bytes;
  max_frame: number;
  events: ({ body: Bytes } | { too_long: WireMap } | { broken: string })[];
  incomplete: boolean;
};

export function load<T = Vector>(name: string): T[] {
  return JSON.parse(readFileSync(resolve(ROOT, `testdata/wire/${name}.json`), "utf8")).vectors;
}

export function expand(data: Bytes): Buffer {
  if (typeof data === "string") return Buffer.from(data, "hex");
  return Buffer.concat(
    data.map((part) => {
      if (typeof part === "string") return Buffer.from(part, "hex");
      const [hex, times] = part.repeat;
      return Buffer.alloc((times * hex.length) / 2, Buffer.from(hex, "hex"));
    }),
  );
}

/** The value that a vector's JSON stands for, as this client decodes it. */
export function untag(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(untag);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value);
  const [tag, held] = entries[0] ?? [];
  if (entries.length === 1) {
    switch (tag) {
      case "$bin":
        return Buffer.from(held, "hex");
      case "$int":
        return BigInt(held);
      case "$float":
        return Number(held.replace("inf", "Infinity"));
      case "$timestamp":
        return instantOf(held);
    }
  }
  return Object.fromEntries(entries.map(([key, item]) => [key, untag(item)]));
}

function instantOf([seconds, nanoseconds]: [number, number]): Date | Timestamp {
  const date = new Date(seconds * 1000 + Math.floor(nanoseconds / 1e6));
  return Number.isNaN(date.getTime()) ? new Timestamp(seconds, nanoseconds) : date;
}
