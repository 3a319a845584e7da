// The calls of a single bridge, on a pool and on a stand-alone worker that the adapter starts.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Adapter, connect, get_adapter } from "../src/index.js";
import { type LM, named, startLM } from "./support/lm.js";
import { PACKAGE, ROOT } from "./support/root.js";
import { failure } from "./support/scripted.js";
import { PYTHON, Sidecar } from "./support/sidecar.js";

const APPLICATIONS = resolve(ROOT, "tests/e2e/applications");

async function theSameCode(adapter: Adapter): Promise<void> {
  const command = "update_session_state";
  assert.equal(await adapter.create_session("chat-1", { language: "en" }), "chat-1");
  await failure(adapter.create_session("chat-1"), "session_exists");
  assert.deepEqual(await adapter.get_session_state("chat-1"), { language: "en" });
  const named = await adapter.execute_in_session("named", command, { set: { b: 1 } });
  assert.deepEqual(named, { keys: ["b"] });
  await Promise.all([
    adapter.execute_in_session(null, command, { set: { c: 1 } }),
    adapter.execute_in_session(undefined, command, { set: { d: 1 } }),
  ]);
  assert.deepEqual(await adapter.get_session_state(), { c: 1, d: 1 });
  for (const session_id of ["chat-1", undefined]) {
    const id = await adapter.create_program({ signature: "question -> answer" }, { session_id });
    assert.deepEqual(await adapter.execute_program(id, { question: "?" }, { session_id }), { answer: "yes" });
  }
  await adapter.end_session("chat-1");
  await adapter.end_session("chat-1");
  assert.deepEqual(await adapter.get_session_state("chat-1"), {}); // it was made anew
  assert.equal((await adapter.health_check()).status, "healthy");
  assert.equal((await adapter.get_stats()).active_sessions, 3);
  await adapter.shutdown(30_000);
  await failure(adapter.health_check(), "connection_lost");
  await adapter.shutdown();
}

describe("get_adapter", () => {
  let lm: LM;
  let model: string;
  before(async () => {
    lm = await startLM(named({ answer: "yes" }));
    model = `[models.m]\nmodel = "openai/m"\napi_base = "${lm.base}"\napi_key = "env:LM_KEY"\nadapter = "json"\ndefault = true\n`;
  });
  after(() => lm.close());

  test("python_pool", async () => {
    const sidecar = await Sidecar.start("tests/e2e/applications", "programs:app", model);
    await theSameCode(get_adapter("python_pool", { socket: sidecar.path }));
    {
      await using client = await connect({ socket: sidecar.path });
      const { sessions } = await client.call<{ sessions: { session: string }[] }>("session.list");
      assert.deepEqual(
        sessions.map(({ session }) => session),
        ["chat-1", "named"],
      ); // the adapter's own has ended with it
    }
    await sidecar.stop();
  });

  test("python_bridge", async () => {
    const folder = await mkdtemp(join(tmpdir(), "dspex-"));
    const config = join(folder, "dspex.toml");
    await writeFile(config, `[pools.default]\napp = "programs:app"\n${model}`);
    process.env.LM_KEY = "k";
    process.env.PYTHONPATH = APPLICATIONS;
    await theSameCode(get_adapter("python_bridge", { python: PYTHON, config }));
    delete process.env.PYTHONPATH;
    await rm(folder, { recursive: true });
  });

  test("a shutdown waits for calls in flight, and no longer than it is told", async () => {
    const sidecar = await Sidecar.start("tests/e2e/applications", "conformance:app");
    const patient = get_adapter("python_pool", { socket: sidecar.path });
    let ending: Promise<void> | undefined;
    patient.client.offer("asked", () => {
      ending = patient.shutdown();
      return "in time";
    });
    assert.equal(await patient.execute_in_session(null, "ask", { question: "asked", value: 1 }), "in time");
    await ending;
    const hasty = get_adapter("python_pool", { socket: sidecar.path });
    const called = hasty.execute_in_session("s", "wait");
    await Promise.all([
      failure(called, "connection_lost"),
      new Promise<void>((resolve) => {
        hasty.client.offer("began", () => resolve(hasty.shutdown(50)));
      }),
    ]);
    await sidecar.stop();
  });

  test("a session that ended elsewhere is made anew after the error", async () => {
    const sidecar = await Sidecar.start("tests/e2e/applications", "conformance:app");
    {
      await using adapter = get_adapter("python_pool", { socket: sidecar.path });
      await adapter.execute_in_session("s", "put", { key: "a", value: 1 });
      await adapter.client.session("s").end();
      await failure(adapter.execute_in_session("s", "put", { key: "a", value: 1 }), "session_not_found");
      assert.deepEqual(await adapter.get_session_state("s"), {});
    }
    await sidecar.stop();
  });
});

test("a bridge that cannot start says so", async () => {
  for (const [options, reason] of [
    [{ python: PYTHON, app: "there_is_no:app" }, /it ended with exit code 3/],
    [{ python: "/no/such/python" }, /it cannot be started: .*ENOENT/],
  ] as const) {
    const adapter = get_adapter("python_bridge", options);
    assert.match((await failure(adapter.health_check(), "connection_lost")).message, reason);
    await adapter.shutdown();
  }
});

test("a bridge does not keep the process, and ends with it however that ends", async () => {
  for (const ending of ["", "process.kill(process.pid, 'SIGKILL')"]) {
    const source = `import { get_adapter } from "dspex";
      const adapter = get_adapter("python_bridge", { python: ${JSON.stringify(PYTHON)} });
      await adapter.health_check();
      console.log(adapter.client.path);
      ${ending}`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", source], {
      cwd: PACKAGE,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let path = "";
    child.stdout.on("data", (data) => {
      path += data;
    });
    await once(child, "close"); // its output has been read, too
    assert.match(path, /^\/.*\/s\n$/);
    const until = performance.now() + 20_000;
    while (existsSync(path.trim())) {
      assert(performance.now() < until, "the bridge goes on");
      await sleep(10);
    }
    if (ending === "") assert(!existsSync(dirname(path.trim())), "its folder is left");
  }
});

test("what there is not", () => {
  assert.throws(() => get_adapter("python_pools" as "python_pool"), /there are python_pool and python_bridge/);
  assert.throws(() => get_adapter("python_pool", { app: "a:b" }), /that the adapter starts/);
});
