// The decoder against all that can arrive, and the encoder against all that users give it.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Packr, Unpackr } from "msgpackr";
import { DspexError, Timestamp } from "../src/index.js";
import {
  decode,
  decodeFrom,
  decodeValue,
  encodeCancel,
  encodeRequest,
  encodeResponse,
  Kind,
  MAX_VALUES,
  type Message,
  memory,
  packValue,
  StructureError,
  scan,
  Violation,
  Writer,
} from "../src/wire/index.js";
import { split } from "./support/split.js";
import { expand, load } from "./support/vectors.js";

const long = process.env.DSPEX_LONG === "1";
const options = { numRuns: long ? 20_000 : 500 };

const scalar = fc.oneof(
  fc.constant(null),
  fc.boolean(),
  fc.maxSafeInteger(),
  fc.double(),
  fc.bigInt(-(2n ** 63n), -(2n ** 53n)),
  fc.bigInt(2n ** 53n, 2n ** 64n - 1n),
  fc.string({ unit: "grapheme", maxLength: 40 }),
  fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  fc.date({ noInvalidDate: true }),
);
const value = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 5 },
    scalar,
    fc.array(tie("value"), { maxLength: 20 }),
    fc.dictionary(fc.oneof(fc.string(), fc.constantFrom("__proto__", "constructor", "1", "0")), tie("value"), {
      maxKeys: 20,
      noNullPrototype: true,
    }),
  ),
})).value;

test("values come back as they went", () => {
  fc.assert(
    fc.property(value, (given) => {
      const packed = packValue(given);
      scan(packed);
      assert.deepStrictEqual(decodeValue(packed), given);
    }),
    options,
  );
});

test("another implementation reads what this one writes, and the other way round", () => {
  const settings = { useRecords: false, mapsAsObjects: true, int64AsType: "number" } as const;
  const [packr, unpackr] = [new Packr(settings), new Unpackr(settings)];
  const plain = fc.jsonValue({ maxDepth: 6 }).filter((given) => !JSON.stringify(given).includes("__proto__"));
  fc.assert(
    fc.property(plain, (given) => {
      const expected: unknown = JSON.parse(JSON.stringify(given)); // without -0, which the other one does not keep
      assert.deepStrictEqual(unpackr.unpack(packValue(expected)), expected);
      assert.deepStrictEqual(decodeValue(packr.pack(expected)), expected);
    }),
    options,
  );
});

/** What a body is taken for. */
function verdict(body: Buffer): string {
  try {
    return `${decode(body).kind}`;
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    return error.name;
  }
}

const bodies = ["frames", "values", "content", "envelopes"].flatMap((name) =>
  load(name)
    .filter(({ body }) => typeof body === "string")
    .map(({ body }) => expand(body)),
);

test("no bytes are more than a violation, and the scan finds broken structure where decoding does", () => {
  const mutated = fc
    .tuple(fc.constantFrom(...bodies), fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }))
    .map(([body, changes]) => {
      const copy = Buffer.from(body);
      for (const [at, byte] of changes) copy[at % copy.length] = byte;
      return copy;
    });
  const random = fc.uint8Array({ minLength: 1, maxLength: 200 }).map((bytes) => Buffer.from(bytes));
  fc.assert(
    fc.property(fc.oneof(mutated, random), (body) => {
      const found = verdict(body);
      let sound = true;
      try {
        scan(body);
      } catch (error) {
        assert(error instanceof StructureError);
        sound = false;
      }
      const array = (body[0] as number) >> 4 === 9 || body[0] === 0xdc || body[0] === 0xdd;
      assert.equal(found === "StructureError", !sound || !array);
    }),
    { numRuns: 10 * options.numRuns },
  );
});

test("a frame inside of other memory is the same frame", () => {
  for (const body of bodies) {
    const around = Buffer.concat([Buffer.from([0xff, 0x93]), body, Buffer.from([0xff, 0x01, 0xa1, 0x61])]);
    let found: string;
    try {
      found = `${decodeFrom(memory(around), 2, 2 + body.length, false).kind}`;
    } catch (error) {
      found = (error as Error).name;
    }
    assert.equal(found, verdict(body), body.toString("hex"));
  }
});

