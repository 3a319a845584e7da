// The examples in Node, as they lie in examples/, before a real sidecar.

import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { type LM, named, startLM } from "./support/lm.js";
import { PACKAGE, ROOT } from "./support/root.js";
import { Sidecar } from "./support/sidecar.js";

const execute = promisify(execFile);
let lm: LM;
let sidecar: Sidecar;

before(async () => {
  const values = { answer: "a process beside another", names: ["Ada"], places: ["London"], explanation: ["so"] };
  lm = await startLM((prompt) => agentAnswer(prompt) ?? named(values)(prompt));
  const model = `[models.local]\nmodel = "openai/m"\napi_base = "${lm.base}"\napi_key = "env:LM_KEY"\nadapter = "json"\ndefault = true\n`;
  sidecar = await Sidecar.start("examples/demo", "app:app", model);
});
after(async () => {
  lm.close();
  await sidecar.stop();
});

function agentAnswer(prompt: string): Record<string, unknown> | undefined {
  const told = /\[\[ ## observation_0 ## \]\]\n(.*?)\n\n/s.exec(prompt)?.[1];
  if (!prompt.includes("next_tool_name")) return told === undefined ? undefined : { reasoning: "so", answer: told };
  if (told !== undefined) return { next_thought: "done", next_tool_name: "finish", next_tool_args: {} };
  const item = /does (\w+) cost/.exec(prompt)?.[1];
  return { next_thought: "look", next_tool_name: "price", next_tool_args: { item } };
}

/** The example's file, where its imports are found. */
async function placed(name: string): Promise<string> {
  const folder = resolve(PACKAGE, "out/examples");
  await mkdir(folder, { recursive: true });
  const to = resolve(folder, name.replace("/", "-"));
  await copyFile(resolve(ROOT, "examples", name), to);
  return to;
}

const environment = () => ({ ...process.env, DSPEX_SOCKET: sidecar.path, PORT: "0" });

/** Run a server of the examples while `use` has its address. */
async function serving(name: string, use: (address: string) => Promise<void>): Promise<void> {
  const child: ChildProcess = spawn(process.execPath, [await placed(name)], {
    env: environment(),
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  try {
    assert(child.stdout);
    const [address] = await Promise.race([
      once(createInterface(child.stdout), "line"),
      exited.then(() => assert.fail("the example has ended")),
    ]);
    await use(address);
  } finally {
    child.kill("SIGTERM");
    assert.deepEqual(await exited, [0, null]);
  }
}

function post(url: string, body: unknown): Promise<Response> {
  const headers = { "content-type": "application/json", connection: "close" };
  return fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
}

test("examples/express", () =>
  serving("express/server.mjs", async (address) => {
    const digest = await post(`${address}/digest`, { text: "Ada was born in London." });
    assert.deepEqual(await digest.json(), { names: ["Ada"], places: ["London"], explanation: ["so"] });
    const refused = await post(`${address}/digest`, { text: 1 });
    assert.deepEqual([refused.status, ((await refused.json()) as { code: string }).code], [422, "invalid_params"]);
    const health = await fetch(`${address}/health`, { headers: { connection: "close" } });
    assert.equal(((await health.json()) as { status: string }).status, "healthy");
  }));

test("examples/stream", () =>
  serving("stream/server.mjs", async (address) => {
    const response = await fetch(`${address}/?question=what`);
    assert.equal(response.headers.get("content-type"), "text/event-stream");
    const events = (await response.text()).split("\n\n").filter(Boolean);
    const end = events.pop();
    assert(events.length > 1, "the answer comes in one piece");
    const text = events.map((event) => JSON.parse(event.replace(/^data: /, ""))).join("");
    assert.equal(text, "a process beside another");
    assert.equal(end, `event: end\ndata: ${JSON.stringify({ answer: text })}`);
  }));

test("examples/agent", async () => {
  const path = await placed("agent/agent.mjs");
  for (const [item, told] of [
    ["tea", '{"euros": 3}'],
    ["gold", "Execution error in price: there is no gold; there are tea, coffee"],
  ]) {
    const { stdout } = await execute(process.execPath, [path, `What does ${item} cost?`], { env: environment() });
    assert.equal(stdout.split("\n")[1], told);
    assert.match(stdout, /^price /);
  }
});
