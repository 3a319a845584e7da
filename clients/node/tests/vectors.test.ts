// The vectors that all implementations of the protocol run.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  ContentError,
  checkRequestMeta,
  decode,
  decodeValue,
  EnvelopeError,
  Kind,
  type Message,
  packValue,
  StructureError,
  type WireMap,
} from "../src/wire/index.js";
import { split, splitInPlace } from "./support/split.js";
import { expand, type Framing, load, untag, type Vector } from "./support/vectors.js";

type Verdict = { verdict: string; id?: number | undefined; message?: Message };

function judge(body: Buffer, owned: boolean): Verdict {
  try {
    const message = decode(body, owned);
    if (message.kind === Kind.request) checkRequestMeta(body, message);
    return { verdict: message.kind === Kind.unknown ? "unknown_kind" : "ok", message };
  } catch (error) {
    if (error instanceof StructureError) return { verdict: "structure" };
    if (error instanceof EnvelopeError) return { verdict: "envelope", id: error.id };
    if (error instanceof ContentError) return { verdict: "content", id: error.id };
    throw error;
  }
}

function checkMessage(vector: Vector, message: Message): void {
  const fields = message as unknown as WireMap;
  for (const [name, expected] of Object.entries(vector.envelope ?? {})) {
    assert.deepStrictEqual(fields[name], name === "meta" && expected === null ? {} : untag(expected));
  }
  const payload = fields[["params", "result", "params", "item", "reason", "n", "changes"][message.kind] as string];
  const params = message.kind === Kind.request || message.kind === Kind.notification;
  if ("value" in vector) {
    const expected = untag(vector.value);
    assert.deepStrictEqual(payload, expected === null && params ? {} : expected);
  }
  if (vector.payload !== undefined && !params) {
    assert.deepStrictEqual(decodeValue(expand(vector.payload)), payload);
    assert.deepStrictEqual(decodeValue(packValue(payload)), payload);
  }
}

for (const file of ["frames", "values", "structure", "envelopes", "content", "meta"]) {
  test(`vectors: ${file}`, () => {
    const vectors = load(file);
    assert(vectors.length > 0);
    for (const vector of vectors) {
      const body = expand(vector.body);
      for (const owned of [false, true]) {
        const found = judge(body, owned);
        assert.equal(found.verdict, vector.verdict, vector.name);
        if (vector.verdict === "envelope" || vector.verdict === "content") {
          assert.equal(found.id ?? null, vector.envelope?.id, vector.name);
        }
        if (vector.verdict === "ok") checkMessage(vector, found.message as Message);
      }
    }
  });
}

describe("vectors: framing", () => {
  for (const vector of load<Framing>("framing")) {
    test(vector.name, () => {
      const stream = expand(vector.stream);
      const expected = vector.events.map((event) =>
        "body" in event ? { body: expand(event.body).toString("hex") } : event,
      );
      for (const portion of [1, 3, 4096, stream.length || 1]) {
        const { events, idle } = split(stream, vector.max_frame, portion);
        assert.deepStrictEqual(events, expected);
        assert.equal(idle, !vector.incomplete);
      }
      assert.deepStrictEqual(splitInPlace(stream, vector.max_frame).events, expected);
    });
  }
});
