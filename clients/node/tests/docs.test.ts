// The blocks of docs/clients/node.md, and the one of the README, run as they stand there.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { Caller } from "../src/caller.js";
import { Client } from "../src/index.js";
import { Session } from "../src/session.js";
import { Stream } from "../src/stream.js";
import { type FakeCall, type FakeMethod, FakeSidecar } from "../src/testing/index.js";
import { PACKAGE, ROOT } from "./support/root.js";

const execute = promisify(execFile);

function untilAborted(_: unknown, { signal }: FakeCall): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

const methods: Record<string, FakeMethod> = {
  echo: ({ value }) => value,
  "sidecar.stats": () => ({ active_sessions: 0 }),
  slow: untilAborted,
  order: ({ item }, { ask }) => ask("price", { item }),
  remember: ({ key, value }, { state }) => {
    state[key] = value;
    return Object.keys(state).length;
  },
  async *count({ n }) {
    for (let i = 0; i < n; i++) yield i;
    return `${n} in all`;
  },
  async *execute_program() {
    yield { type: "delta", field: "answer", text: "a process" };
    return { answer: "a process beside another" };
  },
};

/** Compile the blocks of a page with the package as it is published, run them, and return what they printed. */
async function run(name: string, page: string): Promise<string[]> {
  const blocks = [...page.matchAll(/^```ts\n(.*?)^```$/gms)].map((match) => match[1]);
  assert(blocks.length > 0);
  const folder = resolve(PACKAGE, "out/pages", name);
  await mkdir(folder, { recursive: true });
  await writeFile(resolve(folder, "page.ts"), blocks.join("\n"));
  const compilerOptions = { noEmit: false, rootDir: ".", outDir: "." };
  const config = { extends: "../../../tsconfig.json", compilerOptions, files: ["page.ts"], include: [] };
  await writeFile(resolve(folder, "tsconfig.json"), JSON.stringify(config));
  await execute(resolve(PACKAGE, "node_modules/.bin/tsc"), ["-p", folder]).catch((error) => assert.fail(error.stdout));
  await using fake = await FakeSidecar.start({ methods });
  const env = { ...process.env, DSPEX_SOCKET: fake.path };
  const { stdout } = await execute(process.execPath, [resolve(folder, "page.js")], { env, timeout: 20_000 });
  return stdout.split("\n");
}

test("docs/clients/node.md", async () => {
  const printed = await run("guide", await readFile(resolve(ROOT, "docs/clients/node.md"), "utf8"));
  assert.deepEqual(printed, [
    "1",
    "{ active_sessions: 0 }",
    "1 fake undefined",
    "a process beside another",
    "a processa process beside another",
    "undefined",
    "{ seen: 1 }",
    "0",
    "1",
    "2",
    "3 in all",
    "deadline_exceeded false { ended_by: 'client' }",
    "cancelled",
    "3",
    "a process beside another",
    "disconnected: by this client",
    "3",
    "{ answer: 'Is it? Yes.' }",
    "[ 'add', 'execute_program' ]",
    "{}",
    "",
  ]);
});

test("docs/migration.md", async () => {
  const printed = await run("migration", await readFile(resolve(ROOT, "docs/migration.md"), "utf8"));
  assert.deepEqual(printed, ["{ answer: 'a process beside another' }", ""]);
});

test("the reference has all that is public", async () => {
  const page = await readFile(resolve(ROOT, "docs/clients/node.md"), "utf8");
  const reference = page.slice(page.indexOf("## Reference"));
  for (const { prototype } of [Client, Caller, Session, Stream, FakeSidecar]) {
    const names = Object.getOwnPropertyNames(prototype).filter((name) => name !== "constructor");
    assert(names.length > 0);
    for (const name of names)
      assert.match(reference, new RegExp(`\\b${name}\\b`), `${prototype.constructor.name}.${name}`);
  }
});

test("the README's block", async () => {
  const printed = await run("readme", await readFile(resolve(ROOT, "README.md"), "utf8"));
  assert.deepEqual(printed, ["hello", "1", "0", "1", "2", ""]);
});