test("every cut of a frame is broken structure", () => {
  for (const body of bodies) {
    if (verdict(body) === "StructureError") continue;
    for (let end = 1; end < body.length; end++) assert.equal(verdict(body.subarray(0, end)), "StructureError");
  }
});

test("frames are found in whatever portions they arrive", () => {
  const frame = fc
    .oneof(fc.nat({ max: 300 }), fc.constantFrom(65_536, 70_000))
    .map((length) => Buffer.alloc(length + 1, 0x90));
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 8 }), fc.integer({ min: 1, max: 80_000 }), (frames, portion) => {
      const stream = Buffer.concat(
        frames.flatMap((body) => {
          const length = Buffer.alloc(4);
          length.writeUInt32BE(body.length);
          return [length, body];
        }),
      );
      const expected = frames.map(({ length }) =>
        length > 65_536 ? { too_long: { length, kind: null, id: null } } : { body: "90".repeat(length) },
      );
      assert.deepStrictEqual(split(stream, 65_536, portion), { events: expected, idle: true });
    }),
    { numRuns: 100 },
  );
});

const BOMBS: [name: string, body: Buffer][] = [
  ["2 MB of nesting", Buffer.alloc(2_000_000, 0x91)],
  ["nested maps", Buffer.alloc(2_000_000, 0x81)],
  ["4 GiB declared", Buffer.from("ddffffffff", "hex")],
  ["4 GiB of bytes declared", Buffer.from("950101c0c0c6ffffffff", "hex")],
  ["4 GiB of text declared", Buffer.from("950101c0c0dbffffffff", "hex")],
  ["a chain of long arrays", Buffer.alloc(15_000, Buffer.from("dcffff", "hex"))],
  ["a map of 2^32-1", Buffer.from("950101c0c0dfffffffff", "hex")],
  ["too many values", Buffer.concat([Buffer.from("950101c0c0dd00400000", "hex"), Buffer.alloc(0x400000, 0xc0)])],
  [
    "62 arrays that each declare all that is left",
    Buffer.concat([
      Buffer.from("950101c0c0", "hex"),
      ...Array.from({ length: 62 }, (_, n) =>
        Buffer.from(`dd${(4_000_000 - 5 * n).toString(16).padStart(8, "0")}`, "hex"),
      ),
      Buffer.alloc(4_000_000, 0xc0),
    ]),
  ],
];

test("bombs cost neither time nor memory", () => {
  for (const [name, body] of BOMBS) {
    const before = process.memoryUsage.rss();
    const began = process.cpuUsage(); // a busy machine takes its time, too
    assert.throws(() => decode(body), StructureError, name);
    const { user, system } = process.cpuUsage(began);
    assert(user + system < 2e6, `${name}: ${user + system} µs`);
    assert(process.memoryUsage.rss() - before < 512 << 20, name);
  }
});

test("bytes of a body that is not used again are not copied, small ones are", () => {
  const large = Buffer.alloc(100_000, 7);
  const encode = (result: unknown): Buffer => {
    const writer = new Writer();
    encodeResponse(writer, 1, null, result);
    return writer.take().subarray(4);
  };
  const body = encode(large);
  const whole = (decode(body, true) as Message & { result: Buffer }).result;
  assert.equal(whole.buffer, body.buffer);
  assert.notEqual((decode(body, false) as Message & { result: Buffer }).result.buffer, body.buffer);
  const mixed = encode([large, Buffer.from("small")]);
  const [, small] = (decode(mixed, true) as Message & { result: [Buffer, Buffer] }).result;
  assert.notEqual(small.buffer, mixed.buffer);
  assert.deepEqual(small, Buffer.from("small"));
});

class Point {
  x = 1;
  y: number | undefined = undefined;
}

