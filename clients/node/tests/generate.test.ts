// Types from a sidecar's schemas: good uses compile, bad ones do not; and schemas of the caller's own.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { generate } from "../src/generate/module.js";
import { typeOf } from "../src/generate/schema.js";
import { connect, type StandardSchema } from "../src/index.js";
import { FakeSidecar } from "../src/testing/index.js";
import { PACKAGE } from "./support/root.js";
import { failure } from "./support/scripted.js";
import { Sidecar } from "./support/sidecar.js";

const execute = promisify(execFile);
const FOLDER = resolve(PACKAGE, "out/pages/generated");
const CLI = resolve(PACKAGE, "dist/generate/cli.js");

test("types of schemas", () => {
  for (const [schema, type] of [
    [{}, "unknown"],
    [true, "unknown"],
    [false, "never"],
    [{ type: "integer" }, "number"],
    [{ type: ["string", "null"] }, "string | null"],
    [{ enum: ["a", 1, null, 'q"\u2028'] }, '"a" | 1 | null | "q\\"\\u2028"'],
    [{ const: "a" }, '"a"'],
    [{ type: "string", contentEncoding: "base64" }, "Uint8Array"],
    [{ type: "string", format: "date-time" }, "string | Date"],
    [{ type: "array", items: { type: "string" } }, "(string)[]"],
    [{ type: "array", prefixItems: [{ type: "string" }, {}] }, "[string, unknown]"],
    [{ type: "object" }, "Record<string, unknown>"],
    [{ type: "object", additionalProperties: { type: "number" } }, "Record<string, number>"],
    [{ type: "object", additionalProperties: false }, "Record<string, never>"],
    [{ anyOf: [{ type: "integer" }, { type: "number" }, { type: "null" }] }, "number | null"],
    [{ $defs: { "a/b": { type: "string" } }, $ref: "#/$defs/a~1b" }, "string"],
    [{ $ref: "http://elsewhere" }, "unknown"],
    [
      { type: "object", properties: { a: { type: "string" }, "b-c": {} }, required: ["a"] },
      '{ "a": string; "b-c"?: unknown | undefined }',
    ],
  ] as const) {
    assert.equal(typeOf(schema), type);
  }
  const itself = { type: "object", properties: { next: { $ref: "#" } } };
  assert.match(typeOf(itself), /unknown/);
});

const GOOD = `
import { connect } from "dspex";
import { typed } from "./served.js";
await using client = await connect();
const served = typed(client);
const counted: Record<string, number> = await served.call("count_words", { text: "three short words" });
for await (const sentence of served.stream("sentences", { text: "One. Two." })) console.log(sentence.length);
await using session = await client.createSession();
const notes: number = await typed(session).call("remember", { note: "a" }, { timeoutMs: 10_000 });
const { programs } = (await served.request("list_programs")).result as { programs: unknown[] };
const digest = served.program("digest");
type Names = Awaited<ReturnType<typeof digest>>["names"];
const names: Names = ["Ada"];
export const later = () => served.stream("execute_program", { program: "digest", inputs: { text: "a" } });
console.log(counted.words, notes, programs.length, names);
`;
const BAD = [
  'served.call("count_words", { text: 1 })',
  'served.call("count_words", {})',
  'served.call("count_words")',
  'served.call("count_words", { text: "a", more: 1 })',
  'served.call("no_such_method", {})',
  'served.call("sentences", { text: "a" })',
  'served.stream("count_words", { text: "a" })',
  'served.program("no_such_program")',
  "digest({ text: 1 })",
  "digest({})",
  'digest({ text: "a", more: 1 })',
  "const text: string = await served.call('remember', { note: 'a' })",
  "const names: number = (await digest({ text: 'a' })).names",
];