test("what JavaScript has more than MessagePack", () => {
  const cases: [given: unknown, expected: unknown][] = [
    [
      { a: undefined, b: [undefined], c: 1 },
      { b: [null], c: 1 },
    ],
    [new Map<string, unknown>([["a", new Map()]]), { a: {} }],
    [new Point(), { x: 1 }],
    [new URL("http://a.b/c"), "http://a.b/c"],
    [new Float32Array([0.5, 2]), [0.5, 2]],
    [new Uint8Array([1, 2]), Buffer.from([1, 2])],
    [new Uint8Array([1, 2]).buffer, Buffer.from([1, 2])],
    [5n, 5],
    [1e20, 1e20],
    [2 ** 53, 2 ** 53],
    [Object.create(null), {}],
    [new Date(-1), new Date(-1)],
    [new Date(8.64e15), new Date(8.64e15)], // the last there is
    [new Date(-8.64e15), new Date(-8.64e15)],
    [new Timestamp(8_640_000_000_000n, 1_000_000), new Timestamp(8_640_000_000_000n, 1_000_000)],
    [new Timestamp(9_000_000_000_000n, 5), new Timestamp(9_000_000_000_000n, 5)],
    [new Timestamp(-9_000_000_000_000n), new Timestamp(-9_000_000_000_000n)],
    [new Timestamp(1, 1_999_999), new Date(1001)],
    [Object.assign([1, 2], { more: 3 }), [1, 2]],
  ];
  for (const [given, expected] of cases) assert.deepStrictEqual(decodeValue(packValue(given)), expected);
  assert.throws(() => new Timestamp(0, 1e9), RangeError);
  assert.throws(() => new Timestamp(2n ** 63n), RangeError);
});

function nested(depth: number): unknown {
  return depth === 0 ? "bottom" : [nested(depth - 1)];
}

test("what cannot be packed is told with its place", () => {
  const itself: unknown[] = [];
  itself.push(itself);
  const cases: [given: unknown, path: string, reason: RegExp][] = [
    [{ a: [1, { b: new Set() }] }, "value.a[1].b", /Set cannot be packed; use an array/],
    [{ "a b": () => 1 }, 'value["a b"]', /function cannot be packed/],
    [[Symbol("s")], "value[0]", /symbol/],
    [{ p: Promise.resolve() }, "value.p", /await it/],
    [{ e: /x/ }, "value.e", /RegExp/],
    ["\ud800", "value", /lone surrogate/],
    [{ "\ud800": 1 }, 'value["\\ud800"]', /lone surrogate/],
    [[2n ** 64n], "value[0]", /outside/],
    [-(2n ** 63n) - 1n, "value", /outside/],
    [new Date(Number.NaN), "value", /invalid Date/],
    [new Map([[1, 2]]), "value", /keys are text/],
    [itself, `value${"[0]".repeat(63)}`, /hold themselves/],
    [nested(64), `value${"[0]".repeat(63)}`, /nested deeper/],
  ];
  for (const [given, path, reason] of cases) {
    assert.throws(
      () => packValue(given),
      (error: unknown) => {
        assert(error instanceof DspexError);
        assert.equal(error.code, "not_serializable");
        assert.equal(error.details.path, path);
        assert.match(error.message, reason);
        return true;
      },
    );
  }
  assert.deepEqual(decodeValue(packValue(nested(63))), nested(63));
});

test("what fails in the middle leaves nothing behind", () => {
  const writer = new Writer();
  encodeCancel(writer, 1);
  const before = Buffer.from(writer.written(0));
  assert.throws(() => encodeRequest(writer, 2, "m", null, { a: "x".repeat(200_000), b: new Set() }));
  assert.throws(() => encodeRequest(writer, 2, "\ud800", null, {}));
  assert.throws(() => encodeRequest(writer, 2, "m", null, { a: new Array(MAX_VALUES).fill(null) }), /values/);
  assert.deepEqual(writer.take(), before);
});

test("a reason that is too long is cut between two letters", () => {
  const writer = new Writer();
  encodeCancel(writer, 1, `${"é".repeat(127)}x€`);
  const message = decode(writer.take().subarray(4));
  assert.deepEqual(message, { kind: Kind.cancel, id: 1, reason: `${"é".repeat(127)}x` });
});

test("texts of all lengths around the headers' limits", () => {
  for (const length of [0, 1, 23, 24, 31, 32, 33, 127, 255, 256, 65_535, 65_536, 200_000]) {
    for (const letter of ["x", "é", "€"]) {
      const text = letter.repeat(length);
      assert.equal(decodeValue(packValue(text)), text);
      assert.deepEqual(decodeValue(packValue({ [text]: 1 })), { [text]: 1 });
    }
  }
});