describe("dspex generate", () => {
  let sidecar: Sidecar;
  before(async () => {
    sidecar = await Sidecar.start("examples/demo", "app:app");
    await mkdir(FOLDER, { recursive: true });
    await execute(process.execPath, [CLI, "generate", "--socket", sidecar.path, "--out", `${FOLDER}/served.ts`]);
  });
  after(() => sidecar.stop());

  test("good uses compile and run, and each bad one is an error", async () => {
    const bad = BAD.map((use) => `async () => {\n  // @ts-expect-error\n  ${use};\n};\n`).join("");
    await writeFile(`${FOLDER}/page.ts`, `${GOOD}\n`);
    await writeFile(`${FOLDER}/bad.ts`, `${GOOD}\nexport const bad = [\n${bad.replaceAll("};\n", "},\n")}];\n`);
    const compilerOptions = { noEmit: false, rootDir: ".", outDir: ".", noUnusedLocals: false };
    const files = ["page.ts", "bad.ts", "served.ts"];
    const config = { extends: "../../../tsconfig.json", compilerOptions, files, include: [] };
    await writeFile(`${FOLDER}/tsconfig.json`, JSON.stringify(config));
    const tsc = resolve(PACKAGE, "node_modules/.bin/tsc");
    await execute(tsc, ["-p", FOLDER]).catch((error) => assert.fail(error.stdout));
    const env = { ...process.env, DSPEX_SOCKET: sidecar.path };
    const { stdout } = await execute(process.execPath, [`${FOLDER}/page.js`], { env, timeout: 20_000 });
    assert.equal(stdout, "4\n4\n3 1 1 [ 'Ada' ]\n");
  });

  test("it prints the same, and says what is wrong", async () => {
    const env = { ...process.env, DSPEX_SOCKET: sidecar.path };
    const { stdout } = await execute(process.execPath, [CLI, "generate"], { env });
    assert.equal(stdout, await readFile(`${FOLDER}/served.ts`, "utf8"));
    for (const [args, code, said] of [
      [["generate", "--socket", "/no/such"], 1, /no sidecar at \/no\/such/],
      [["generate", "--socket", sidecar.path, "--out", "/no/such/file"], 1, /ENOENT/],
      [["degenerate"], 2, /usage: dspex generate/],
      [["generate", "--what"], 2, /Unknown option '--what'/],
    ] as const) {
      const failed = await execute(process.execPath, [CLI, ...args]).then(
        () => assert.fail("no error"),
        (error) => error,
      );
      assert.equal(failed.code, code);
      assert.match(failed.stderr, said);
    }
    assert.match((await execute(process.execPath, [CLI, "--help"])).stdout, /^usage/);
  });
});

test("a sidecar whose workers have told nothing gives no module", async () => {
  await using fake = await FakeSidecar.start({ methods: { "sidecar.methods": () => ({ methods: [] }) } });
  await using client = await connect({ socket: fake.path });
  await failure(generate(client), "no_workers");
});

/** As a library that keeps to Standard Schema would make it. */
function words(asynchronous: boolean): StandardSchema<{ words: bigint }> {
  const validate = (value: unknown) => {
    const { words } = value as { words: unknown };
    if (typeof words === "number") return { value: { words: BigInt(words) } };
    return { issues: [{ message: "is no number", path: ["words", { key: 0 }] }, { message: "and more" }] };
  };
  const later = async (value: unknown) => validate(value);
  return { "~standard": { version: 1, vendor: "test", validate: asynchronous ? later : validate } };
}

test("schemas of the caller's own", async () => {
  await using fake = await FakeSidecar.start({
    methods: { good: () => ({ words: 3 }), bad: () => ({ words: "3" }) },
    programs: { p: ({ n }) => ({ words: n }) },
  });
  await using client = await connect({ socket: fake.path });
  await using session = await client.createSession();
  for (const schema of [words(false), words(true)]) {
    assert.equal((await client.callAs(schema, "good")).words satisfies bigint, 3n);
    assert.equal((await session.callAs(schema, "good", {}, { timeoutMs: 10_000 })).words, 3n);
    const { message, details } = await failure(client.callAs(schema, "bad"), "invalid_result");
    assert.match(message, /what bad returned is not what was expected: words\.0: is no number; and more/);
    assert.deepEqual(details.errors, [
      { path: "words.0", message: "is no number" },
      { path: "", message: "and more" },
    ]);
    const program = session.programAs<{ n: unknown }, { words: bigint }>(schema, "p");
    assert.equal((await program({ n: 4 })).words, 4n);
    await failure(program({ n: "4" }), "invalid_result");
  }
});
